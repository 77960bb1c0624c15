"""How long does the host take for a step, beside what the device computes?

    python -m benchmarks.bench_dispatch [--steps=300]

The step of `configs/smoke.py` is made once as it is and once so small that computing is next to
nothing, with the same arrays: what is left is the host's work. Prints milliseconds a step, medians:
the call of the jitted function, and a whole turn of the training loop (next batch, call, what is
due, telemetry). The promise: less than 1 ms. Processor time of the calling thread is what the host
spends; on a loaded machine it is the truer figure.
"""

import argparse
import contextlib
import dataclasses
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from configs import smoke
from data_pipeline.loader import layout, stack
from data_pipeline.tokenizers import Nucleotide
from dnallm_jax.config import Config, resolve
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import pretraining
from dnallm_jax.training.loop import Plan, Progress, train
from dnallm_jax.training.speed import Speed
from dnallm_jax.training.telemetry import Telemetry


def tiny(config: Config) -> Config:
    """The same arrays, but next to nothing to compute."""
    model = dataclasses.replace(config.model, width=8, heads=2, kv_heads=1, head_width=4)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, feed_forward=8),
        pretrain=dataclasses.replace(config.pretrain, batch_rows=1),
        corpus=dataclasses.replace(config.corpus, row_length=8),
    )


def made(config: Config) -> tuple[Callable, Any, Any]:
    """The step of a config on one device, its state and a batch."""
    mesh, tokenizer = make_mesh(devices=jax.devices()[:1]), Nucleotide()
    program, _, _ = pretraining.program(config, tokenizer, mesh)
    state, shardings = program.state()
    rng, length = np.random.default_rng(0), config.corpus.row_length
    rows = [
        layout([rng.integers(1, tokenizer.vocab_size, length)], length, tokenizer)
        for _ in range(config.pretrain.batch_rows)
    ]
    step, batch = program.train_step(shardings), to_device(stack(rows), mesh)
    state, sums = step(state, batch)
    jax.block_until_ready(sums)
    return step, state, batch


def calls(config: Config, steps: int) -> tuple[list[float], list[float]]:
    """Milliseconds of wall and of this thread's processor time, of each call alone."""
    step, state, batch = made(config)
    wall, thread = [], []
    for _ in range(steps):
        begun, busy = time.perf_counter(), time.thread_time()
        state, sums = step(state, batch)
        wall.append(1000 * (time.perf_counter() - begun))
        thread.append(1000 * (time.thread_time() - busy))
        jax.block_until_ready(sums)
    return wall, thread


def turns(config: Config, steps: int) -> tuple[list[float], list[float]]:
    """The same of whole turns of the loop, from one call to the next."""
    step, state, batch = made(config)
    wall, thread = [], []

    def timed() -> Generator[Any]:
        for _ in itertools.count():
            wall.append(1000 * time.perf_counter())
            thread.append(1000 * time.thread_time())
            yield batch

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        telemetry = Telemetry(pathlib.Path(folder), start_step=0, main=True)
        stack.callback(telemetry.close)
        telemetry.say = lambda _: None  # type: ignore[method-assign, assignment]
        train(
            state,
            Progress(),
            plan=Plan(steps, config.pretrain.log_every, steps, steps),
            speed=Speed(1.0, 1.0, 1.0),
            batches=timed(),
            left_out=(),
            train_step=step,
            summarise=dict,
            headline=str,
            evaluate=lambda _: {},
            save=lambda *_: None,
            asked_to_stop=lambda _: False,
            telemetry=telemetry,
        )
    return tuple([b - a for a, b in itertools.pairwise(t)] for t in (wall, thread))  # type: ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    config = resolve(smoke.get_config())
    print("ms a step, median (and mean)           wall           of this thread's processor time")
    for name, (wall, thread) in {
        "call, next to nothing to compute": calls(tiny(config), steps),
        "turn of the loop, the same": turns(tiny(config), steps),
        "call, the smoke preset as it is": calls(config, steps // 10),
    }.items():
        figures = (
            f"{statistics.median(t):7.3f} ({statistics.mean(t):.3f})" for t in (wall, thread)
        )
        print(f"{name:36}" + "      ".join(figures))


if __name__ == "__main__":
    main()
