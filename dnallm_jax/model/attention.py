"""Which earlier tokens of its own segment does each token look at? One function, several back ends.

Every back end honours segment ids exactly: a token attends only to tokens of its own segment, and a
padding token (segment 0) attends to nothing and gets zeros, so one segment never moves a bit of
another.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Residuals = tuple[Array, ...]  # what the forward pass keeps for the backward pass

# Large enough that exp() of it is 0 in float32, small enough that the difference of two is finite.
_MASKED = -1e30
_BLOCK = 128  # queries; on CPU faster than 64 and 256 at L = 512, see benchmarks/LOG.md


def _scores_to_output(q_BLKGh: Array, k_BMKh: Array, v_BMKh: Array, mask_BLM: Array) -> Array:
    """Softmax attention in float32 over the allowed positions; zeros where none is allowed."""
    s_BKGLM = jnp.einsum("BLKGh,BMKh->BKGLM", q_BLKGh, k_BMKh, preferred_element_type=jnp.float32)
    mask = mask_BLM[:, None, None]
    s_BKGLM = jnp.where(mask, s_BKGLM, _MASKED)
    top = jax.lax.stop_gradient(jnp.max(s_BKGLM, axis=-1, keepdims=True))
    p_BKGLM = jnp.where(mask, jnp.exp(s_BKGLM - top), 0.0)
    total = jnp.sum(p_BKGLM, axis=-1, keepdims=True)
    p_BKGLM = p_BKGLM / jnp.where(total > 0, total, 1.0)
    return jnp.einsum("BKGLM,BMKh->BLKGh", p_BKGLM.astype(v_BMKh.dtype), v_BMKh)


def _mask(q_segments_BL: Array, k_segments_BM: Array, q_offset: int, causal: bool) -> Array:
    """bool[B, L, M]: same segment, not padding, and (causal) not later in the row."""
    allowed = (q_segments_BL[:, :, None] == k_segments_BM[:, None, :]) & (
        q_segments_BL[:, :, None] > 0
    )
    if causal:
        rows = q_offset + jnp.arange(q_segments_BL.shape[1])
        allowed &= rows[:, None] >= jnp.arange(k_segments_BM.shape[1])[None, :]
    return allowed


def reference(
    q_BLKGh: Array, k_BLKh: Array, v_BLKh: Array, segment_ids_BL: Array, *, causal: bool
) -> Array:
    """The plain definition, with all L x L scores at once: what every other back end must equal."""
    mask = _mask(segment_ids_BL, segment_ids_BL, 0, causal)
    return _scores_to_output(q_BLKGh, k_BLKh, v_BLKh, mask)


def _blocks(length: int, causal: bool) -> list[tuple[int, int, int]]:
    """(first query, last query + 1, keys they may see) of every block of queries."""
    edges = [(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]
    return [(start, stop, stop if causal else length) for start, stop in edges]


def _block_scores(
    q_BKGLh: Array,
    k_BKhM: Array,
    segments_BL: Array,
    start: int,
    stop: int,
    seen: int,
    causal: bool,
) -> tuple[Array, Array]:
    """Scores float32 [B, K, G, stop - start, seen] of a block of queries, and which are allowed."""
    B, K, G, _, h = q_BKGLh.shape
    q = q_BKGLh[:, :, :, start:stop].reshape(B, K, -1, h)
    s = jnp.matmul(q, k_BKhM[..., :seen], preferred_element_type=jnp.float32)
    mask = _mask(segments_BL[:, start:stop], segments_BL[:, :seen], start, causal)[:, None, None]
    return s.reshape(B, K, G, stop - start, seen), mask


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blockwise(
    q_BLKGh: Array, k_BLKh: Array, v_BLKh: Array, segment_ids_BL: Array, causal: bool
) -> Array:
    return _blockwise_forward(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal)[0]


def _blockwise_forward(
    q_BLKGh: Array, k_BLKh: Array, v_BLKh: Array, segment_ids_BL: Array, causal: bool
) -> tuple[Array, Residuals]:
    B, L, K, G, h = q_BLKGh.shape
    q_BKGLh = q_BLKGh.transpose(0, 2, 3, 1, 4)
    k_BKhM, v_BKMh = k_BLKh.transpose(0, 2, 3, 1), v_BLKh.transpose(0, 2, 1, 3)
    outputs, logs = [], []
    for start, stop, seen in _blocks(L, causal):
        s, mask = _block_scores(q_BKGLh, k_BKhM, segment_ids_BL, start, stop, seen, causal)
        s = jnp.where(mask, s, _MASKED)
        top = jnp.max(s, axis=-1, keepdims=True)
        p = jnp.where(mask, jnp.exp(s - top), 0.0)
        total = jnp.sum(p, axis=-1, keepdims=True)
        safe = jnp.where(total > 0, total, 1.0)
        p = p.astype(v_BKMh.dtype).reshape(B, K, -1, seen)
        o = jnp.matmul(p, v_BKMh[:, :, :seen], preferred_element_type=jnp.float32)
        outputs.append(o.reshape(B, K, G, stop - start, h) / safe)
        logs.append(top + jnp.log(safe))
    o_BKGLh = jnp.concatenate(outputs, axis=3)
    o_BLKGh = o_BKGLh.transpose(0, 3, 1, 2, 4).astype(v_BLKh.dtype)
    residuals = (q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, o_BLKGh, jnp.concatenate(logs, axis=3))
    return o_BLKGh, residuals


def _blockwise_backward(
    causal: bool, residuals: Residuals, do_BLKGh: Array
) -> tuple[Array, Array, Array, None]:
    q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, o_BLKGh, log_BKGL1 = residuals
    B, L, K, G, h = q_BLKGh.shape
    dtype = v_BLKh.dtype
    # sum over keys of p * dp, known from the output alone (Dao et al. 2022, arXiv:2205.14135)
    overlap = jnp.sum(do_BLKGh.astype(jnp.float32) * o_BLKGh, axis=-1, keepdims=True)
    overlap_BKGL1 = overlap.transpose(0, 2, 3, 1, 4)
    q_BKGLh, do_BKGLh = q_BLKGh.transpose(0, 2, 3, 1, 4), do_BLKGh.transpose(0, 2, 3, 1, 4)
    k_BKMh, k_BKhM = k_BLKh.transpose(0, 2, 1, 3), k_BLKh.transpose(0, 2, 3, 1)
    v_BKhM = v_BLKh.transpose(0, 2, 3, 1)
    dk = jnp.zeros(k_BKMh.shape, jnp.float32)
    dv = jnp.zeros(k_BKMh.shape, jnp.float32)
    dq = []
    for start, stop, seen in _blocks(L, causal):
        s, mask = _block_scores(q_BKGLh, k_BKhM, segment_ids_BL, start, stop, seen, causal)
        p = jnp.where(mask, jnp.exp(s - log_BKGL1[:, :, :, start:stop]), 0.0)
        q = q_BKGLh[:, :, :, start:stop].reshape(B, K, -1, h)
        do = do_BKGLh[:, :, :, start:stop].reshape(B, K, -1, h)
        dp = jnp.matmul(do, v_BKhM[..., :seen], preferred_element_type=jnp.float32)
        ds = (p * (dp.reshape(p.shape) - overlap_BKGL1[:, :, :, start:stop])).astype(dtype)
        ds, p = ds.reshape(B, K, -1, seen), p.astype(dtype).reshape(B, K, -1, seen)
        dq.append(jnp.matmul(ds, k_BKMh[:, :, :seen]).reshape(B, K, G, stop - start, h))
        to_keys = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        dk = dk.at[:, :, :seen].add(to_keys(ds.swapaxes(2, 3), q))
        dv = dv.at[:, :, :seen].add(to_keys(p.swapaxes(2, 3), do))
    dq_BLKGh = jnp.concatenate(dq, axis=3).transpose(0, 3, 1, 2, 4)
    return (
        dq_BLKGh,
        dk.transpose(0, 2, 1, 3).astype(dtype),
        dv.transpose(0, 2, 1, 3).astype(dtype),
        None,
    )


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def blockwise(
    q_BLKGh: Array, k_BLKh: Array, v_BLKh: Array, segment_ids_BL: Array, *, causal: bool
) -> Array:
    """Blocks of queries against the keys they may see; the backward pass recomputes each block.

    Only the log of each softmax's sum is kept, so memory is linear in L, and causal attention skips
    most of the upper triangle. Meant for CPUs, where no fused kernel exists; the recurrences are
    those of FlashAttention-2 (Dao 2023, arXiv:2307.08691).
    """
    return _blockwise(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal)


BACKENDS: dict[str, Callable[..., Array]] = {"reference": reference, "blockwise": blockwise}


def attention(
    q_BLHh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    *,
    causal: bool = True,
    backend: str = "blockwise",
) -> Array:
    """Scaled dot-product attention within segments.

    Args:
      q_BLHh: queries, [B, L, H, h], any float dtype (softmax is in float32).
      k_BLKh, v_BLKh: keys and values, [B, L, K, h]; H is a multiple of K (grouped-query attention,
        Ainslie et al. 2023, arXiv:2305.13245): head n reads key/value head n // (H/K).
      segment_ids_BL: int32 [B, L], 0 for padding.
      causal: whether a token sees only itself and earlier tokens of its segment, or all of them.
      backend: a name in BACKENDS.

    Returns:
      [B, L, H, h] in the dtype of v; zeros at padding.
    """
    B, L, H, h = q_BLHh.shape
    K = k_BLKh.shape[2]
    q_BLKGh = (q_BLHh * (h**-0.5)).reshape(B, L, K, H // K, h)
    out = BACKENDS[backend](q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal=causal)
    return out.reshape(B, L, H, h)
