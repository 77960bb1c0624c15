"""Do four steps of training still give the very numbers they gave before?

GOLDEN holds, for both objectives, what the first step reports and the loss that the fourth starts
from, on fixed parameters and batches (numpy's, so that no version of JAX changes them), in float32.
They are the same to 1e-5 on one CPU device and on eight, with jax 0.10.2 and jax 0.12.0.1
(measured: to 4e-7). GOLDEN_START is of the parameters that a seed draws, which is left to JAX.

A number that moves means that the same data now train another model: the network, the loss, the
optimizer or its schedule changed. If that was meant, say so in CHANGELOG.md (runs started before
can no longer be repeated) and take the new numbers from

    JAX_PLATFORMS=cpu python -m tests.dnallm_jax.training.test_golden
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from data_pipeline.tokenizers import Nucleotide
from dnallm_jax.config import Optimizer
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.gpt import GPT, logical_axes
from dnallm_jax.model.network import gpt_network
from dnallm_jax.parallel.execution import on_mesh
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import objectives, step
from dnallm_jax.training.optimizer import make_optimizer
from tests.dnallm_jax.tiny import QUICK, RUN, SPEC, fresh_params, numpy_params, packed

GOLDEN: dict[str, dict[str, float]] = {
    "next token": {
        "loss": 656.44519,
        "weight": 293.0,
        "gradient_norm": 3.4868393,
        "loss_after_3_steps": 515.51782,
    },
    "virus": {
        "loss": 4.4503088,
        "weight": 6.5,
        "gradient_norm": 1.8711356,
        "loss_after_3_steps": 6.6750851,
    },
}
GOLDEN_START = {"first": -0.42097196, "length": 28.945545}
ROWS = [[64], [30, 1, 9], [20, 20, 24], [], [48, 16], [7] * 6, [60], [16, 32]]
OPTIMIZER = Optimizer(learning_rate=3e-3, warmup_steps=2)


def batch(number: int) -> dict[str, np.ndarray]:
    """Batch `number` of either objective; one row of it is nothing but padding."""
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 2, len(ROWS)).astype(np.float32)
    weights = np.array([1, 1, 1, 0, 1, 0.5, 1, 1], np.float32)
    tokens = packed(ROWS, 64, seed=number)
    return {**tokens, "labels": labels, "example_weights": weights}


@functools.cache
def compiled_step(objective: str, sizes: tuple[int, int, int]) -> tuple[Mesh, Any, Any, Callable]:
    """A mesh of as many devices as the sizes say, a state on the host, its shardings, the step."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    bases = Nucleotide().token_bases
    run = on_mesh(RUN, mesh)
    next_token = functools.partial(objectives.next_token, token_bases=bases, spec=SPEC, run=run)
    logits = gpt_network(SPEC, run, pooling="mean", causal=False).logits
    of_batch, module, frozen_steps = {
        "next token": (next_token, GPT, 0),
        "virus": (functools.partial(objectives.virus, logits=logits), Classifier, 1),
    }[objective]
    tx = make_optimizer(OPTIMIZER, 10, frozen="backbone", frozen_steps=frozen_steps)
    axes = logical_axes(module, SPEC)
    state, shardings = step.make_state(lambda: numpy_params(module), tx, mesh, axes)
    train_step = step.make_train_step(of_batch, tx, shardings)
    compiled = train_step.lower(state, to_device(batch(0), mesh)).compile(QUICK)
    return mesh, jax.device_get(state), shardings, compiled


def figures(objective: str, sizes: tuple[int, int, int], *, size: float = 1.0) -> dict[str, float]:
    """What GOLDEN holds, with all parameters `size` times as large at the start."""
    mesh, state, shardings, train_step = compiled_step(objective, sizes)
    params = jax.tree.map(lambda leaf: (size * leaf).astype(np.float32), state["params"])
    state = jax.device_put({**state, "params": params}, shardings)
    reports = []
    for number in range(4):
        state, sums = train_step(state, to_device(batch(number), mesh))
        reports.append(sums)
    first = {name: float(reports[0][name]) for name in ("loss", "weight", "gradient_norm")}
    return {**first, "loss_after_3_steps": float(reports[3]["loss"])}


@pytest.mark.parametrize(
    ("objective", "sizes"),
    [("next token", (1, 1, 1)), ("next token", (2, 2, 2)), ("virus", (2, 2, 2))],
)
def test_training_gives_the_numbers_it_gave_before(
    objective: str, sizes: tuple[int, int, int]
) -> None:
    assert figures(objective, sizes) == pytest.approx(GOLDEN[objective], rel=1e-5)


def test_a_change_of_one_in_a_thousand_is_caught() -> None:
    got, wanted = figures("next token", (1, 1, 1), size=1.001), GOLDEN["next token"]
    moved = {name for name in wanted if got[name] != pytest.approx(wanted[name], rel=1e-5)}
    assert moved == {"loss", "gradient_norm", "loss_after_3_steps"}


def start() -> dict[str, float]:
    """What GOLDEN_START holds: the first entry of `wq`, and the norm of all parameters."""
    params = fresh_params(GPT)
    first = params["backbone"]["blocks"]["wq"].ravel()[0]
    return {"first": float(first), "length": float(optax.tree.norm(params))}


def test_a_seed_draws_the_parameters_it_drew_before() -> None:
    assert start() == pytest.approx(GOLDEN_START, rel=1e-5)


if __name__ == "__main__":
    for name in ("next token", "virus"):
        print(f"{name}: {figures(name, (1, 1, 1))}")
    print(f"start: {start()}")
