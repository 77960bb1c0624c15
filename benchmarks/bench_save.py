"""How long does a save hold up training, beside one copy of the state to the host?

    python -m benchmarks.bench_save [--width=512]

Saves a train state of about 25 million parameters (300 MB with both moments) a few times while
steps go on, and prints the time that `save` takes before it returns, the time of copying the same
arrays to the host, and their ratio (the promise: at most 2).
"""

import argparse
import functools
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from dnallm_jax.config import Optimizer
from dnallm_jax.model.gpt import GPT, GPTSpec, initialise, logical_axes
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.training import step
from dnallm_jax.training.checkpoints import Checkpoints
from dnallm_jax.training.optimizer import make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    width = parser.parse_args().width
    spec = GPTSpec(6, width, 8, width // 64, width // 64, 64, 3 * width)
    state, _ = step.make_state(
        functools.partial(initialise, GPT, spec, seed=0),
        make_optimizer(Optimizer(), 100),
        make_mesh(),
        logical_axes(GPT, spec),
    )
    jax.block_until_ready(state)
    leaves = jax.tree.leaves(state)
    size = sum(leaf.nbytes for leaf in leaves)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpoints(pathlib.Path(folder), keep=1, metric="none", identity={})
        copies, stalls, wholes = [], [], []
        for number in range(6):
            start = time.perf_counter()
            copied = [np.array(leaf, copy=True) for leaf in leaves]
            copies.append(time.perf_counter() - start)
            del copied
            start = time.perf_counter()
            kept.save(number, state, {}, {})
            stalls.append(time.perf_counter() - start)
            kept.finish()
            wholes.append(time.perf_counter() - start)
        kept.close()
    copy, stall, whole = (statistics.median(times[1:]) for times in (copies, stalls, wholes))
    print(f"{parameters / 1e6:.1f} M parameters, {size / 1e6:.0f} MB")
    print(f"copy to the host {copy * 1000:.0f} ms")
    print(f"save returns after {stall * 1000:.0f} ms (ratio {stall / copy:.2f})")
    print(f"whole after {whole:.2f} s")


if __name__ == "__main__":
    main()
