"""Which parameters move, how far, and when?"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnallm_jax.config import Optimizer
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.gpt import GPT, Params
from dnallm_jax.training.optimizer import decayed, described, make_optimizer, schedule
from tests.dnallm_jax.tiny import numpy_params, quick_jit

MATRICES = {"wq", "wk", "wv", "wo", "gate", "up", "down"}


def names(tree: Params) -> dict[str, object]:
    """Slash-joined path -> leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


@pytest.mark.parametrize(("module", "heads"), [(GPT, {"lm_head"}), (Classifier, set())])
def test_weight_decay_is_for_matrices_of_blocks_and_language_model_head(
    module: type, heads: set[str]
) -> None:
    chosen = {
        name for name, is_decayed in names(decayed(numpy_params(module))).items() if is_decayed
    }
    assert chosen == {f"backbone/blocks/{name}" for name in MATRICES} | heads


def test_the_learning_rate_rises_to_the_peak_and_falls_along_a_cosine() -> None:
    o = Optimizer(learning_rate=0.5, warmup_steps=10, final_fraction=0.2)
    rate = schedule(o, 110)
    for step, wanted in (
        (0, 0.0),
        (1, 0.05),
        (5, 0.25),
        (10, 0.5),
        (60, 0.3),
        (110, 0.1),
        (200, 0.1),
    ):
        assert float(rate(step)) == pytest.approx(wanted, abs=1e-7), step
    quarter = 0.1 + 0.4 * (1 + np.cos(np.pi / 4)) / 2
    assert float(rate(35)) == pytest.approx(quarter, rel=1e-6)
    # The warm-up of a short run is at most half of it, and a run may go without.
    assert float(schedule(o, 6)(3)) == pytest.approx(0.5)
    assert float(schedule(o, 6)(6)) == pytest.approx(0.1)
    assert float(schedule(dataclasses.replace(o, warmup_steps=0), 6)(0)) == pytest.approx(0.5)
    assert np.isfinite(float(schedule(o, 1)(0)))


def test_the_learning_rate_stays_at_the_peak_and_falls_in_the_end() -> None:
    o = Optimizer(
        learning_rate=0.5,
        warmup_steps=10,
        schedule="wsd",
        decay_fraction=0.4,
        final_fraction=0.2,
    )
    rate = schedule(o, 110)
    wanted = {0: 0.0, 5: 0.25, 10: 0.5, 40: 0.5, 70: 0.5, 80: 0.4, 90: 0.3, 110: 0.1, 200: 0.1}
    assert {step: float(rate(step)) for step in wanted} == pytest.approx(wanted, abs=1e-7)
    assert float(schedule(dataclasses.replace(o, schedule="cosine"), 110)(40)) < 0.45
    # Short runs, runs without a warm-up, runs that fall from the peak on.
    assert float(schedule(o, 6)(3)) == pytest.approx(0.5)
    assert float(schedule(o, 6)(6)) == pytest.approx(0.1)
    none = dataclasses.replace(o, warmup_steps=0, decay_fraction=1.0)
    assert [float(schedule(none, 4)(n)) for n in (0, 2, 4)] == pytest.approx([0.5, 0.3, 0.1])
    assert np.isfinite(float(schedule(o, 1)(0)))


CONSTANT = Optimizer(learning_rate=0.01, warmup_steps=0, final_fraction=1.0, clip=1.0)


def small_params() -> Params:
    return {
        "backbone": {"blocks": {"wq": jnp.full((2, 3), 2.0)}, "embedding": jnp.full((4,), 2.0)},
        "head_kernel": jnp.full((3,), 2.0),
    }


def moved(before: Params, after: Params) -> dict[str, float]:
    """How far each leaf moved at most."""
    return {
        name: float(np.abs(a - b).max())
        for (name, a), b in zip(names(after).items(), names(before).values(), strict=True)
    }


def test_decay_alone_shrinks_matrices_and_nothing_else() -> None:
    params = small_params()
    tx = make_optimizer(dataclasses.replace(CONSTANT, weight_decay=0.1), 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = quick_jit(tx.update)(zeros, tx.init(params), params)
    steps = moved(params, optax.apply_updates(params, updates))
    assert steps.pop("backbone/blocks/wq") == pytest.approx(0.01 * 0.1 * 2.0, rel=1e-4)
    assert set(steps.values()) == {0.0}


@pytest.mark.parametrize(
    ("size", "clip", "share"), [(100.0, 1.0, 0.01), (0.5, 1.0, 1.0), (100.0, 0.0, 1.0)]
)
def test_gradients_longer_than_the_clip_are_shortened_together(
    size: float, clip: float, share: float
) -> None:
    params = small_params()
    tx = make_optimizer(dataclasses.replace(CONSTANT, clip=clip), 10)
    entries = sum(leaf.size for leaf in jax.tree.leaves(params))
    gradients = jax.tree.map(lambda p: jnp.full_like(p, size / entries**0.5), params)
    _, state = quick_jit(tx.update)(gradients, tx.init(params), params)
    first_moment = optax.tree.get(state, "mu")
    wanted = jax.tree.map(lambda g: (1 - CONSTANT.beta1) * share * g, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first_moment, wanted)


def steps_until_moving(frozen_steps: int, key: str) -> int:
    """Updates with constant gradients until something under `key` has moved."""
    params = start = small_params()
    tx = make_optimizer(CONSTANT, 10, frozen="backbone", frozen_steps=frozen_steps)
    state, update = tx.init(params), quick_jit(tx.update)
    for number in range(1, 10):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        steps = {name: d for name, d in moved(start, params).items() if name.startswith(key)}
        if any(steps.values()):
            assert all(steps.values()), "parts of it are still frozen"
            return number
    raise AssertionError(f"{key} never moved")


@pytest.mark.parametrize("frozen_steps", [0, 1, 3])
def test_the_frozen_backbone_moves_after_frozen_steps_and_not_before(frozen_steps: int) -> None:
    assert steps_until_moving(frozen_steps, "backbone") == frozen_steps + 1
    assert steps_until_moving(frozen_steps, "head_kernel") == 1


def test_freezing_what_is_not_there_is_an_error() -> None:
    params = small_params()
    tx = make_optimizer(CONSTANT, 10, frozen="bakcbone", frozen_steps=2)
    with pytest.raises(KeyError, match="bakcbone"):
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)


# The same learning rate at other widths


def of_width(width: int) -> Params:
    """Parameters of every kind, and of the names that the rule goes by."""
    return {
        "backbone": {
            "blocks": {
                "wq": jnp.ones((1, width, 2, width // 2)),
                "wo": jnp.ones((1, 2, width // 2, width)),
                "mlp_norm": jnp.ones((1, width)),
            },
            "embedding": jnp.ones((6, width)),
        },
        "lm_head": jnp.ones((width, 6)),
    }


@functools.cache
def first_step(o: Optimizer, width: int, gradient: float = 1.0) -> dict[str, float]:
    """How far each leaf moves in the first update by a constant gradient (root mean square)."""
    params = of_width(width)
    tx = make_optimizer(o, 10)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    updates = quick_jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(gradients, params)
    return {name: float(jnp.sqrt(jnp.mean(u**2))) for name, u in names(updates).items()}


def shares(name: str, base_width: int) -> dict[str, float]:
    """The steps of each leaf at width 32, as shares of those without the rule."""
    plain = dataclasses.replace(CONSTANT, name=name, weight_decay=0.0, clip=1e9)
    scaled = first_step(dataclasses.replace(plain, base_width=base_width), 32)
    return {leaf: scaled[leaf] / size for leaf, size in first_step(plain, 32).items()}


NARROW = ("backbone/blocks/mlp_norm", "backbone/embedding")
WIDE = ("backbone/blocks/wq", "backbone/blocks/wo", "lm_head")


def test_matrices_of_wider_models_take_smaller_steps() -> None:
    wanted = dict.fromkeys(NARROW, 1.0) | dict.fromkeys(WIDE, 1 / 4)
    assert shares("adamw", 8) == pytest.approx(wanted, rel=1e-4)
    assert shares("adamw", 32) == pytest.approx(dict.fromkeys(wanted, 1.0), rel=1e-4)


def test_the_steps_of_muon_shrink_by_the_root_of_the_width() -> None:
    wanted = dict.fromkeys(NARROW, 1.0) | dict.fromkeys(WIDE, 1 / 2) | {"lm_head": 1 / 4}
    assert shares("muon", 8) == pytest.approx(wanted, rel=1e-4), "Adam moves the head"


def test_decay_does_not_depend_on_the_width() -> None:
    o = dataclasses.replace(CONSTANT, base_width=8, weight_decay=0.1)
    steps = first_step(o, 32, gradient=0.0)
    wanted = dict.fromkeys(NARROW, 0.0) | dict.fromkeys(WIDE, 0.01 * 0.1)
    assert steps == pytest.approx(wanted, rel=1e-4)


def test_the_header_says_where_the_learning_rate_turns() -> None:
    o = Optimizer(learning_rate=0.5, warmup_steps=100, schedule="wsd", decay_fraction=0.4)
    assert described(dataclasses.replace(o, base_width=64), 60) == [
        "adamw: learning rate up to 0.5 in 30 steps, stays until step 48, down along a line "
        "to 0.05",
        "gradients clipped to norm 1, decay 0.1 of matrices alone, learning rates from width 64",
    ]
    assert described(dataclasses.replace(o, clip=0.0), 60)[1] == (
        "gradients not clipped, decay 0.1 of matrices alone"
    )
    assert described(Optimizer(), 1000)[0] == (
        "adamw: learning rate up to 0.001 in 100 steps, down along a cosine to 0.0001"
    )


# What is held, and rates by layer


def with_adapters() -> Params:
    both = {"a": jnp.ones((2, 3, 1)), "b": jnp.ones((2, 1, 4))}
    return {**small_params(), "adapters": {"wq": both}}


def after(tx: optax.GradientTransformation, params: Params, steps: int = 3) -> tuple[Params, Any]:
    """Parameters and state after some updates with constant gradients."""
    state, update = tx.init(params), quick_jit(tx.update)
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_is_held_never_moves_and_has_no_moments(name: str) -> None:
    params, o = with_adapters(), dataclasses.replace(CONSTANT, name=name)
    held, state = after(make_optimizer(o, 10, held=("backbone",)), params)
    steps = moved(params, held)
    assert not any(step for key, step in steps.items() if key.startswith("backbone"))
    assert all(step for key, step in steps.items() if not key.startswith("backbone"))
    trained = sum(leaf.size for key, leaf in names(params).items() if "backbone" not in key)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * trained + 3 * (name == "muon")  # whose state has three coefficients
    free, full = after(make_optimizer(o, 10), params)
    assert all(moved(params, free).values()), "planted: nothing is held"
    assert sum(leaf.size for leaf in jax.tree.leaves(full) if leaf.ndim) > moments


def test_the_norm_that_is_clipped_is_of_what_is_trained() -> None:
    params, o = small_params(), dataclasses.replace(CONSTANT, clip=3.0)
    _, state = after(make_optimizer(o, 10, held=("backbone",)), params, steps=1)
    first = jax.tree.leaves(optax.tree.get(state, "mu"))
    np.testing.assert_allclose(first[0], 1 - o.beta1, rtol=1e-5)  # of norm 3^0.5: whole


def test_lower_layers_learn_more_slowly() -> None:
    params = with_adapters()
    o = dataclasses.replace(CONSTANT, weight_decay=0.0)
    plain = names(after(make_optimizer(o, 10), params)[0])
    slower = names(after(make_optimizer(o, 10, layer_decay=0.5), params)[0])
    start = names(params)
    shares = {key: (slower[key] - start[key]) / (plain[key] - start[key]) for key in start}
    np.testing.assert_allclose(shares["head_kernel"], 1.0, rtol=1e-4)
    np.testing.assert_allclose(shares["backbone/embedding"], 0.125, rtol=1e-4)
    for key in ("backbone/blocks/wq", "adapters/wq/a", "adapters/wq/b"):
        np.testing.assert_allclose(shares[key][0], 0.25, rtol=1e-4)
        np.testing.assert_allclose(shares[key][1], 0.5, rtol=1e-4)
    held = make_optimizer(o, 10, held=("backbone",), layer_decay=0.5)
    alone = names(after(held, params)[0])
    for key in ("adapters/wq/a", "head_kernel"):
        np.testing.assert_array_equal(alone[key], slower[key])
