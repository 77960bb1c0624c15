"""Does a step that was compiled for a TPU say what it says, and hold what it must?"""

import dataclasses
import importlib.util
import itertools
import pathlib
import runpy
from typing import Any

import pytest

from data_pipeline.errors import UserError
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
    gathered = [c for c in verdict.exchanged if c.kind == "all-gather"]  # twice: not kept
    assert collectives.sent(gathered, ICI) == pytest.approx(2 * 2 * parameters * 3 / 4, rel=0.05)
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
    # So short a step that exchanges hold it up: each mesh has an estimate of its own.
    where, config = made_up("v5e", (2, 4)), recipe(model__heads=4, model__kv_heads=4)
    tried: list[Any] = []
    configs: list[Any] = []

    def assess(built: trial.Step, _: Any) -> trial.Verdict:
        tried.append(built)
        if len(tried) == 1:
            return trial.Verdict(built, where, 1.0, TooLarge(1e12))
        took = [40.0, 20.0, 30.0][len(tried) - 2]  # times what the arithmetic needs at its peak
        bound = trial.Bound(took * built.work.flops / (8 * where.chip.flops), 0, 0, 0)
        return trial.Verdict(built, where, 1.0, Compiled(1, ""), bound=bound)

    def build(built: Any) -> trial.Step:
        configs.append(built)
        return step(rows=built.pretrain.batch_rows)

    monkeypatch.setattr(trial, "assess", assess)
    said: list[str] = []
    found = search.best(
        config,
        steps.network(config),
        where,
        build,
        compiles=4,
        say=said.append,
    )
    assert len(tried) == 4
    assert found.verdict.step is tried[2]
    assert found.verdict.mfu == pytest.approx(1 / 20)
    # What does not fit is followed by something smaller, what fits by another mesh.
    assert "does not fit: it wants 931.3 GiB" in said[3]
    fitting = [c.mesh for c in configs[1:]]
    assert all(one != other for one, other in itertools.combinations(fitting, 2))
    assert {c.pretrain.batch_rows for c in configs} == {config.pretrain.batch_rows}
    assert any(word.startswith("--config.pretrain.batch_rows=") for word in found.overrides)


def test_a_search_ends_where_nothing_promises_more(monkeypatch: pytest.MonkeyPatch) -> None:
    where, config = made_up("v5e", (2, 4)), recipe()
    seconds = WORK.flops / (8 * where.chip.flops)  # at the peak
    monkeypatch.setattr(
        trial,
        "assess",
        lambda built, _: trial.Verdict(
            built, where, 1.0, Compiled(1, ""), bound=trial.Bound(seconds, 0, 0, 0)
        ),
    )
    said: list[str] = []
    spec = steps.network(config)
    search.best(config, spec, where, lambda _: step(), compiles=4, say=said.append)
    assert [line for line in said if line.startswith("1 of 4")]
    assert not [line for line in said if line.startswith("2 of 4")]
    assert said[-1].endswith("nothing that is left promises more")


def test_a_search_goes_on_to_what_promises_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # By a hair: first comes what would be as fast and loses least if nothing overlapped.
    where = made_up("v5e", (2, 4))
    config = resolve(runpy.run_path(str(ROOT / "configs" / "gpt_125m.py"))["get_config"]())
    tried: list[Any] = []

    def build(built: Any) -> trial.Step:
        tried.append(built.execution.remat)
        return step()

    seconds = WORK.flops / (8 * where.chip.flops) / 0.833
    monkeypatch.setattr(
        trial,
        "assess",
        lambda built, _: trial.Verdict(
            built, where, 1.0, Compiled(1, ""), bound=trial.Bound(seconds, 0, 0, 0)
        ),
    )
    spec = steps.network(config)
    search.best(config, spec, where, build, compiles=2, say=lambda _: None)
    assert tried == ["dots", "none"]


def test_a_search_keeps_the_batch_where_it_can() -> None:
    where, config = made_up("v5e", (2, 4)), recipe(pretrain__batch_rows=48)
    found = list(search.candidates(config, steps.network(config), where))
    for c in found:
        training, groups = c.config.pretrain, c.config.mesh.data * c.config.mesh.fsdp
        each = training.batch_rows // training.accumulate
        assert each % groups == 0
        assert training.batch_rows == (each if 48 % each else 48)
    parts = [c for c in found if c.config.pretrain.accumulate == 6]
    whole = [c for c in found if c.config.pretrain.batch_rows == 64]
    assert parts
    assert whole
    # Of a part as large, gradients are summed beside it; exchanged, they are six times.
    one = parts[0]
    alone = dataclasses.replace(one.config.pretrain, batch_rows=8, accumulate=1)
    part = search.estimate(
        dataclasses.replace(one.config, pretrain=alone), steps.network(config), where
    )
    assert part.memory < one.memory
    assert one.bound.ici == pytest.approx(6 * part.bound.ici)
    assert one.bound.compute == pytest.approx(6 * part.bound.compute)


def test_meshes_of_a_search_divide_the_network() -> None:
    meshes = list(search.meshes(SPEC, made_up("v5e", (4, 4), slices=2)))
    assert all(m.data * m.fsdp * m.tensor == 32 for m in meshes)
    assert all(m.data % 2 == 0 for m in meshes)
    assert {m.tensor for m in meshes} == {1}  # of one key head
    assert {m.fsdp for m in meshes} == {1, 2, 4, 8, 16}
    # Rows stay split as asked, among devices of one slice, which share the heads.
    split = list(search.meshes(SPEC, made_up("v5e", (4, 4), slices=2), sequence=2))
    assert {(m.data * m.fsdp * m.tensor, m.sequence) for m in split} == {(16, 2)}
    for sequence in (-1, 3, 4):
        assert not list(search.meshes(SPEC, made_up("v5e", (4, 4)), sequence=sequence))
        with pytest.raises(UserError, match="sequence to a number that does"):
            search.best(
                recipe(mesh__sequence=sequence, mesh__fsdp=1),
                SPEC,
                made_up("v5e", (4, 4)),
                lambda _: step(),
                compiles=1,
                say=str,
            )
