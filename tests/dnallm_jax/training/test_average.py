"""Is the running mean of the weights its formula, in parts like them, and the same after a stop?"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dnallm_jax.config import Optimizer
from dnallm_jax.model.gpt import Params
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import step
from dnallm_jax.training.checkpoints import Checkpoints
from dnallm_jax.training.objectives import Batch, Sums
from dnallm_jax.training.optimizer import make_optimizer

STEPS, EMA = 14, 0.5
AXES = {"embedding": (None, "embed"), "lm_head": ("embed", None)}
TX = make_optimizer(Optimizer(learning_rate=0.1, warmup_steps=2, final_fraction=1.0), STEPS)


def bigram(params: Params, batch: Batch) -> Sums:
    logits = params["embedding"][batch["tokens"]] @ params["lm_head"]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"])
    return {"loss": jnp.sum(nats), "weight": jnp.float32(nats.size)}


def weights() -> Params:
    keys = jax.random.split(jax.random.key(0))
    return {
        "embedding": jax.random.normal(keys[0], (6, 32)),
        "lm_head": jax.random.normal(keys[1], (32, 6)),
    }


@functools.cache
def setting() -> tuple[Mesh, Any]:
    """Eight devices, and the step on them."""
    mesh = make_mesh(2, 4, 1)
    shardings = step.state_shardings(mesh, AXES, TX, jax.eval_shape(weights), ema=True)
    return mesh, step.make_train_step(bigram, TX, shardings, ema=EMA)


def fresh() -> step.TrainState:
    return step.make_state(weights, TX, setting()[0], AXES, ema=True)[0]


def go_on(state: step.TrainState, start: int, end: int) -> tuple[step.TrainState, list[Params]]:
    """The state `end` steps after the start of training, and the parameters after each step."""
    mesh, train_step = setting()
    seen = []
    for number in range(start, end):
        tokens = np.random.default_rng(number).integers(0, 6, (8, 16), np.int32)
        state, _ = train_step(state, to_device({"tokens": tokens}, mesh))
        seen.append(jax.device_get(state["params"]))
    return state, seen


def unlike(one: Any, other: Any) -> list[str]:
    """The names of the arrays that are not equal bit for bit."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, a), b in pairs
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]


def wrong_mean(state: step.TrainState, seen: list[Params], most: float) -> float:
    """How far the mean is from that of these parameters, each old one weighing `most` at most."""
    value = np.asarray(weights()["lm_head"], np.float64)
    for number, params in enumerate(seen):
        old = min(most, (1 + number) / (10 + number))
        value = old * value + (1 - old) * params["lm_head"]
    return float(np.abs(state["ema"]["lm_head"] - value).max())


def test_the_mean_is_its_formula_and_lies_in_parts() -> None:
    state = fresh()
    assert unlike(state["ema"], state["params"]) == []
    state, seen = go_on(state, 0, STEPS)
    assert wrong_mean(state, seen, EMA) < 1e-5
    # The check can fail: for another weight, and another order.
    assert wrong_mean(state, seen, EMA + 0.1) > 1e-3
    assert wrong_mean(state, seen[::-1], EMA) > 1e-3
    for name, leaf in state["ema"].items():
        assert leaf.sharding == state["params"][name].sharding
        assert leaf.addressable_shards[0].data.size == leaf.size // 4


def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path: pathlib.Path) -> None:
    def opened() -> Checkpoints:
        return Checkpoints(tmp_path / "checkpoints", keep=1, metric="bits", identity={})

    def resumed(*, forgetting: bool) -> step.TrainState:
        kept = opened()
        restored = kept.restore(fresh())
        kept.close()
        assert restored is not None
        state = restored[0]
        if forgetting:
            state["ema"] = jax.tree.map(jnp.copy, state["params"])
        return go_on(state, 6, STEPS)[0]

    kept = opened()
    state, _ = go_on(fresh(), 0, 6)
    kept.save(6, state, {"kind": "pretrain"}, {})
    kept.close()
    state, _ = go_on(state, 6, STEPS)
    assert unlike(resumed(forgetting=False), state) == []
    assert unlike(resumed(forgetting=True), state) == ["['ema']['embedding']", "['ema']['lm_head']"]
