"""Does a step that was compiled for a TPU say what it says, and hold what it must?"""

import dataclasses
import importlib.util
import pathlib
import runpy
from typing import Any

import pytest

from dnallm_jax.commands import steps
from dnallm_jax.config import resolve
from dnallm_jax.planning import collectives, search, topology, trial
from dnallm_jax.planning.collectives import DCN, ICI, Collective
from dnallm_jax.planning.topology import Compiled, TooLarge
from tests.dnallm_jax.planning.test_roofline import SPEC, WORK
from tests.dnallm_jax.planning.test_roofline import topology as made_up

ROOT = pathlib.Path(__file__).resolve().parents[3]


def recipe(**changes: Any) -> Any:
    """`smoke` with whole tiles, five layers and whatever is changed."""
    c = runpy.run_path(str(ROOT / "configs" / "smoke.py"))["get_config"]()
    small = {"model.layers": 5, "model.width": 128, "model.heads": 1, "model.head_width": 128}
    c.update_from_flattened_dict(small | {k.replace("__", "."): v for k, v in changes.items()})
    return resolve(c)


@pytest.fixture(scope="module")
def verdict() -> trial.Verdict:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler of TPUs, is not installed")
    where = topology.describe("v5e:2x2")
    return trial.assess(steps.pretrain(recipe(), where.devices), where)


@pytest.mark.tpu_compiler
def test_what_a_compiled_step_sends(verdict: trial.Verdict) -> None:
    assert verdict.fits
    assert not verdict.endless
    sizes = [trial.on_device(verdict.step.held[name]) for name in ("parameters", "optimizer")]
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.01)
    # Matrices are gathered for the forward pass and again for the backward pass, and their
    # gradients scattered, two bytes a parameter, three quarters of each from other devices.
    parameters = 5 * (128 * 128 * 4 + 3 * 128 * 192)
    assert trial.network_bytes(verdict)[ICI] == pytest.approx(3 * 2 * parameters * 3 / 4, rel=0.25)
    assert trial.network_bytes(verdict)[DCN] == 0
    # No activations go round past the parts of a matrix instead.
    permuted = [c for c in verdict.exchanged if c.kind == "collective-permute"]
    assert collectives.sent(permuted, ICI) < 0.05 * trial.network_bytes(verdict)[ICI]
    assert not collectives.in_one_piece(verdict.exchanged, 2 * parameters)


def test_a_whole_parameter_set_in_one_piece_is_seen() -> None:
    for kind in ("all-gather", "all-reduce"):
        whole = Collective(kind, ICI, 1e6, 4, (0, 1), 1)
        assert collectives.in_one_piece([whole], 1e6) == [whole]
        layer = dataclasses.replace(whole, bytes=2e5, times=5)
        assert not collectives.in_one_piece([layer], 1e6)


@pytest.mark.tpu_compiler
def test_what_a_person_reads(verdict: trial.Verdict) -> None:
    told = "\n".join(trial.lines(verdict, price=1.2))
    for words in (
        "4 chips of 1 host",
        "fits        yes",
        "parameters 0.0",
        "ICI         all-gather",
        "3 x (2 x matrix parameters",
        "% MFU",
        "per billion bases, at $1.2",
        "attention   splash",
    ):
        assert words in told
    assert verdict.bound
    assert 0 < verdict.mfu < 1
    assert verdict.price(1.2) == pytest.approx(
        1.2 * 4 * verdict.bound.seconds / 3600 / (16 * 256) * 1e9
    )


def step(**changes: Any) -> trial.Step:
    work = dataclasses.replace(WORK, **changes)
    return trial.Step("x: pretrain", None, (), {}, work, None, ())  # type: ignore[arg-type]


def test_what_does_not_fit_says_what_to_change() -> None:
    where = made_up("v5e", (2, 4))
    for remat, change in (("none", "execution.remat=block"), ("block", "a smaller batch")):
        told = trial.too_large(trial.Verdict(step(remat=remat), where, 1.0, TooLarge(38.5 * 2**30)))
        assert "38.5 GiB of the 15.75 GiB" in told
        assert change in told
        assert "\n" not in told


def test_a_search_compiles_few_and_takes_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    where, config = made_up("v5e", (2, 4)), recipe()
    tried: list[Any] = []

    def assess(built: trial.Step, _: Any) -> trial.Verdict:
        tried.append(built)
        if len(tried) == 1:
            return trial.Verdict(built, where, 1.0, TooLarge(1e12))
        took = [9.0, 1.0, 2.0][(len(tried) - 2) % 3]
        bound = trial.Bound(took, 0, 0, 0)
        return trial.Verdict(built, where, 1.0, Compiled(1, ""), bound=bound)

    monkeypatch.setattr(trial, "assess", assess)
    said: list[str] = []
    found = search.best(
        config,
        where,
        lambda c: step(rows=c.pretrain.batch_rows, remat=c.execution.remat),
        compiles=4,
        say=said.append,
    )
    assert len(tried) == 4
    assert found.verdict.bound
    assert found.verdict.bound.compute == 1.0
    assert "does not fit" in said[1]
    assert any(word.startswith("--config.pretrain.batch_rows=") for word in found.overrides)


def test_meshes_of_a_search_divide_the_network() -> None:
    meshes = list(search.meshes(SPEC, made_up("v5e", (4, 4), slices=2)))
    assert all(m.data * m.fsdp * m.tensor == 32 for m in meshes)
    assert all(m.data % 2 == 0 for m in meshes)
    assert {m.tensor for m in meshes} == {1}  # of one key head
    assert {m.fsdp for m in meshes} == {1, 2, 4, 8, 16}
