"""Is the best learning rate of a narrow model that of a wide one, by the rule of `base_width`?

    python -m benchmarks.bench_width [--widths=32,128] [--steps=100] [--name=adamw]

Trains GPTs of two layers, whose dimensions grow with the width, on a Markov chain of order 2, at
learning rates a factor of two apart, with the rule (from the first of the widths) and without.
Prints the loss in bits a base over the last tenth of the steps, and for each width the best rate:
with the rule it should not move, without it falls.
"""

import argparse
import functools
import math
from typing import Any

import jax
import numpy as np
import optax

from data_pipeline.loader import layout, stack
from data_pipeline.tokenizers import Nucleotide
from dnallm_jax.config import Optimizer
from dnallm_jax.model.gpt import GPT, Execution, GPTSpec, initialise, logical_axes
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import objectives, step
from dnallm_jax.training.optimizer import make_optimizer

ORDER, ROWS, LENGTH = 2, 8, 64
RATES = [2.0**-n for n in range(8, 2, -1)]


def batches(count: int) -> list[dict[str, np.ndarray]]:
    """Rows of a chain whose next base depends on the last two."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet([0.5] * 4, 4**ORDER).cumsum(axis=1)
    bases = rng.integers(0, 4, (count * ROWS, LENGTH))
    chance = rng.random(bases.shape)
    for at in range(ORDER, LENGTH):
        context = bases[:, at - ORDER : at] @ 4 ** np.arange(ORDER)
        bases[:, at] = (chance[:, at, None] > table[context]).sum(axis=1).clip(0, 3)
    tokens = np.array(Nucleotide().encode(b"ACGT"))[bases]
    rows = [layout([row], LENGTH, Nucleotide()) for row in tokens]
    return [stack(rows[n : n + ROWS]) for n in range(0, len(rows), ROWS)]


def losses(width: int, base_width: int, steps: int, name: str) -> list[float]:
    """Bits a base in the end, for each of the learning rates. One program: an update is the
    learning rate times what it would be at a rate of one."""
    spec = GPTSpec(6, width, 2, width // 16, width // 16, 16, 3 * width)
    o = Optimizer(name=name, learning_rate=1.0, warmup_steps=steps // 5, base_width=base_width)
    scale = optax.inject_hyperparams(optax.scale)(step_size=1.0)
    mesh = make_mesh(devices=jax.devices()[:1])
    program = step.Program(
        mesh,
        functools.partial(initialise, GPT, spec, seed=0),
        logical_axes(GPT, spec),
        optax.chain(make_optimizer(o, steps), scale),
        functools.partial(
            objectives.next_token,
            spec=spec,
            run=Execution(dtype="float32", unroll=True),
            token_bases=Nucleotide().token_bases,
        ),
        skip=True,
    )
    state, shardings = program.state()
    train_step, start = program.train_step(shardings), jax.device_get(state)
    placed = [to_device(batch, mesh) for batch in batches(steps)]
    found = []
    for rate in RATES:
        state = jax.device_put(start, shardings)
        state["optimizer"][1].hyperparams["step_size"] = jax.device_put(
            np.float32(rate), shardings["step"]
        )
        sums: list[Any] = []
        for batch in placed:
            state, told = train_step(state, batch)
            sums.append((told["loss"], told["weight"]))
        last = jax.device_get(sums)[-(steps // 10) :]
        weight = sum(w for _, w in last)
        found.append(float(sum(x for x, _ in last)) / math.log(2) / weight if weight else math.inf)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="32,128")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--name", default="adamw")
    words = parser.parse_args()
    widths = [int(width) for width in words.widths.split(",")]
    print("rule  width   best  bits a base at learning rate " + "  ".join(map(str, RATES)))
    for base in (widths[0], 0):
        for width in widths if base else widths[1:]:  # the first is the same with and without
            bits = losses(width, base, words.steps, words.name)
            best = RATES[int(np.argmin(bits))]
            row = "  ".join(f"{value:.4f}" for value in bits)
            print(f"{'yes' if base else 'no':5} {width:5} {best:7.4f}  {row}", flush=True)


if __name__ == "__main__":
    main()
