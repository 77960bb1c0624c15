"""How much of this machine's arithmetic do training and scoring of a recipe reach?

    python -m benchmarks.bench_step --config=gpt_350m [--rows=8] [--row_length=8192]
        [--remat=none] [--attention=auto] [--calls=10]

For the recipe's network with fresh parameters, on all devices of this machine:

    product   FLOP/s of a square matrix product in the dtype of the activations
    pretrain  the step of `pretrain` on packed rows of three segments: tokens/s, MFU by the formula
              of planning/flops.py, and the same over the product's rate
    score     the step of `score` on windows of the recipe, both strands: bases/s, and the same

Times are medians of single calls, each waited for, after two that are not counted.
"""

import argparse
import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.cutting import batch_rows
from data_pipeline.loader import Batch, layout, stack
from data_pipeline.tokenizers import Tokenizer, from_spec
from dnallm_jax.config import Config, resolve, tokenizer_spec
from dnallm_jax.parallel import execution
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.planning.flops import device_peak, flops_per_token
from dnallm_jax.scoring.batches import log_odds, longest_row
from dnallm_jax.training import members, pretraining


def chosen(options: argparse.Namespace) -> Config:
    """The recipe with what the command line changes of it."""
    c = importlib.import_module(f"configs.{options.config}").get_config()
    with c.unlocked():
        c.pretrain.batch_rows = options.rows or c.pretrain.batch_rows
        c.corpus.row_length = options.row_length or c.corpus.row_length
        c.execution.remat = options.remat or c.execution.remat
        c.execution.attention = options.attention
    return resolve(c)


def median_seconds(call: Callable[[], Any], count: int) -> float:
    """Of `count` calls after two more."""
    times = []
    for _ in range(count + 2):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def product_rate(dtype: str, count: int) -> float:
    """FLOP/s of a square matrix product on one device."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    return 2 * n**3 / median_seconds(lambda: multiply(a, a), count)


def packed_rows(tokenizer: Tokenizer, rows: int, length: int) -> Batch:
    """Rows of random bases, each cut into three segments."""
    rng = np.random.default_rng(0)

    def row() -> Batch:
        cuts = np.sort(rng.choice(np.arange(1, length), 2, replace=False))
        letters = rng.choice(np.frombuffer(b"ACGT", np.uint8), length).tobytes()
        return layout(np.split(tokenizer.encode(letters), cuts), length, tokenizer)

    return stack([row() for _ in range(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="smoke", help="a recipe over single bases in configs/")
    parser.add_argument("--rows", type=int, default=0, help="of a training batch")
    parser.add_argument("--row_length", type=int, default=0)
    parser.add_argument("--remat", default="")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--calls", type=int, default=10)
    options = parser.parse_args()
    config = chosen(options)
    tokenizer = from_spec(tokenizer_spec(config.tokenizer))
    mesh, peak = meshes.make_mesh(**vars(config.mesh)), device_peak()
    run, reasons = execution.choose(**vars(config.execution))
    rate = product_rate(run.dtype, options.calls) * mesh.size
    print(f"device    {mesh.size} x {jax.devices()[0].device_kind}; peak {peak.source}")
    print(*(f"          {reason}" for reason in reasons), sep="\n")
    print(f"product   {rate / 1e12:.3g} TFLOP/s, {run.dtype}")

    program, spec, _ = pretraining.program(config, tokenizer, mesh)
    state, shardings = program.state()
    step = program.train_step(shardings)
    rows, length = config.pretrain.batch_rows, config.corpus.row_length
    batch = meshes.to_device(packed_rows(tokenizer, rows, length), mesh)

    def update() -> Any:
        nonlocal state
        state, sums = step(state, batch)
        return sums

    seconds = median_seconds(update, options.calls)
    flops = flops_per_token(spec, length) * rows * length / seconds
    size = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    print(
        f"pretrain  {config.name}, {size / 1e6:.1f} M parameters, {rows} rows of {length}, remat "
        f"{config.execution.remat}: {seconds * 1e3:.1f} ms, {rows * length / seconds:,.0f} "
        f"tokens/s, MFU {flops / peak.flops:.1%}, {flops / rate:.1%} of the product"
    )
    del state

    # Each device holds the whole network, as in the command.
    mesh = meshes.make_mesh(data=-1, fsdp=1)
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=-1, fsdp=1))
    member = members.gpt_member(config, mesh, execution.on_mesh(run, mesh), None, tokenizer.spec())
    window = config.score.window
    row = longest_row(member.view, window, jax.default_backend())
    count = batch_rows(row, config.score.batch_tokens, mesh.size)
    windows = packed_rows(tokenizer, count, row)
    windows.pop("weights")
    params = jax.jit(lambda: member.network.initialise(0))()
    scored, on_device = log_odds(member.network, mesh), meshes.to_device(windows, mesh)
    seconds = median_seconds(lambda: scored(params, on_device), options.calls)
    cost = flops_per_token(
        spec, row, causal=config.finetune.causal, language_model=False, training=False
    )
    flops = cost * count * row / seconds
    print(
        f"score     {count} rows of {row}: {seconds * 1e3:.2f} ms, "
        f"{count * window / member.view.strands / seconds / 1e6:.3g} Mbases/s on both strands, "
        f"{flops / peak.flops:.1%} of the peak, {flops / rate:.1%} of the product"
    )


if __name__ == "__main__":
    main()
