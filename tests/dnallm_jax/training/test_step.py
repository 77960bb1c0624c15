"""Is a step the same on any mesh, its work and state in parts, donated and compiled once?"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from data_pipeline.tokenizers import Nucleotide
from dnallm_jax.config import Optimizer
from dnallm_jax.model.gpt import GPT, Execution, GPTSpec, Params, initialise, logical_axes
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.execution import on_mesh
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import objectives, step
from dnallm_jax.training.objectives import Batch, Sums
from dnallm_jax.training.optimizer import make_optimizer
from tests.dnallm_jax.tiny import QUICK, RUN, SPEC, numpy_params, packed, quick_jit

Sizes = tuple[int, int, int, int]  # data, fsdp, tensor, sequence
MESHES: dict[str, Sizes] = {
    "data=8": (8, 1, 1, 1),
    "fsdp=8": (1, 8, 1, 1),
    "tensor=2": (1, 1, 2, 1),
    "data=2 x fsdp=4": (2, 4, 1, 1),
    "fsdp=4 x tensor=2": (1, 4, 2, 1),
    "data=2 x fsdp=2 x tensor=2": (2, 2, 2, 1),
    "sequence=4": (1, 1, 1, 4),
    "data=2 x fsdp=2 x sequence=2": (2, 2, 1, 2),
    "fsdp=2 x tensor=2 x sequence=2": (1, 2, 2, 2),
}
ALONE: Sizes = (1, 1, 1, 1)
LENGTH = 48  # no other size of the network
ROWS = [[30, 1, 9], [48], [20, 20], [], [48], [7] * 6, [40], [16, 32]]
TX = make_optimizer(Optimizer(learning_rate=0.01, warmup_steps=0, clip=0.5), 10)


def start(mesh: Mesh, spec: GPTSpec = SPEC) -> tuple[step.TrainState, Any]:
    return step.make_state(lambda: numpy_params(GPT, spec), TX, mesh, logical_axes(GPT, spec))


def next_token(run: Execution, spec: GPTSpec = SPEC) -> step.Objective:
    bases = Nucleotide().token_bases
    return functools.partial(objectives.next_token, spec=spec, run=run, token_bases=bases)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one update gave, on the host."""

    compiled: jax.stages.Compiled
    sums: dict[str, float]
    gradient: Params  # clipped; Adam's first moment after one update is a tenth of it
    params: Params


@functools.cache
def one_update(sizes: Sizes, accumulate: int = 1, spec: GPTSpec = SPEC) -> Outcome:
    """One update of the GPT on a mesh of as many devices as the sizes say."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    state, shardings = start(mesh, spec)
    batch = to_device(packed(ROWS, LENGTH), mesh)
    objective = next_token(on_mesh(RUN, mesh), spec)
    train_step = step.make_train_step(objective, TX, shardings, accumulate=accumulate)
    compiled = train_step.lower(state, batch).compile(QUICK)
    state, sums = compiled(state, batch)
    moment = jax.device_get(optax.tree.get(state["optimizer"], "mu"))
    return Outcome(
        compiled,
        {key: float(value) for key, value in sums.items()},
        jax.tree.map(lambda m: m / 0.1, moment),
        jax.device_get(state["params"]),
    )


def differences(got: Outcome, wanted: Outcome) -> list[str]:
    """Sums that differ by more than 1e-6 of themselves, gradients by more than 1e-5 of a leaf."""
    found = [
        f"{key}: {got.sums[key]} instead of {value}"
        for key, value in wanted.sums.items()
        if abs(got.sums[key] - value) > 1e-6 * abs(value)
    ]
    flat, _ = jax.tree_util.tree_flatten_with_path(wanted.gradient)
    for (path, leaf), other in zip(flat, jax.tree.leaves(got.gradient), strict=True):
        if np.abs(other - leaf).max() > 1e-5 * np.abs(leaf).max():
            found.append(f"gradient of {jax.tree_util.keystr(path)}")
    return found


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_a_step_on_a_mesh_is_the_step_on_one_device(sizes: Sizes) -> None:
    assert differences(one_update(sizes), one_update(ALONE)) == []


def test_a_step_in_parts_on_a_mesh_is_the_step_on_one_device() -> None:
    sizes = (1, 4, 2, 1)
    got = one_update(sizes, accumulate=2)
    assert differences(got, one_update(ALONE)) == []
    assert strange_transfers(sizes, got.compiled, rows=len(ROWS) // 2) == []


# What looks across the borders of a row's parts: earlier tokens embedded, a window of attention.
FAR = dataclasses.replace(SPEC, lookback=2, window=20)


def test_what_looks_back_sees_across_the_parts_of_a_row() -> None:
    got = one_update((1, 2, 1, 4), spec=FAR)
    assert differences(got, one_update(ALONE, spec=FAR)) == []


def test_targets_that_stop_at_the_parts_of_a_row_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, of_row = one_update(ALONE).sums["loss"], objectives.next_token_targets

    def of_parts(batch: Batch) -> tuple[jax.Array, jax.Array]:
        targets, weights = of_row(batch)
        return targets, weights.at[:, LENGTH // 4 - 1 :: LENGTH // 4].set(0.0)

    monkeypatch.setattr(objectives, "next_token_targets", of_parts)
    sums = quick_jit(next_token(RUN))(numpy_params(GPT), packed(ROWS, LENGTH))
    assert abs(float(sums["loss"]) - whole) > 1e-3 * whole


def test_a_wrong_gradient_is_caught() -> None:
    whole = one_update(ALONE)
    # As if the parts of a batch had been averaged each by itself: 1 in 10,000 off.
    off = dataclasses.replace(whole, gradient=jax.tree.map(lambda g: 1.0001 * g, whole.gradient))
    assert differences(off, whole)


def test_an_update_moves_every_parameter_by_adam() -> None:
    whole = one_update(ALONE)
    before = numpy_params(GPT)
    norm = optax.tree.norm(whole.gradient)
    assert float(norm) == pytest.approx(0.5, rel=1e-5)  # clipped
    assert whole.sums["gradient_norm"] > 0.5  # reported as it was
    flat, _ = jax.tree_util.tree_flatten_with_path(before)
    for (path, old), new, gradient in zip(
        flat, jax.tree.leaves(whole.params), jax.tree.leaves(whole.gradient), strict=True
    ):
        is_matrix = not any(w in jax.tree_util.keystr(path) for w in ("norm", "embedding"))
        direction = gradient / (np.abs(gradient) + 1e-8) + 0.1 * is_matrix * np.asarray(old)
        np.testing.assert_allclose(new, old - 0.01 * direction, rtol=0, atol=2e-6)


def strange_transfers(
    sizes: Sizes, compiled: jax.stages.Compiled, *, rows: int = len(ROWS)
) -> list[str]:
    """Activations [B, L, ...] that devices exchange though each could work on its own rows.

    Only the tensor axis makes sums over activations, and only of the rows of one part of the batch;
    only the sequence axis swaps them, part of a row for part of the heads.
    """
    own_rows, own_length = rows // (sizes[0] * sizes[1]), LENGTH // sizes[3]
    found = []
    for line in compiled.as_text().splitlines():
        kind = re.search(r" (all-gather|all-reduce|all-to-all|collective-permute)\(", line)
        for shape in re.findall(r"f32\[([\d,]+)\]", line[: kind.start()]) if kind else []:
            numbers = [int(number) for number in shape.split(",")]
            is_activation = LENGTH in numbers or own_length in numbers
            is_sum = sizes[2] > 1 and kind[1] == "all-reduce" and numbers[0] == own_rows
            is_swap = sizes[3] > 1 and kind[1] == "all-to-all" and LENGTH not in numbers
            if is_activation and not (is_sum or is_swap):
                found.append(f"{kind[1]} {shape}")
    return found


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_parameters_travel_to_the_rows_not_rows_to_the_parameters(sizes: Sizes) -> None:
    assert strange_transfers(sizes, one_update(sizes).compiled) == []


def test_rows_worked_on_by_every_device_are_caught() -> None:
    mesh = make_mesh(1, 8, 1)
    params = jax.device_put(numpy_params(GPT), meshes.tree_shardings(mesh, logical_axes(GPT, SPEC)))
    loss = jax.jit(next_token(RUN))  # RUN says nothing of the rows
    compiled = loss.lower(params, to_device(packed(ROWS, LENGTH), mesh)).compile(QUICK)
    assert strange_transfers((1, 8, 1, 1), compiled)


# The part of every array that one device of fsdp=4 x tensor=2 holds.
PARTS = {
    "embedding": (6, 8),
    "wq": (2, 8, 2, 8), "wk": (2, 8, 1, 8), "wv": (2, 8, 1, 8), "wo": (2, 2, 8, 8),
    "gate": (2, 8, 32), "up": (2, 8, 32), "down": (2, 32, 8),
    "lm_head": (8, 6),
    "attention_norm": (2, 32), "mlp_norm": (2, 32), "final_norm": (32,),
    "q_norm": (2, 8), "k_norm": (2, 8),
}  # fmt: skip


def not_in_parts(tree: Any) -> list[str]:
    """Leaves named in PARTS of which some device holds something else."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = str(path[-1].key)
        shapes = {shard.data.shape for shard in leaf.addressable_shards}
        if shapes != {PARTS[name]} or len(leaf.addressable_shards) != 8:
            found.append(name)
    return found


def moments(state: step.TrainState) -> list[Params]:
    return [optax.tree.get(state["optimizer"], name) for name in ("mu", "nu")]


def bytes_on_a_device(tree: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_parameters_and_moments_are_born_in_parts() -> None:
    state, shardings = start(make_mesh(1, 4, 2))
    # What a step gives back lies as its state came: `make_train_step` is told the same shardings.
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
    for tree in (state["params"], *moments(state)):
        assert not_in_parts(tree) == []
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state["params"]))
    assert bytes_on_a_device(state["params"]) < total / 6  # 8 but for the embedding and norms
    assert bytes_on_a_device(state) == pytest.approx(3 * bytes_on_a_device(state["params"]), abs=64)


def whole_matrices_made(mesh: Mesh) -> list[str]:
    """Matrices of the GPT that the program which makes its state holds whole on a device."""
    init = functools.partial(initialise, GPT, SPEC, seed=0)
    shardings = step.state_shardings(mesh, logical_axes(GPT, SPEC), TX, jax.eval_shape(init))
    made = jax.jit(functools.partial(step._create, init, TX, False), out_shardings=shardings)
    program = made.lower().compile(QUICK).as_text()
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init))
    return [
        str(path[-1].key)
        for path, leaf in leaves
        if leaf.shape != PARTS[path[-1].key] and f"[{','.join(map(str, leaf.shape))}]" in program
    ]


def test_no_device_ever_holds_a_matrix_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make_mesh(1, 4, 2)
    assert whole_matrices_made(mesh) == []
    monkeypatch.setitem(meshes.RULES, "mlp", ())
    monkeypatch.setitem(meshes.RULES, "embed", ())
    assert {"down", "gate", "up", "embedding", "lm_head"} <= set(whole_matrices_made(mesh))


def test_a_state_held_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(meshes.RULES, "embed", ())
    state, _ = start(make_mesh(1, 4, 2))
    assert "wq" in not_in_parts(state["params"])
    assert "wq" in not_in_parts(moments(state)[1])


def bigram(params: Params, batch: Batch) -> Sums:
    """A cheap objective: what a step does around an objective is tested."""
    logits = params["embedding"][batch["tokens"]] @ params["lm_head"]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"])
    return {"loss": jnp.sum(nats * batch["weights"]), "weight": jnp.sum(batch["weights"])}


MOMENTUM = optax.sgd(0.01, momentum=0.9)


def start_bigram(mesh: Mesh) -> tuple[step.TrainState, Any]:
    rng = np.random.default_rng(0)
    shapes = {"embedding": (6, 32), "lm_head": (32, 6)}
    params = {k: rng.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
    axes = {"embedding": (None, "embed"), "lm_head": ("embed", None)}
    return step.make_state(lambda: jax.tree.map(jnp.asarray, params), MOMENTUM, mesh, axes)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The names of what XLA compiles from here on."""
    events: list[str] = []

    def listen(event: str, _: float, **words: Any) -> None:
        if event.endswith("backend_compile_duration"):
            events.append(str(words))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_steps_compile_once_donate_the_state_and_move_nothing_unasked(
    compilations: list[str],
) -> None:
    mesh = make_mesh(2, 2, 2)
    state, shardings = start_bigram(mesh)
    train_step, evaluate = (
        step.make_train_step(bigram, MOMENTUM, shardings),
        step.make_eval_step(bigram),
    )
    losses = []
    with jax.transfer_guard("disallow"):
        for number in range(5):
            if number == 1:
                compilations.clear()
            old = jax.tree.leaves(state)
            batch = to_device(packed(ROWS, LENGTH, seed=number), mesh)
            state, sums = train_step(state, batch)
            assert all(leaf.is_deleted() for leaf in old)
            assert evaluate(state["params"], batch)["weight"] == sums["weight"]
            losses.append(float(jax.device_get(sums["loss"])))
    assert compilations == []
    assert int(state["step"]) == 5
    assert len(set(losses)) == 5

    # The checks above can fail: another shape compiles, an array of the host is refused.
    shorter = to_device(packed([[20]] * 8, 32), mesh)
    evaluate(state["params"], shorter)
    assert len(compilations) == 1
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed.*transfer"):
        train_step(state, packed(ROWS, LENGTH))


@pytest.mark.parametrize("skip", [True, False], ids=["skip", "planted: no skip"])
def test_a_step_that_is_no_number_moves_nothing_and_is_counted(skip: bool) -> None:
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    state, shardings = start_bigram(mesh)
    good, bad = packed(ROWS, LENGTH), packed(ROWS, LENGTH)
    bad["weights"][0, 3] = np.nan
    update = step.make_train_step(bigram, MOMENTUM, shardings, skip=skip)
    update = update.lower(state, to_device(good, mesh)).compile(QUICK)
    before = jax.device_get(state)
    state, sums = update(state, to_device(bad, mesh))
    after = jax.device_get(state)
    for part in ("params", "optimizer"):
        kept = jax.tree.map(np.array_equal, before[part], after[part])
        assert all(jax.tree.leaves(kept)) == skip
    assert after["step"] == before["step"] + 1
    assert not skip or jax.device_get(sums) == dict.fromkeys(sums, 0.0) | {"skipped": 1.0}
    state, sums = update(state, to_device(good, mesh))
    assert bool(np.isfinite(float(sums["loss"]))) == skip
    assert not skip or sums["skipped"] == 0


def mean_bigram(params: Params, batch: Batch) -> Sums:
    """What each part of a batch would be divided by itself."""
    sums = bigram(params, batch)
    return {"loss": sums["loss"] / sums["weight"], "weight": jnp.ones([])}


def accumulated(objective: step.Objective, parts: int) -> tuple[str, tuple[Sums, Params]]:
    """One update of two devices by a batch in so many parts: its program; sums and parameters."""
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    state, shardings = start_bigram(mesh)
    batch = packed(ROWS, LENGTH)
    chance = np.random.default_rng(1).random(batch["weights"].shape)
    batch["weights"] *= chance * np.linspace(0.1, 1, len(ROWS))[:, None]  # unequal in every part
    train_step = step.make_train_step(objective, MOMENTUM, shardings, accumulate=parts)
    compiled = train_step.lower(state, placed := to_device(batch, mesh)).compile(QUICK)
    state, sums = compiled(state, placed)
    return compiled.as_text(), jax.device_get((sums, state["params"]))


def differ(one: Any, other: Any) -> bool:
    """Whether any number differs by more than 1e-5 of the largest in its array."""
    far = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-5 * np.abs(b).max(), one, other)
    return any(jax.tree.leaves(far))


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_same_update(parts: int) -> None:
    program, outcome = accumulated(bigram, parts)
    assert not differ(outcome, accumulated(bigram, 1)[1])
    moved = re.findall(r"s32\[.* (?:all-gather|all-to-all|collective-permute)\(", program)
    assert moved == [], "tokens travel between devices"


def test_a_mean_of_means_is_caught() -> None:
    (_, (_, whole)), (_, (_, halves)) = (accumulated(mean_bigram, parts) for parts in (1, 2))
    assert differ(halves, whole)


def test_a_penalty_is_minimised_and_not_reported_as_loss() -> None:
    def with_penalty(params: Params, batch: Batch) -> Sums:
        return bigram(params, batch) | {"penalty": 9 * jnp.sum(params["lm_head"] ** 2)}

    (_, (plain, params)), (_, (sums, held)) = (
        accumulated(objective, 1) for objective in (bigram, with_penalty)
    )
    assert sums["loss"] == plain["loss"]
    assert optax.tree.norm(held["lm_head"]) < optax.tree.norm(params["lm_head"])
