"""How does attention run where no fused kernel exists? Block against block, memory linear in L.

Plain XLA, so it runs on every platform; meant for CPUs. The recurrences are those of
FlashAttention-2 (Dao 2023, arXiv:2307.08691). In names of arrays, besides the package's letters: n
blocks of a row, S places of a block of queries, M of a block of keys (as many), and R = G S, the
queries of a block in all heads that share a key head, rows of one matrix.
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


def _span(
    n: Array, count: int, size: int, causal: bool, window: int
) -> tuple[int | Array, int | Array]:
    """The first block of keys that block n of queries may see, and the one after the last."""
    away = -(-(window - 1) // size) if window else count
    return jnp.maximum(n - away, 0), n + 1 if causal else jnp.minimum(n + away + 1, count)


def _cut(x_BL: Array, count: int, *axes: int) -> Array:
    """[B, L, ...] -> `count` blocks [B, n, S, ...], padded with zeros, axes in this order."""
    B, L, *rest = x_BL.shape
    size = _MULTIPLE * -(-L // (count * _MULTIPLE))
    x_BL = jnp.pad(x_BL, [(0, 0), (0, count * size - L), *[(0, 0)] * len(rest)])
    return x_BL.reshape(B, count, size, *rest).transpose(axes)


def _joined(x_BnS: Array, length: int) -> Array:
    """[B, n, S, ...] -> [B, L, ...], without what was padded."""
    B, count, size, *rest = x_BnS.shape
    return x_BnS.reshape(B, count * size, *rest)[:, :length]


def _at(x_n: Array, n: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x_n, n, keepdims=False)


def _put(x_n: Array, part: Array, n: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x_n, part.astype(x_n.dtype), n, 0)


def _of_queries(x_BLKGh: Array, count: int) -> Array:
    x_nBKGSh = _cut(x_BLKGh, count, 1, 0, 3, 4, 2, 5)
    n, B, K, G, S, h = x_nBKGSh.shape
    return x_nBKGSh.reshape(n, B, K, G * S, h)


def _of_queries_transposed(x_BLKGh: Array, count: int) -> Array:
    x_nBKhGS = _cut(x_BLKGh, count, 1, 0, 3, 5, 4, 2)
    return x_nBKhGS.reshape(*x_nBKhGS.shape[:4], -1)


def _of_keys(x_BLKh: Array, count: int) -> Array:
    return _cut(x_BLKh, count, 1, 0, 3, 2, 4)


def _product(a_BKXY: Array, b_BKYZ: Array) -> Array:
    return jnp.matmul(a_BKXY, b_BKYZ, preferred_element_type=jnp.float32)


def _with_rows(a_BKRh: Array, b_BKMh: Array) -> Array:
    """a @ b transposed, which the CPU compiler so need not write."""
    over_h, of_BK = ((3,), (3,)), ((0, 1), (0, 1))
    return jax.lax.dot_general(a_BKRh, b_BKMh, (over_h, of_BK), preferred_element_type=jnp.float32)


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


def _scores(
    q_BKRh: Array,
    k_BKMh: Array,
    segments_nBS: Array,
    queries: Array,
    keys: Array,
    causal: bool,
    window: int,
) -> Array:
    """Scores float32 [B, K, G, S, M] of two blocks, MASKED where they are not allowed."""
    B, K, R, _ = q_BKRh.shape
    S = segments_nBS.shape[2]
    mask_BSM = reference.allowed(
        _at(segments_nBS, queries),
        _at(segments_nBS, keys),
        queries * S,
        keys * S,
        causal,
        window,
    )
    s_BKGSM = _with_rows(q_BKRh, k_BKMh).reshape(B, K, R // S, S, S)
    return jnp.where(mask_BSM[:, None, None], s_BKGSM, MASKED)


def _blockwise_forward(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
) -> tuple[Array, Residuals]:
    B, L, K, G, h = q_BLKGh.shape
    count = _count(L, causal)
    q_nBKRh, k_nBKMh, v_nBKMh = (
        _of_queries(q_BLKGh, count),
        _of_keys(k_BLKh, count),
        _of_keys(v_BLKh, count),
    )
    segments_nBS = _cut(segment_ids_BL, count, 1, 0, 2)
    S = segments_nBS.shape[2]

    def of_queries(n: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q_BKRh = _at(q_nBKRh, n)

        def of_keys(m: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            o, top, total = state
            s = _scores(q_BKRh, _at(k_nBKMh, m), segments_nBS, n, m, causal, window)
            new_top = jnp.maximum(top, jnp.max(s, axis=-1, keepdims=True))
            p, fade = jnp.exp(s - new_top), jnp.exp(top - new_top)
            total = total * fade + jnp.sum(p, axis=-1, keepdims=True)
            p = p.astype(v_BLKh.dtype).reshape(B, K, G * S, S)
            o = o * fade + _product(p, _at(v_nBKMh, m)).reshape(o.shape)
            return o, new_top, total

        none = jnp.zeros((B, K, G, S, h), jnp.float32)
        begun = none, jnp.full_like(none[..., :1], MASKED), none[..., :1]
        span = _span(n, count, S, causal, window)
        o, top, total = jax.lax.fori_loop(*span, of_keys, begun)
        # Padding sees nothing: it gets zeros, and a sum so large that it gives nothing backwards.
        sees = (_at(segments_nBS, n) > 0)[:, None, None, :, None]
        o, log = jnp.where(sees, o / total, 0.0), jnp.where(sees, top + jnp.log(total), -MASKED)
        return _put(state[0], o, n), _put(state[1], log, n)

    o_nBKGSh = jnp.zeros((count, B, K, G, S, h), v_BLKh.dtype)
    log_nBKGS1 = jnp.zeros((count, B, K, G, S, 1), jnp.float32)
    o_nBKGSh, log_nBKGS1 = jax.lax.fori_loop(0, count, of_queries, (o_nBKGSh, log_nBKGS1))
    o_BLKGh = _joined(o_nBKGSh.transpose(1, 0, 4, 2, 3, 5), L)
    return o_BLKGh, (q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, o_BLKGh, log_nBKGS1)


def _blockwise_backward(
    causal: bool, window: int, residuals: Residuals, do_BLKGh: Array
) -> tuple[Array, Array, Array, None]:
    q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, o_BLKGh, log_nBKGS1 = residuals
    B, L, K, G, h = q_BLKGh.shape
    count = _count(L, causal)
    dtype = v_BLKh.dtype
    # sum over keys of p * dp, known from the output alone (Dao et al. 2022, arXiv:2205.14135)
    overlap = jnp.sum(do_BLKGh.astype(jnp.float32) * o_BLKGh, axis=-1, keepdims=True)
    overlap_nBKGS1 = _cut(overlap, count, 1, 0, 3, 4, 2, 5)
    q_nBKRh, do_nBKRh = (_of_queries(x, count) for x in (q_BLKGh, do_BLKGh))
    # Sums over queries are products with these, so that no matrix of scores is transposed.
    q_nBKhR, do_nBKhR = (_of_queries_transposed(x, count) for x in (q_BLKGh, do_BLKGh))
    k_nBKMh, v_nBKMh = (_of_keys(x, count) for x in (k_BLKh, v_BLKh))
    segments_nBS = _cut(segment_ids_BL, count, 1, 0, 2)
    S = segments_nBS.shape[2]

    def of_queries(n: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        q_BKRh, do_BKRh, q_BKhR, do_BKhR = (
            _at(x, n) for x in (q_nBKRh, do_nBKRh, q_nBKhR, do_nBKhR)
        )
        log, overlap = _at(log_nBKGS1, n), _at(overlap_nBKGS1, n)

        def of_keys(m: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_BKRh, dk_nBKhM, dv_nBKhM = state
            k_BKMh, v_BKMh = _at(k_nBKMh, m), _at(v_nBKMh, m)
            p = jnp.exp(_scores(q_BKRh, k_BKMh, segments_nBS, n, m, causal, window) - log)
            ds = p * (_with_rows(do_BKRh, v_BKMh).reshape(p.shape) - overlap)
            ds_BKRM, p_BKRM = (x.astype(dtype).reshape(B, K, G * S, S) for x in (ds, p))
            dk_BKhM = _at(dk_nBKhM, m) + _product(q_BKhR, ds_BKRM)
            dv_BKhM = _at(dv_nBKhM, m) + _product(do_BKhR, p_BKRM)
            dq_BKRh += _product(ds_BKRM, k_BKMh)
            return dq_BKRh, _put(dk_nBKhM, dk_BKhM, m), _put(dv_nBKhM, dv_BKhM, m)

        dq_nBKRh, dk_nBKhM, dv_nBKhM = state
        begun = jnp.zeros(q_BKRh.shape, jnp.float32), dk_nBKhM, dv_nBKhM
        span = _span(n, count, S, causal, window)
        dq_BKRh, dk_nBKhM, dv_nBKhM = jax.lax.fori_loop(*span, of_keys, begun)
        return _put(dq_nBKRh, dq_BKRh, n), dk_nBKhM, dv_nBKhM

    none = jnp.zeros((count, B, K, h, S), jnp.float32)
    begun = jnp.zeros(q_nBKRh.shape, q_BLKGh.dtype), none, none
    dq_nBKRh, dk_nBKhM, dv_nBKhM = jax.lax.fori_loop(0, count, of_queries, begun)
    dq_nBKGSh = dq_nBKRh.reshape(count, B, K, G, S, h)
    dq_BLKGh = _joined(dq_nBKGSh.transpose(1, 0, 4, 2, 3, 5), L)
    dk_BLKh, dv_BLKh = (
        _joined(d.transpose(1, 0, 4, 2, 3), L).astype(dtype) for d in (dk_nBKhM, dv_nBKhM)
    )
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
    """Blocks of queries, each against the blocks of keys that it may see, one after the other.

    The scores of two blocks are alive at a time. Only the log of each softmax's sum is kept, and
    the backward pass computes them again. Pairs of blocks that the causal mask or a window hides
    are left out.
    """
    return _blockwise(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal, window)
