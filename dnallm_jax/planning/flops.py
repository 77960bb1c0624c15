"""How many floating-point operations does a token cost, and what can this chip do at most?

The formula of MFU (Chowdhery et al. 2022, arXiv:2204.02311), causal attention counted half,
recomputation not counted:

  forward FLOPs per token = 2 * (matrix parameters) + 4 * layers * heads * head_width * context
  training                = 3 * forward
  context                 = row length, or the tokens within the window; half of them if causal

Matrix parameters are those of the blocks and of the head; an embedding is a look-up and costs
nothing. Rows of several segments attend to less than this counts, so that MFU is comparable between
data sets.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp

from dnallm_jax.model.gpt import GPTSpec

# bf16 dense peak FLOP/s of one JAX device (published by the makers). A 7x chip shows up as two.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1155e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


@dataclasses.dataclass(frozen=True)
class Peak:
    """FLOP/s of all devices together, and where the number comes from."""

    flops: float
    source: str


def matrix_parameters(spec: GPTSpec, *, language_model: bool) -> int:
    """Parameters that take part in matrix products, per token."""
    attention = spec.width * spec.head_width * 2 * (spec.heads + spec.kv_heads)
    mlp = 3 * spec.width * spec.feed_forward
    head = spec.width * spec.vocab_size if language_model else 0
    return spec.layers * (attention + mlp) + head


def context(row_length: int, *, causal: bool, window: int = 0) -> float:
    """Tokens that a token of a row of one segment sees, on average; half of them if causal.

    Args:
      window: above 0, those fewer than so many places away, itself among them; there are fewer
        towards the ends of the row.
    """
    reach = min(window or row_length, row_length)
    seen = 2 * reach - 1 - reach * (reach - 1) / row_length
    return seen / 2 if causal else seen


def formula(*, causal: bool = True, training: bool = True, window: int = 0) -> str:
    """The formula of `flops_per_token`, in words."""
    seen = "(tokens within the window)" if window else "row"
    return (
        f"{'3 x ' if training else ''}(2 x matrix parameters + 4 x layers x heads x head width x "
        f"{seen}{'/2' if causal else ''})"
    )


def flops_per_token(
    spec: GPTSpec,
    row_length: int,
    *,
    causal: bool = True,
    language_model: bool = True,
    training: bool = True,
) -> float:
    """FLOPs of one token of a row, by the formula above."""
    seen = context(row_length, causal=causal, window=spec.window)
    matrices = 2.0 * matrix_parameters(spec, language_model=language_model)
    attention = 4 * spec.layers * spec.heads * spec.head_width * seen
    return (3 if training else 1) * (matrices + attention)


def device_peak() -> Peak:
    """The peak of the devices in use: published for known accelerators, measured for a CPU."""
    devices = jax.devices()
    kind = devices[0].device_kind
    for name in sorted(PEAKS, key=len, reverse=True):
        if kind.startswith(name):
            return Peak(PEAKS[name] * len(devices), f"{len(devices)} x {kind}, published bf16 peak")
    # Fake CPU devices share the host's cores; any other unknown devices are as many as they seem.
    count = 1 if devices[0].platform == "cpu" else len(devices)
    rate = _matmul_rate() * count
    return Peak(rate, f"{count} x {kind}: float32 matrix product of 1,024 measured at start")


def _matmul_rate() -> float:
    """FLOP/s of a 1,024-wide float32 matrix product on one device, the best of a few."""
    n = 1024
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best
