"""How does attention run where no fused kernel exists? In blocks of queries, memory linear in L.

Plain XLA, so it runs on every platform; meant for CPUs. The recurrences are those of
FlashAttention-2 (Dao 2023, arXiv:2307.08691).
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from dnallm_jax.model import reference
from dnallm_jax.model.reference import MASKED

Residuals = tuple[Array, ...]  # what the forward pass keeps for the backward pass

_BLOCK = 128  # queries; on CPU faster than 64 and 256 at L = 512, see benchmarks/LOG.md


def _blocks(length: int, causal: bool, window: int) -> list[tuple[slice, slice]]:
    """(queries, keys that they may see) of every block of queries."""
    reach = window - 1 if window else length
    blocks = []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        last = stop if causal else min(stop + reach, length)
        blocks.append((slice(start, stop), slice(max(start - reach, 0), last)))
    return blocks


def _block_scores(
    q_BKGLh: Array,
    k_BKhM: Array,
    segments_BL: Array,
    queries: slice,
    keys: slice,
    causal: bool,
    window: int,
) -> tuple[Array, Array]:
    """Scores float32 [B, K, G, queries, keys] of a block, and which are allowed."""
    B, K, G, _, h = q_BKGLh.shape
    q = q_BKGLh[:, :, :, queries].reshape(B, K, -1, h)
    s = jnp.matmul(q, k_BKhM[..., keys], preferred_element_type=jnp.float32)
    q_segments, k_segments = segments_BL[:, queries], segments_BL[:, keys]
    mask = reference.allowed(q_segments, k_segments, queries.start, keys.start, causal, window)[
        :, None, None
    ]
    return s.reshape(B, K, G, *mask.shape[-2:]), mask


def _to_keys(q_BKRh: Array, s_BKRM: Array) -> Array:
    """float32 [B, K, h, M]: the sum over queries R.

    Of the two the CPU compiler writes the first one anew, transposed: the smaller by far.
    """
    over_R, of_BK = ((2,), (2,)), ((0, 1), (0, 1))
    return jax.lax.dot_general(q_BKRh, s_BKRM, (over_R, of_BK), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _blockwise(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
) -> Array:
    return _blockwise_forward(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal, window)[0]


def _blockwise_forward(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
) -> tuple[Array, Residuals]:
    B, L, K, G, h = q_BLKGh.shape
    q_BKGLh = q_BLKGh.transpose(0, 2, 3, 1, 4)
    k_BKhM, v_BKMh = k_BLKh.transpose(0, 2, 3, 1), v_BLKh.transpose(0, 2, 1, 3)
    outputs, logs = [], []
    for queries, keys in _blocks(L, causal, window):
        s, mask = _block_scores(q_BKGLh, k_BKhM, segment_ids_BL, queries, keys, causal, window)
        s = jnp.where(mask, s, MASKED)
        top = jnp.max(s, axis=-1, keepdims=True)
        p = jnp.exp(s - top)
        total = jnp.sum(p, axis=-1, keepdims=True)
        p = p.astype(v_BKMh.dtype).reshape(B, K, -1, p.shape[-1])
        o = jnp.matmul(p, v_BKMh[:, :, keys], preferred_element_type=jnp.float32)
        # Padding sees nothing: it gets zeros, and a sum so large that it gives nothing backwards.
        sees = (segment_ids_BL[:, queries] > 0)[:, None, None, :, None]
        outputs.append(jnp.where(sees, o.reshape(B, K, G, -1, h) / total, 0.0))
        logs.append(jnp.where(sees, top + jnp.log(total), -MASKED))
    o_BKGLh = jnp.concatenate(outputs, axis=3)
    o_BLKGh = o_BKGLh.transpose(0, 3, 1, 2, 4).astype(v_BLKh.dtype)
    residuals = (q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, o_BLKGh, jnp.concatenate(logs, axis=3))
    return o_BLKGh, residuals


def _blockwise_backward(
    causal: bool, window: int, residuals: Residuals, do_BLKGh: Array
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
    dk_BKhM = jnp.zeros(k_BKhM.shape, jnp.float32)
    dv_BKhM = jnp.zeros(k_BKhM.shape, jnp.float32)
    dq = []
    for queries, keys in _blocks(L, causal, window):
        s, mask = _block_scores(q_BKGLh, k_BKhM, segment_ids_BL, queries, keys, causal, window)
        p = jnp.exp(jnp.where(mask, s, MASKED) - log_BKGL1[:, :, :, queries])
        q = q_BKGLh[:, :, :, queries].reshape(B, K, -1, h)
        do = do_BKGLh[:, :, :, queries].reshape(B, K, -1, h)
        dp = jnp.matmul(do, v_BKhM[..., keys], preferred_element_type=jnp.float32)
        ds = p * (dp.reshape(p.shape) - overlap_BKGL1[:, :, :, queries])
        ds, p = (x.astype(dtype).reshape(B, K, -1, x.shape[-1]) for x in (ds, p))
        dq.append(jnp.matmul(ds, k_BKMh[:, :, keys]).reshape(B, K, G, -1, h))
        dk_BKhM = dk_BKhM.at[..., keys].add(_to_keys(q, ds))
        dv_BKhM = dv_BKhM.at[..., keys].add(_to_keys(do, p))
    dq_BLKGh = jnp.concatenate(dq, axis=3).transpose(0, 3, 1, 2, 4)
    dk_BLKh, dv_BLKh = (d.transpose(0, 3, 1, 2).astype(dtype) for d in (dk_BKhM, dv_BKhM))
    return dq_BLKGh, dk_BLKh, dv_BLKh, None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def blockwise(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    *,
    causal: bool,
    window: int,
) -> Array:
    """Blocks of queries against the keys they may see; the backward pass recomputes each block.

    Only the log of each softmax's sum is kept, and what no query of a block may see (most of the
    upper triangle, all beyond a window) is not computed.
    """
    return _blockwise(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal, window)
