"""Are the parameters of a backbone taken from a checkpoint with an account of every leaf?"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.training.checkpoints import restore_part
from dnallm_jax.training.manifest import Damaged
from tests.dnallm_jax.training.saved import (
    EIGHT,
    HEAD,
    flip_one,
    mesh_of,
    params,
    target_on,
    unlike,
)


@pytest.mark.parametrize(("devices", "sizes"), [(8, EIGHT), (2, {"fsdp": 2})])
def test_the_backbone_is_taken_with_an_account_of_every_leaf(
    saved: pathlib.Path, devices: int, sizes: dict[str, int]
) -> None:
    target = target_on(mesh_of(devices, **sizes))
    got, account = restore_part(saved / "20", target, take="backbone", drop=("lm_head",))
    assert unlike(got, {"backbone": params(20)["backbone"], "head": HEAD}) == []
    assert [x.sharding for x in jax.tree.leaves(got)] == [
        x.sharding for x in jax.tree.leaves(target)
    ]
    assert account.loaded == ("backbone/blocks/up", "backbone/embedding")
    assert account.initialised == ("head",)
    assert account.dropped == ("lm_head",)
    assert account.lines() == [
        "loaded        2  backbone/blocks/up, backbone/embedding",
        "initialised   1  head",
        "dropped       1  lm_head",
    ]


def test_a_leaf_that_does_not_fit_is_named(saved: pathlib.Path, copied: pathlib.Path) -> None:
    mesh = mesh_of(1)

    def refused(target: dict[str, Any], *, drop: tuple[str, ...] = ("lm_head",)) -> str:
        with pytest.raises(UserError) as raised:
            restore_part(saved / "20", target, take="backbone", drop=drop)
        return str(raised.value)

    start = f"{saved / '20'} does not fit this model: "
    more = target_on(mesh)
    more["backbone"]["final_norm"] = jnp.ones(16)
    assert refused(more) == start + "missing ['backbone/final_norm'], unexpected -"
    fewer = target_on(mesh)
    del fewer["backbone"]["embedding"]
    assert refused(fewer) == start + "missing -, unexpected ['backbone/embedding']"
    assert refused(target_on(mesh), drop=()) == start + "missing -, unexpected ['lm_head']"
    other = target_on(mesh)
    other["backbone"]["embedding"] = jnp.ones((7, 16))
    assert refused(other) == (
        f"{saved / '20'}: backbone/embedding has shape (6, 16), this model needs (7, 16)"
    )
    told = flip_one(copied / "20")
    with pytest.raises(Damaged, match=told):
        restore_part(copied / "20", target_on(mesh), take="backbone", drop=("lm_head",))


def test_planted_a_restore_that_leaves_a_hole(
    saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax returns the description of a leaf it does not have, and says nothing."""
    restore = ocp.PyTreeCheckpointer.restore

    def forgetful(self: Any, folder: Any, args: Any) -> dict[str, Any]:
        name = "params/backbone/embedding"
        return {**restore(self, folder, args=args), name: args.item[name]}

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", forgetful)
    with pytest.raises(RuntimeError, match="empty place"):
        restore_part(saved / "20", target_on(mesh_of(1)), take="backbone", drop=("lm_head",))
