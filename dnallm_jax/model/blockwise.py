"""How does attention run where no fused kernel exists? Block against block, memory linear in L.

Plain XLA, so it runs on every platform; meant for CPUs. The recurrences are those of
FlashAttention-2 (Dao 2023, arXiv:2307.08691). In names of arrays, besides the package's letters: n
blocks, S places of a block of queries, M of a block of keys (as many), R = G S, the queries of a
block in all heads that share a key head, rows of one matrix, and C key heads at once: those of all
rows, or one, whose blocks lie between those of the head before and the head after.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from dnallm_jax.model import reference
from dnallm_jax.model.reference import MASKED

Residuals = tuple[Array, ...]  # what the forward pass keeps for the backward pass

_BLOCK = 128  # places at most; on CPUs faster than 192 and 256, see benchmarks/LOG.md
_MULTIPLE = 16  # of which the places of a block are one: floats of a vector register


def _count(length: int, causal: bool) -> int:
    """How many blocks a row has. A short one stays whole, sooner where no token is hidden."""
    return 1 if length <= (1.5 if causal else 3) * _BLOCK else -(-length // _BLOCK)


def _span(n: Array, count: int, size: int, causal: bool, window: int) -> tuple[Array, Array]:
    """The first block that block n of queries may see, and the one after the last."""
    away = -(-(window - 1) // size) if window else count
    row = n - n % count  # its first block
    last = n if causal else jnp.minimum(n + away, row + count - 1)
    return jnp.maximum(n - away, row), last + 1


def _cut(x_BLK: Array, count: int, alone: bool) -> Array:
    """[B, L, K, ...] -> blocks [n, C, S, ...], rows padded with zeros to `count` blocks of S."""
    B, L, K, *rest = x_BLK.shape
    size = _MULTIPLE * -(-L // (count * _MULTIPLE))
    x_BLK = jnp.pad(x_BLK, [(0, 0), (0, count * size - L), *[(0, 0)] * (1 + len(rest))])
    x_CnS = jnp.moveaxis(x_BLK.reshape(B, count, size, K, *rest), 3, 1)
    x_CnS = x_CnS.reshape(B * K, count, size, *rest)
    if alone and count > 1:  # a row of one block is too little work for a head alone
        return x_CnS.reshape(-1, 1, size, *rest)
    return x_CnS.swapaxes(0, 1)


def _joined(x_nCS: Array, B: int, L: int, K: int) -> Array:
    """[n, C, S, ...] -> [B, L, K, ...], without what was padded."""
    x_nCS = x_nCS if x_nCS.shape[1] == 1 else x_nCS.swapaxes(0, 1)
    return jnp.moveaxis(x_nCS.reshape(B, K, -1, *x_nCS.shape[3:]), 1, 2)[:, :L]


def _at(x_n: Array, n: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x_n, n, keepdims=False)


def _put(x_n: Array, part: Array, n: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x_n, part.astype(x_n.dtype), n, 0)


def _of_queries(x_BLKGh: Array, count: int, alone: bool) -> Array:
    x_nCGSh = jnp.moveaxis(_cut(x_BLKGh, count, alone), 3, 2)
    return x_nCGSh.reshape(*x_nCGSh.shape[:2], -1, x_nCGSh.shape[-1])


def _product(a_CXY: Array, b_CYZ: Array) -> Array:
    return jnp.matmul(a_CXY, b_CYZ, preferred_element_type=jnp.float32)


def _with_rows(a_CRh: Array, b_CMh: Array) -> Array:
    """a @ b transposed, which the CPU compiler so need not write."""
    over_h, of_C = ((2,), (2,)), ((0,), (0,))
    return jax.lax.dot_general(a_CRh, b_CMh, (over_h, of_C), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _blockwise(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
    alone: bool,
) -> Array:
    return _blockwise_forward(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal, window, alone)[0]


def _scores(
    q_CRh: Array,
    k_CMh: Array,
    segments_nCS: Array,
    queries: Array,
    keys: Array,
    count: int,
    causal: bool,
    window: int,
) -> Array:
    """Scores float32 [C, G, S, M] of two blocks of a row, MASKED where they are not allowed."""
    C, R, _ = q_CRh.shape
    S = segments_nCS.shape[2]
    mask_CSM = reference.allowed(
        _at(segments_nCS, queries),
        _at(segments_nCS, keys),
        queries % count * S,
        keys % count * S,
        causal,
        window,
    )
    s_CGSM = _with_rows(q_CRh, k_CMh).reshape(C, R // S, S, S)
    return jnp.where(mask_CSM[:, None], s_CGSM, MASKED)


def _blockwise_forward(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
    alone: bool,
) -> tuple[Array, Residuals]:
    B, L, K, G, h = q_BLKGh.shape
    count = _count(L, causal)
    q_nCRh = _of_queries(q_BLKGh, count, alone)
    segment_ids_BLK = jnp.broadcast_to(segment_ids_BL[..., None], (B, L, K))
    k_nCMh, v_nCMh, segments_nCS = (
        _cut(x, count, alone) for x in (k_BLKh, v_BLKh, segment_ids_BLK)
    )
    n, C, S = segments_nCS.shape

    def of_queries(n: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q_CRh = _at(q_nCRh, n)

        def of_keys(m: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            o, top, total = state
            s = _scores(q_CRh, _at(k_nCMh, m), segments_nCS, n, m, count, causal, window)
            new_top = jnp.maximum(top, jnp.max(s, axis=-1, keepdims=True))
            p, fade = jnp.exp(s - new_top), jnp.exp(top - new_top)
            total = total * fade + jnp.sum(p, axis=-1, keepdims=True)
            p = p.astype(v_BLKh.dtype).reshape(C, G * S, S)
            o = o * fade + _product(p, _at(v_nCMh, m)).reshape(o.shape)
            return o, new_top, total

        none = jnp.zeros((C, G, S, h), jnp.float32)
        begun = none, jnp.full_like(none[..., :1], MASKED), none[..., :1]
        o, top, total = jax.lax.fori_loop(*_span(n, count, S, causal, window), of_keys, begun)
        # Padding sees nothing: it gets zeros, and a sum so large that it gives nothing backwards.
        sees = (_at(segments_nCS, n) > 0)[:, None, :, None]
        o, log = jnp.where(sees, o / total, 0.0), jnp.where(sees, top + jnp.log(total), -MASKED)
        return _put(state[0], o, n), _put(state[1], log, n)

    o_nCGSh = jnp.zeros((n, C, G, S, h), v_BLKh.dtype)
    log_nCGS1 = jnp.zeros((n, C, G, S, 1), jnp.float32)
    o_nCGSh, log_nCGS1 = jax.lax.fori_loop(0, n, of_queries, (o_nCGSh, log_nCGS1))
    o_BLKGh = _joined(jnp.moveaxis(o_nCGSh, 2, 3), B, L, K)
    return o_BLKGh, (q_nCRh, k_nCMh, v_nCMh, segments_nCS, o_nCGSh, log_nCGS1)


def _blockwise_backward(
    causal: bool, window: int, alone: bool, residuals: Residuals, do_BLKGh: Array
) -> tuple[Array, Array, Array, None]:
    q_nCRh, k_nCMh, v_nCMh, segments_nCS, o_nCGSh, log_nCGS1 = residuals
    B, L, K, G, h = do_BLKGh.shape
    n, C, S = segments_nCS.shape
    count, dtype = _count(L, causal), v_nCMh.dtype
    do_nCRh = _of_queries(do_BLKGh, count, alone)
    # sum over keys of p * dp, known from the output alone (Dao et al. 2022, arXiv:2205.14135)
    # (Flat: XLA's library for CPUs takes up to 18 times as long over sums whose first axis is 1.)
    overlap = jnp.sum(do_nCRh.reshape(-1, h).astype(jnp.float32) * o_nCGSh.reshape(-1, h), axis=-1)
    overlap_nCGS1 = overlap.reshape(log_nCGS1.shape)
    # Sums over queries are products with these, so that no matrix of scores is transposed.
    q_nChR, do_nChR = (x.swapaxes(-1, -2) for x in (q_nCRh, do_nCRh))

    def of_queries(n: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        q_CRh, do_CRh, q_ChR, do_ChR = (_at(x, n) for x in (q_nCRh, do_nCRh, q_nChR, do_nChR))
        log, overlap = _at(log_nCGS1, n), _at(overlap_nCGS1, n)

        def of_keys(m: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_CRh, dk_nChM, dv_nChM = state
            k_CMh, v_CMh = _at(k_nCMh, m), _at(v_nCMh, m)
            s = _scores(q_CRh, k_CMh, segments_nCS, n, m, count, causal, window)
            p = jnp.exp(s - log)
            ds = p * (_with_rows(do_CRh, v_CMh).reshape(p.shape) - overlap)
            ds_CRM, p_CRM = (x.astype(dtype).reshape(C, G * S, S) for x in (ds, p))
            dk_ChM = _at(dk_nChM, m) + _product(q_ChR, ds_CRM)
            dv_ChM = _at(dv_nChM, m) + _product(do_ChR, p_CRM)
            dq_CRh += _product(ds_CRM, k_CMh)
            return dq_CRh, _put(dk_nChM, dk_ChM, m), _put(dv_nChM, dv_ChM, m)

        dq_nCRh, dk_nChM, dv_nChM = state
        begun = jnp.zeros(q_CRh.shape, jnp.float32), dk_nChM, dv_nChM
        span = _span(n, count, S, causal, window)
        dq_CRh, dk_nChM, dv_nChM = jax.lax.fori_loop(*span, of_keys, begun)
        return _put(dq_nCRh, dq_CRh, n), dk_nChM, dv_nChM

    none = jnp.zeros((n, C, h, S), jnp.float32)
    begun = jnp.zeros_like(q_nCRh), none, none
    dq_nCRh, dk_nChM, dv_nChM = jax.lax.fori_loop(0, n, of_queries, begun)
    dq_nCSGh = jnp.moveaxis(dq_nCRh.reshape(n, C, G, S, h), 2, 3)
    dk_nCMh, dv_nCMh = (d.swapaxes(-1, -2).astype(dtype) for d in (dk_nChM, dv_nChM))
    dq_BLKGh, dk_BLKh, dv_BLKh = (_joined(d, B, L, K) for d in (dq_nCSGh, dk_nCMh, dv_nCMh))
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
    alone: bool = False,
) -> Array:
    """Blocks of queries, each against the blocks of keys that it may see, one after the other.

    The scores of two blocks are alive at a time. Only the log of each softmax's sum is kept, and
    the backward pass computes them again. Pairs of blocks that the causal mask or a window hides
    are left out.

    All heads of all rows are worked on at once; or, `alone`, one key head after the other: then a
    product stays on one core, whose cache holds its scores, and no core waits for another's part.
    """
    return _blockwise(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal, window, alone)
