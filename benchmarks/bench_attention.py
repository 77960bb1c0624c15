"""What does attention cost in memory and time as rows grow, and is it right on this machine?

    python -m benchmarks.bench_attention [--backends=blockwise,reference] [--lengths=4096,8192]
        [--heads=4] [--kv_heads=2] [--head_width=64] [--rows=1] [--dtype=auto] [--window=0]

For each back end that runs here, the gradient of causal attention over packed rows of two segments:

    memory    temporary bytes of the compiled program, and how much more than at the length before
    time      seconds of a call, and how much more than at the length before
    of matmul its arithmetic in a second, over that of square matrix products in this process:
              3.5 x 2 x L^2 x heads x head width, masked parts of a row counted half (causal), and
              other segments not at all
    off       largest difference from the reference in float32, values and gradients, at L = 1,024,
              as a share of the largest value

On a GPU the line `cudnn` is what cuDNN does with a causal mask alone: it knows no segments.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dnallm_jax.model.attention import attention
from dnallm_jax.parallel.execution import choose

Attend = Callable[..., jax.Array]


def arrays(options: argparse.Namespace, length: int, dtype: str) -> list[jax.Array]:
    """Queries, keys, values of unit variance, and segment ids: a third of each row and the rest."""
    rng = np.random.default_rng(0)
    shapes = (
        (options.rows, length, heads, options.head_width)
        for heads in (options.heads, options.kv_heads, options.kv_heads)
    )
    ids = np.where(np.arange(length) < length // 3, 1, 2).astype(np.int32)
    drawn = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    return [*drawn, jnp.asarray(np.tile(ids, (options.rows, 1)))]


def gradient(attend: Attend) -> Callable[..., tuple[jax.Array, tuple[jax.Array, ...]]]:
    """(q, k, v, ids) -> the output and three gradients, of a sum that weighs every value."""

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> tuple[jax.Array, Any]:
        out = attend(q, k, v, ids)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    def both(*given: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*given)
        return out, gradients

    return both


def seconds(function: Callable[..., Any], *given: Any, repeats: int = 5) -> float:
    jax.block_until_ready(function(*given))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*given))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_rate(dtype: str) -> float:
    """FLOP/s of square products of this type, the best of a few."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), dtype)
    return 2 * n**3 / min(seconds(jax.jit(jnp.matmul), a, a, repeats=1) for _ in range(5))


def flop(options: argparse.Namespace, length: int) -> float:
    parts = (length // 3) ** 2 + (length - length // 3) ** 2
    return 3.5 * 2 * options.rows * options.heads * options.head_width * parts


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, _: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def furthest(got: Any, wanted: Any) -> float:
    def off(a: jax.Array, b: jax.Array) -> float:
        return float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))

    return max(jax.tree.leaves(jax.tree.map(off, got, wanted)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="")
    parser.add_argument("--lengths", default="4096,8192,16384")
    for name, default in (("heads", 4), ("kv_heads", 2), ("head_width", 64), ("rows", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    run, _ = choose(dtype=options.dtype)
    names = options.backends.split(",") if options.backends else [run.attention]
    back_ends: dict[str, Attend] = {
        name: functools.partial(attention, backend=name, window=options.window) for name in names
    }
    if jax.default_backend() == "gpu" and not options.window:
        back_ends["cudnn"] = cudnn
    limit = matmul_rate(run.dtype)
    print(f"{jax.devices()[0].device_kind}, {run.dtype}, matmul {limit / 1e12:.3f} TFLOP/s")
    plain = gradient(functools.partial(attention, backend="reference", window=options.window))
    for name, attend in back_ends.items():
        if name != "cudnn":
            given = arrays(options, 1024, run.dtype)
            floats = [x.astype(jnp.float32) for x in given[:3]]
            with jax.default_matmul_precision("highest"):
                wanted = jax.jit(plain)(*floats, given[3])
            print(f"{name:>10} off {furthest(jax.jit(gradient(attend))(*given), wanted):.2e}")
        memory, duration = 0, 0.0
        for length in map(int, options.lengths.split(",")):
            given = arrays(options, length, run.dtype)
            compiled = jax.jit(gradient(attend)).lower(*given).compile()
            before = memory, duration
            memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
            duration = seconds(compiled, *given)
            more = [
                f" (x {new / old:.2f})" if old else ""
                for new, old in zip((memory, duration), before, strict=True)
            ]
            share = flop(options, length) / duration / limit
            print(
                f"{name:>10} L={length:<7} memory {memory / 1e6:9.1f} MB{more[0]}  "
                f"time {duration * 1e3:9.2f} ms{more[1]}  of matmul {share:.1%}"
            )


if __name__ == "__main__":
    main()
