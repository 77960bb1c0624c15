"""How does attention run where no fused kernel exists? In blocks of queries, memory linear in L.

Plain XLA, so it runs on every platform; meant for CPUs. The recurrences are those of
FlashAttention-2 (Dao 2023, arXiv:2307.08691).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dnallm_jax.model import reference
from dnallm_jax.model.reference import MASKED

Residuals = tuple[Array, ...]  # what the forward pass keeps for the backward pass

_BLOCK = 128  # queries; on CPU faster than 64 and 256 at L = 512, see benchmarks/LOG.md
_GROUPS = 16  # whole blocks, or loops over some, that are written out; of one block 2,048 queries


class _Group(NamedTuple):
    """Blocks of queries, one after another, and the keys that they may see."""

    start: int  # place of its first query in the row
    blocks: int
    queries: int  # of a block
    keys: slice  # that some block of it may see
    width: int  # of these, as many as one block may see


class _Part(NamedTuple):
    """A block of queries and the keys it is compared with; in a loop its places are traced."""

    query: int | Array
    queries: int
    key: int | Array
    keys: int

    def of_queries(self, x: Array, axis: int = 3) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, self.query, self.queries, axis)

    def of_keys(self, x: Array, axis: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, self.key, self.keys, axis)

    def write(self, x_BKGLh: Array, part: Array) -> Array:
        part = part.astype(x_BKGLh.dtype)
        return jax.lax.dynamic_update_slice_in_dim(x_BKGLh, part, self.query, 3)

    def add(self, x_BKhM: Array, part: Array) -> Array:
        total = self.of_keys(x_BKhM, 3) + part
        return jax.lax.dynamic_update_slice_in_dim(x_BKhM, total, self.key, 3)


State = tuple[Array, ...]  # what the blocks write to
Work = Callable[[_Part, State], State]


def _reach(length: int, window: int) -> int:
    """How many places away the furthest key is that a query may see, masks aside."""
    return min(window - 1, length) if window else length


def _groups(length: int, causal: bool, window: int) -> list[_Group]:
    """All queries of a row: at most _GROUPS groups of whole blocks, and a shorter block if any."""
    whole, rest = divmod(length, _BLOCK)
    each = -(-whole // _GROUPS)
    spans = [(n, min(each, whole - n), _BLOCK) for n in range(0, whole, max(each, 1))]
    spans += [(whole, 1, rest)] if rest else []
    reach = _reach(length, window)
    ahead = 0 if causal else reach
    groups = []
    for n, blocks, queries in spans:
        start, stop = n * _BLOCK, n * _BLOCK + blocks * queries
        keys = slice(max(start - reach, 0), min(stop + ahead, length))
        width = min(keys.stop - keys.start, reach + queries + ahead)
        groups.append(_Group(start, blocks, queries, keys, width))
    return groups


def _loop(group: _Group, reach: int, work: Work, state: State) -> State:
    def block(n: Array, state: State) -> State:
        query = group.start + n * group.queries
        key = jnp.clip(query - reach, group.keys.start, group.keys.stop - group.width)
        return work(_Part(query, group.queries, key, group.width), state)

    return jax.lax.fori_loop(0, group.blocks, block, state)


def _each_block(length: int, causal: bool, window: int, work: Work, state: State) -> State:
    """What `work` makes of the state, block after block.

    A loop begins with the state that the one before ended with, so that the compiler cannot run two
    side by side, and keeps the scores of one block.
    """
    for group in _groups(length, causal, window):
        if group.blocks == 1:
            part = _Part(group.start, group.queries, group.keys.start, group.width)
            state = work(part, state)
        else:
            state = _loop(group, _reach(length, window), work, state)
    return state


def _block_scores(
    q_BKGLh: Array, k_BKhM: Array, segments_BL: Array, part: _Part, causal: bool, window: int
) -> tuple[Array, Array]:
    """Scores float32 [B, K, G, queries, keys] of a block, and which are allowed."""
    B, K, G, _, h = q_BKGLh.shape
    q = part.of_queries(q_BKGLh).reshape(B, K, -1, h)
    s = jnp.matmul(q, part.of_keys(k_BKhM, 3), preferred_element_type=jnp.float32)
    q_segments, k_segments = part.of_queries(segments_BL, 1), part.of_keys(segments_BL, 1)
    mask = reference.allowed(q_segments, k_segments, part.query, part.key, causal, window)[
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

    def work(part: _Part, state: State) -> State:
        s, mask = _block_scores(q_BKGLh, k_BKhM, segment_ids_BL, part, causal, window)
        s = jnp.where(mask, s, MASKED)
        top = jnp.max(s, axis=-1, keepdims=True)
        p = jnp.exp(s - top)
        total = jnp.sum(p, axis=-1, keepdims=True)
        p = p.astype(v_BKMh.dtype).reshape(B, K, -1, p.shape[-1])
        o = jnp.matmul(p, part.of_keys(v_BKMh, 2), preferred_element_type=jnp.float32)
        # Padding sees nothing: it gets zeros, and a sum so large that it gives nothing backwards.
        sees = (part.of_queries(segment_ids_BL, 1) > 0)[:, None, None, :, None]
        o_BKGLh, log_BKGL1 = state
        o_BKGLh = part.write(o_BKGLh, jnp.where(sees, o.reshape(B, K, G, -1, h) / total, 0.0))
        return o_BKGLh, part.write(log_BKGL1, jnp.where(sees, top + jnp.log(total), -MASKED))

    o_BKGLh = jnp.zeros(q_BKGLh.shape, v_BLKh.dtype)
    log_BKGL1 = jnp.zeros((*q_BKGLh.shape[:-1], 1), jnp.float32)
    o_BKGLh, log_BKGL1 = _each_block(L, causal, window, work, (o_BKGLh, log_BKGL1))
    o_BLKGh = o_BKGLh.transpose(0, 3, 1, 2, 4)
    residuals = (q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, o_BLKGh, log_BKGL1)
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

    def work(part: _Part, state: State) -> State:
        s, mask = _block_scores(q_BKGLh, k_BKhM, segment_ids_BL, part, causal, window)
        p = jnp.exp(jnp.where(mask, s, MASKED) - part.of_queries(log_BKGL1))
        q = part.of_queries(q_BKGLh).reshape(B, K, -1, h)
        do = part.of_queries(do_BKGLh).reshape(B, K, -1, h)
        dp = jnp.matmul(do, part.of_keys(v_BKhM, 3), preferred_element_type=jnp.float32)
        ds = p * (dp.reshape(p.shape) - part.of_queries(overlap_BKGL1))
        ds, p = (x.astype(dtype).reshape(B, K, -1, x.shape[-1]) for x in (ds, p))
        dq = jnp.matmul(ds, part.of_keys(k_BKMh, 2)).reshape(B, K, G, -1, h)
        dq_BKGLh, dk_BKhM, dv_BKhM = state
        dk_BKhM, dv_BKhM = part.add(dk_BKhM, _to_keys(q, ds)), part.add(dv_BKhM, _to_keys(do, p))
        return part.write(dq_BKGLh, dq), dk_BKhM, dv_BKhM

    none = jnp.zeros(k_BKhM.shape, jnp.float32)
    state = (jnp.zeros(q_BKGLh.shape, q_BLKGh.dtype), none, none)
    dq_BKGLh, dk_BKhM, dv_BKhM = _each_block(L, causal, window, work, state)
    dq_BLKGh = dq_BKGLh.transpose(0, 3, 1, 2, 4)
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

    Up to 2,048 places every block is written out: on CPUs the fastest, though the compiler then
    keeps the scores of many blocks alive at once. Longer rows are worked through in loops, with the
    scores of one block alive at a time; without a window the blocks of one loop all take the keys
    that its last one may see, so a causal row costs a sixteenth to a ninth more than it needs to.
    """
    return _blockwise(q_BLKGh, k_BLKh, v_BLKh, segment_ids_BL, causal, window)
