"""Which earlier tokens of its own segment does each token look at? One function, several back ends.

Every back end honours segment ids exactly: a token attends only to tokens of its own segment, and a
padding token (segment 0) attends to nothing and gets zeros, so one segment never moves a bit of
another. Where each runs, and which is chosen, is settled in `parallel/execution.py`.
"""

import functools
from collections.abc import Callable

from jax import Array

from dnallm_jax.model.blockwise import blockwise
from dnallm_jax.model.flash import flash
from dnallm_jax.model.reference import reference
from dnallm_jax.model.splash import splash

BACKENDS: dict[str, Callable[..., Array]] = {
    "reference": reference,
    "blockwise": blockwise,
    "headwise": functools.partial(blockwise, alone=True),
    "splash": splash,
    "flash": flash,
}


def attention(
    q_BLHh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    *,
    causal: bool = True,
    window: int = 0,
    backend: str = "blockwise",
) -> Array:
    """Scaled dot-product attention within segments.

    Args:
      q_BLHh: queries, [B, L, H, h], any float dtype (softmax is in float32).
      k_BLKh, v_BLKh: keys and values, [B, L, K, h]; H is a multiple of K (grouped-query attention,
        Ainslie et al. 2023, arXiv:2305.13245): head n reads key/value head n // (H/K).
      segment_ids_BL: int32 [B, L], 0 for padding.
      causal: whether a token sees only itself and earlier tokens of its segment, or all of them.
      window: above 0, only tokens fewer than so many places away are seen, itself among them.
      backend: a name in BACKENDS.

    Returns:
      [B, L, H, h] in the dtype of v; zeros at padding.
    """
    B, L, H, h = q_BLHh.shape
    K = k_BLKh.shape[2]
    q_BLKGh = (q_BLHh * (h**-0.5)).reshape(B, L, K, H // K, h)
    out = BACKENDS[backend](q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal=causal, window=window)
    return out.reshape(B, L, H, h)
