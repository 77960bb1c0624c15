"""How does attention run on a GPU? By a fused kernel, written in Pallas and compiled by Triton.

The kernels at hand do not do: through JAX, cuDNN's takes segments only as a bias of L x L numbers,
and JAX's own in Pallas is deprecated. (So is, from JAX 0.12 on, Triton beneath Pallas: when it
goes, this file needs Mosaic GPU.) Here blocks of keys that a block of queries may not see, for
their place or for their segments, are never read. The recurrences are those of FlashAttention-2
(Dao 2023, arXiv:2307.08691), as in blockwise.py; query heads that share a key head read it where it
lies.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from dnallm_jax.model.reference import MASKED

Residuals = tuple[Array, ...]  # what the forward pass keeps for the backward pass
Refs = Any

BLOCK = 64  # queries, and keys; others were no faster or hardly, see benchmarks/LOG.md
_LOG2E = math.log2(math.e)  # a GPU has 2**x as an instruction; scores are so scaled, logs to base 2


def _spans(segment_ids_BL: Array, causal: bool, window: int) -> tuple[Array, Array]:
    """Which blocks of keys each block of queries visits; and of queries, each block of keys.

    int32 [B, 4, L / BLOCK] each: visited are those from the first number on and before the last;
    from the second on and before the third, every query sees every key, so that no mask is needed.
    What is visited need not be seen, but nothing else is. Right for ids in any order; short where,
    as in packed rows, they ascend.
    """
    ids = segment_ids_BL.reshape(segment_ids_BL.shape[0], -1, BLOCK)
    least = jnp.where(ids > 0, ids, jnp.iinfo(jnp.int32).max).min(axis=-1)
    most = ids.max(axis=-1)
    only = jnp.where(ids.min(axis=-1) == most, most, 0)  # the segment of the whole block, if any
    meet = (least[:, :, None] <= most[:, None, :]) & (least[:, None, :] <= most[:, :, None])
    whole = (only[:, :, None] == only[:, None, :]) & (only[:, :, None] > 0)
    number = jnp.arange(ids.shape[1])
    back = BLOCK * (number[:, None] - number[None, :])  # how far behind a query its key lies:
    nearest, furthest = back - BLOCK + 1, back + BLOCK - 1
    if causal:
        meet, whole = meet & (furthest >= 0), whole & (nearest >= 0)
    if window:
        meet &= (nearest < window) & (furthest > -window)
        whole &= (furthest < window) & (nearest > -window)

    def ends(meet: Array, whole: Array) -> Array:
        first, end = jnp.argmax(meet, axis=-1), number.size - jnp.argmax(meet[..., ::-1], axis=-1)
        end = jnp.where(meet.any(axis=-1), end, first)
        start = jnp.where(whole.any(axis=-1), jnp.argmax(whole, axis=-1), first)
        after = ~whole & (number >= start[..., None])
        stop = jnp.where(after.any(axis=-1), jnp.argmax(after, axis=-1), end)
        return jnp.stack([first, start, stop, end], axis=1).astype(jnp.int32)

    return ends(meet, whole), ends(meet.swapaxes(1, 2), whole.swapaxes(1, 2))


def _visited(spans_ref: Refs, block: Array, visit: Callable[..., Any], carry: Any) -> Any:
    """Carries on with `visit(number of the other block, carry, masked=...)` for all that meet."""
    first, start, stop, end = (spans_ref[number, block] for number in range(4))

    def masked(count: Array, carry: Any) -> Any:
        number = first + count
        return visit(jnp.where(number < start, number, number + stop - start), carry, masked=True)

    carry = jax.lax.fori_loop(start, stop, functools.partial(visit, masked=False), carry)
    return jax.lax.fori_loop(0, end - first - (stop - start), masked, carry)


def _seen(ids: Array, other_ids: Array, back: Array, causal: bool, window: int) -> Array:
    """bool[R, C] for a block of any two; `back` says how far back of its query each key lies."""
    mask = (ids[:, None] == other_ids[None, :]) & (ids[:, None] > 0)
    if causal:
        mask &= back >= 0
    if window:
        mask &= (back < window) & (back > -window)
    return mask


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _forward_kernel(
    spans_ref: Refs, q_ref: Refs, k_ref: Refs, v_ref: Refs, ids_ref: Refs, o_ref: Refs,
    log_ref: Refs, *, causal: bool, window: int,
) -> None:  # fmt: skip
    block = pl.program_id(0)
    q, q_ids = q_ref[...], ids_ref[pl.ds(block * BLOCK, BLOCK)]
    q_places = block * BLOCK + jnp.arange(BLOCK)

    def visit(number: Array, carry: tuple[Array, Array, Array], masked: bool) -> Any:
        o, top, total = carry
        keys = pl.ds(number * BLOCK, BLOCK)
        s = _dot(q, k_ref[keys, :].T) * _LOG2E
        if masked:
            back = q_places[:, None] - (number * BLOCK + jnp.arange(BLOCK))[None, :]
            mask = _seen(q_ids, ids_ref[keys], back, causal, window)
            s = jnp.where(mask, s, MASKED)
        new_top = jnp.maximum(top, jnp.max(s, axis=1))
        p = jnp.exp2(s - new_top[:, None])
        if masked:
            p = jnp.where(mask, p, 0.0)
        kept = jnp.exp2(top - new_top)
        v = v_ref[keys, :]
        o = o * kept[:, None] + _dot(p.astype(v.dtype), v)
        return o, new_top, total * kept + jnp.sum(p, axis=1)

    o, top, total = _visited(
        spans_ref,
        block,
        visit,
        (
            jnp.zeros(q.shape, jnp.float32),
            jnp.full([BLOCK], MASKED, jnp.float32),
            jnp.zeros([BLOCK], jnp.float32),
        ),
    )
    safe = jnp.where(total > 0, total, 1.0)
    o_ref[...] = (o / safe[:, None]).astype(o_ref.dtype)
    log_ref[...] = top + jnp.log2(safe)


def _queries_kernel(
    spans_ref: Refs, q_ref: Refs, k_ref: Refs, v_ref: Refs, ids_ref: Refs, do_ref: Refs,
    log_ref: Refs, overlap_ref: Refs, dq_ref: Refs, *, causal: bool, window: int,
) -> None:  # fmt: skip
    """The gradient of a block of queries, from all keys that it saw."""
    block = pl.program_id(0)
    q, q_ids = q_ref[...], ids_ref[pl.ds(block * BLOCK, BLOCK)]
    q_places = block * BLOCK + jnp.arange(BLOCK)
    do, log, overlap = do_ref[...], log_ref[...], overlap_ref[...]

    def visit(number: Array, dq: Array, masked: bool) -> Array:
        keys = pl.ds(number * BLOCK, BLOCK)
        k = k_ref[keys, :]
        p = jnp.exp2(_dot(q, k.T) * _LOG2E - log[:, None])
        if masked:
            back = q_places[:, None] - (number * BLOCK + jnp.arange(BLOCK))[None, :]
            p = jnp.where(_seen(q_ids, ids_ref[keys], back, causal, window), p, 0.0)
        ds = p * (_dot(do, v_ref[keys, :].T) - overlap[:, None])
        return dq + _dot(ds.astype(k.dtype), k)

    dq = _visited(spans_ref, block, visit, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = dq.astype(dq_ref.dtype)


def _keys_kernel(
    spans_ref: Refs, q_ref: Refs, k_ref: Refs, v_ref: Refs, ids_ref: Refs, do_ref: Refs,
    log_ref: Refs, overlap_ref: Refs, dk_ref: Refs, dv_ref: Refs, *, causal: bool, window: int,
) -> None:  # fmt: skip
    """The gradients of a block of keys and values, from all queries of all heads that saw them."""
    block = pl.program_id(0)
    k, v, k_ids = k_ref[...], v_ref[...], ids_ref[pl.ds(block * BLOCK, BLOCK)]
    k_places = block * BLOCK + jnp.arange(BLOCK)

    def of_head(head: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def visit(number: Array, carry: tuple[Array, Array], masked: bool) -> tuple[Array, Array]:
            dk, dv = carry
            queries = pl.ds(number * BLOCK, BLOCK)
            q, do = q_ref[queries, head, :], do_ref[queries, head, :]
            p = jnp.exp2(_dot(k, q.T) * _LOG2E - log_ref[head, queries][None, :])
            if masked:
                back = (number * BLOCK + jnp.arange(BLOCK))[None, :] - k_places[:, None]
                p = jnp.where(_seen(k_ids, ids_ref[queries], back, causal, window), p, 0.0)
            ds = p * (_dot(v, do.T) - overlap_ref[head, queries][None, :])
            return dk + _dot(ds.astype(q.dtype), q), dv + _dot(p.astype(do.dtype), do)

        return _visited(spans_ref, block, visit, carry)

    gradients = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    gradients = jax.lax.fori_loop(0, q_ref.shape[1], of_head, gradients)
    for ref, gradient in zip((dk_ref, dv_ref), gradients, strict=True):
        ref[...] = gradient.astype(ref.dtype)


# Parts of an array that one program reads or writes; its coordinates are (block, head, row).


def _row(*shape: int) -> pl.BlockSpec:
    """Of [B, ...]: a row."""
    return pl.BlockSpec((None, *shape), lambda block, head, row: (row, *(0 for _ in shape)))


def _tokens(width: int) -> pl.BlockSpec:
    """Of [B, L, heads, width]: one block and head."""
    return pl.BlockSpec((None, BLOCK, None, width), lambda block, head, row: (row, block, head, 0))


def _numbers() -> pl.BlockSpec:
    """Of [B, heads, L]: one block and head."""
    return pl.BlockSpec((None, None, BLOCK), lambda block, head, row: (row, head, block))


def _keys_of_query_head(length: int, group: int, width: int) -> pl.BlockSpec:
    """Of [B, L, key heads, width]: all tokens, for the key head that a query head reads."""
    return pl.BlockSpec(
        (None, length, None, width),
        lambda block, head, row: (row, 0, jax.lax.div(head, jnp.int32(group)), 0),
    )


_call = functools.partial(
    pl.pallas_call, compiler_params=triton.CompilerParams(num_warps=4, num_stages=2)
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _flash(
    q_BLHh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
    interpret: bool,
) -> Array:
    return _flash_forward(q_BLHh, k_BLKh, v_BLKh, segment_ids_BL, causal, window, interpret)[0]


def _flash_forward(
    q_BLHh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    causal: bool,
    window: int,
    interpret: bool,
) -> tuple[Array, Residuals]:
    (B, L, H, h), K = q_BLHh.shape, k_BLKh.shape[2]
    of_queries, _ = _spans(segment_ids_BL, causal, window)
    spans, tokens, keys = _row(4, L // BLOCK), _tokens(h), _keys_of_query_head(L, H // K, h)
    o_BLHh, log_BHL = _call(
        functools.partial(_forward_kernel, causal=causal, window=window),
        grid=(L // BLOCK, H, B),
        in_specs=[spans, tokens, keys, keys, _row(L)],
        out_specs=[tokens, _numbers()],
        out_shape=[
            jax.ShapeDtypeStruct(q_BLHh.shape, v_BLKh.dtype),
            jax.ShapeDtypeStruct((B, H, L), jnp.float32),
        ],
        interpret=interpret,
        name="attention",
    )(of_queries, q_BLHh, k_BLKh, v_BLKh, segment_ids_BL)
    return o_BLHh, (q_BLHh, k_BLKh, v_BLKh, segment_ids_BL, o_BLHh, log_BHL)


def _flash_backward(
    causal: bool, window: int, interpret: bool, residuals: Residuals, do_BLHh: Array
) -> tuple[Array, Array, Array, None]:
    q_BLHh, k_BLKh, v_BLKh, segment_ids_BL, o_BLHh, log_BHL = residuals
    (B, L, H, h), K = q_BLHh.shape, k_BLKh.shape[2]
    # sum over keys of p * dp, known from the output alone
    overlap = jnp.sum(do_BLHh.astype(jnp.float32) * o_BLHh, axis=-1)
    of_queries, of_keys = _spans(segment_ids_BL, causal, window)
    inputs = (q_BLHh, k_BLKh, v_BLKh, segment_ids_BL, do_BLHh, log_BHL, overlap.swapaxes(1, 2))
    spans, tokens, numbers = _row(4, L // BLOCK), _tokens(h), _numbers()
    keys = _keys_of_query_head(L, H // K, h)
    dq_BLHh = _call(
        functools.partial(_queries_kernel, causal=causal, window=window),
        grid=(L // BLOCK, H, B),
        in_specs=[spans, tokens, keys, keys, _row(L), tokens, numbers, numbers],
        out_specs=tokens,
        out_shape=jax.ShapeDtypeStruct(q_BLHh.shape, q_BLHh.dtype),
        interpret=interpret,
        name="attention_queries",
    )(of_queries, *inputs)
    # All tokens, for the query heads that read a key head.
    group = pl.BlockSpec((None, L, H // K, h), lambda block, head, row: (row, 0, head, 0))
    of_group = pl.BlockSpec((None, H // K, L), lambda block, head, row: (row, head, 0))
    dk_BLKh, dv_BLKh = _call(
        functools.partial(_keys_kernel, causal=causal, window=window),
        grid=(L // BLOCK, K, B),
        in_specs=[spans, group, tokens, tokens, _row(L), group, of_group, of_group],
        out_specs=[tokens, tokens],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BLKh, v_BLKh)],
        interpret=interpret,
        name="attention_keys",
    )(of_keys, *inputs)
    return dq_BLHh, dk_BLKh, dv_BLKh, None


_flash.defvjp(_flash_forward, _flash_backward)


def flash(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    *,
    causal: bool,
    window: int,
    interpret: bool = False,
) -> Array:
    """Attention by the kernel, on rows padded to a multiple of 64 and heads to a power of two.

    On several devices it runs inside `jax.shard_map`, on the rows and heads of one device. With
    `interpret` the kernel's program is carried out step by step on any platform: for tests.
    """
    B, L, K, G, h = q_BLKGh.shape
    length, width = -(-L // BLOCK) * BLOCK, max(16, pl.next_power_of_2(h))

    def padded(x_BLXh: Array) -> Array:
        return jnp.pad(x_BLXh, ((0, 0), (0, length - L), (0, 0), (0, width - h)))

    o_BLHh = _flash(
        padded(q_BLKGh.reshape(B, L, K * G, h)),
        padded(k_BLKh),
        padded(v_BLKh),
        jnp.pad(segment_ids_BL, ((0, 0), (0, length - L))),
        causal,
        window,
        interpret,
    )
    return o_BLHh[:, :L, :, :h].reshape(q_BLKGh.shape)
