"""Is Muon's step orthogonal in each layer, the rest left to Adam, and its state in parts?"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnallm_jax.config import Optimizer
from dnallm_jax.model.gpt import GPT, Params, logical_axes
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import step
from dnallm_jax.training.objectives import Batch, Sums
from dnallm_jax.training.optimizer import make_optimizer
from tests.dnallm_jax.tiny import QUICK, SPEC, numpy_params, quick_jit

MUON = Optimizer(
    "muon", learning_rate=0.01, warmup_steps=0, final_fraction=1.0, weight_decay=0.0, clip=1e9
)
# Axes of a layer's matrix that lie before the edge between its inputs and outputs.
INPUTS = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "gate": 1, "up": 1, "down": 1}


def some_of(tree: Params) -> Params:
    """One matrix of a block of each kind, and what Muon is not for; compiles fast."""
    backbone, blocks = tree["backbone"], tree["backbone"]["blocks"]
    taken = {name: blocks[name] for name in ("wk", "wo", "down", "mlp_norm")}
    return {
        "backbone": {"blocks": taken, "embedding": backbone["embedding"]},
        "lm_head": tree["lm_head"],
    }


@functools.cache
def params() -> Params:
    return some_of(numpy_params(GPT))


@functools.cache
def gradient() -> Params:
    return some_of(numpy_params(GPT, seed=1))


def first_update(o: Optimizer) -> Params:
    tx = make_optimizer(o, 10)
    return quick_jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(gradient(), params())


def not_orthogonal(updates: Params) -> list[str]:
    """The layers whose step is not nearly as long in every direction, or not against the gradient.

    The iteration leaves singular values between 0.7 and 1.2, and few of a square matrix below.
    """
    found = []
    for name, stacked in updates["backbone"]["blocks"].items():
        if name not in INPUTS:
            continue
        gradients = gradient()["backbone"]["blocks"][name]
        for layer, (update, wanted) in enumerate(zip(stacked, gradients, strict=True)):
            rows = int(np.prod(update.shape[: INPUTS[name]]))
            matrix = -np.asarray(update).reshape(rows, -1) / (
                0.01 * 0.2 * max(update.size // rows, rows) ** 0.5
            )
            lengths = np.linalg.svd(matrix, compute_uv=False)
            u, _, v = np.linalg.svd(np.asarray(wanted).reshape(rows, -1), full_matrices=False)
            towards = np.sum(matrix * (u @ v)) / len(lengths)
            if not (0.5 < np.median(lengths) < 1.3 and lengths.max() < 1.3 and towards > 0.6):
                found.append(f"{name} of layer {layer}: {lengths.min():.2f} to {lengths.max():.2f}")
    return found


@functools.cache
def muon_update() -> Params:
    return jax.device_get(first_update(MUON))


def test_each_layers_step_is_orthogonal() -> None:
    assert not_orthogonal(muon_update()) == []


def test_steps_that_are_not_are_caught() -> None:
    adam = jax.device_get(first_update(dataclasses.replace(MUON, name="adamw")))
    assert len(not_orthogonal(adam)) == 6
    blocks = muon_update()["backbone"]["blocks"]
    mixed = {**blocks, "wo": blocks["wo"].swapaxes(1, 3).reshape(blocks["wo"].shape)}
    assert {line.split()[0] for line in not_orthogonal({"backbone": {"blocks": mixed}})} == {"wo"}


def test_the_rest_is_moved_by_adam_and_decay_is_for_matrices() -> None:
    updates = muon_update()
    for leaf in (updates["backbone"]["embedding"], updates["lm_head"]):
        # A first step of Adam with Nesterov's momentum: the sign, by a little less than twice.
        assert 0.009 < float(np.abs(leaf).min()) <= float(np.abs(leaf).max()) < 0.021
    decayed = jax.device_get(first_update(dataclasses.replace(MUON, weight_decay=0.1)))
    moved = jax.tree.map(lambda a, b: a - b, decayed, updates)
    for name in ("wk", "wo", "down"):
        wanted = -0.01 * 0.1 * np.asarray(params()["backbone"]["blocks"][name])
        np.testing.assert_allclose(moved["backbone"]["blocks"][name], wanted, atol=1e-6)
    np.testing.assert_allclose(
        moved["lm_head"], -0.001 * np.asarray(params()["lm_head"]), atol=1e-6
    )
    for leaf in (moved["backbone"]["embedding"], moved["backbone"]["blocks"]["mlp_norm"]):
        assert not leaf.any()


def pull(p: Params, batch: Batch) -> Sums:
    """A cheap objective with gradient() and more as its gradient."""
    size = jnp.mean(batch["size"])
    pulls = jax.tree.map(lambda leaf, g: jnp.sum(leaf * (g + 0.1 * size * leaf)), p, gradient())
    return {"loss": sum(jax.tree.leaves(pulls)), "weight": jnp.ones([])}


def two_steps(sizes: tuple[int, int, int]) -> step.TrainState:
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    tx, axes = make_optimizer(MUON, 10), some_of(logical_axes(GPT, SPEC))
    state, shardings = step.make_state(params, tx, mesh, axes)
    batch = to_device({"size": np.ones(8, np.float32)}, mesh)
    train_step: Any = step.make_train_step(pull, tx, shardings)
    compiled = train_step.lower(state, batch).compile(QUICK)
    for _ in range(2):
        state, _ = compiled(state, batch)
    return state


def test_a_step_on_a_mesh_is_that_on_one_device_with_its_state_in_parts() -> None:
    one, eight = two_steps((1, 1, 1)), two_steps((2, 2, 2))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5),
        *jax.device_get((eight["params"], one["params"])),
    )
    whole = {name: leaf.shape for name, leaf in params()["backbone"]["blocks"].items()}
    held: dict[str, list[tuple[int, ...]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(eight["optimizer"]):
        name = getattr(path[-1], "key", "")
        held.setdefault(str(name), []).append(leaf.addressable_shards[0].data.shape)
    for name, shape in whole.items():
        parts = 1 if "norm" in name else 4  # fsdp=2 x tensor=2
        assert len(held[name]) == (2 if "norm" in name else 1)  # Muon has one moment, Adam two
        assert {int(np.prod(shape)) // int(np.prod(part)) for part in held[name]} == {parts}


def test_the_state_of_adamw_lies_as_optax_says() -> None:
    mesh, tx = make_mesh(2, 2, 2), make_optimizer(Optimizer(), 10)
    axes = some_of(logical_axes(GPT, SPEC))
    ours = step.state_shardings(mesh, axes, tx, params())
    theirs = optax.tree_map_params(
        tx,
        lambda _, lies: lies,
        jax.eval_shape(tx.init, params()),
        ours["params"],
        transform_non_params=lambda _: ours["step"],
    )
    assert ours["optimizer"] == theirs
