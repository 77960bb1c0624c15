"""Is the fast attention the plain one, and does no segment ever see another?"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import blockwise, flash, reference, splash
from dnallm_jax.model.attention import BACKENDS, attention
from tests.dnallm_jax.tiny import leaks, quick_jit

HEADS, HEAD_WIDTH = 4, 8
LENGTH = 200  # more than a block, and no whole number of them
LENGTHS = [[1, 130, 50], [200], [], [128, 60]]  # the third row is nothing but padding


FAST = ("blockwise", "headwise", "splash", "flash")


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for other devices are interpreted, and in blocks smaller than the row."""
    monkeypatch.setitem(BACKENDS, "splash", functools.partial(splash.splash, interpret=True))
    monkeypatch.setattr(splash, "_BLOCKS", (128,))
    monkeypatch.setattr(blockwise, "_BLOCK", 64)
    monkeypatch.setitem(BACKENDS, "flash", functools.partial(flash.flash, interpret=True))


def segments() -> np.ndarray:
    ids = np.zeros((len(LENGTHS), LENGTH), np.int32)
    for row, lengths in enumerate(LENGTHS):
        ids[row, : sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return ids


def queries_keys_values(kv_heads: int, dtype: str, seed: int = 0) -> np.ndarray:
    """[B, L, H + 2K, h]: what attention reads, side by side."""
    rng = np.random.default_rng(seed)
    shape = (len(LENGTHS), LENGTH, HEADS + 2 * kv_heads, HEAD_WIDTH)
    return np.asarray(jnp.asarray(rng.standard_normal(shape), dtype))


def run(qkv: jax.Array, ids: np.ndarray, **how: Any) -> jax.Array:
    kv_heads = (qkv.shape[2] - HEADS) // 2
    q, k, v = jnp.split(qkv, [HEADS, HEADS + kv_heads], axis=2)
    return attention(q, k, v, ids, **how)


def value_and_gradient(qkv: jax.Array, **how: Any) -> list[np.ndarray]:
    """The output, and the gradient of its product with fixed numbers, both float32."""
    ids = segments()
    shape = (*qkv.shape[:2], HEADS, HEAD_WIDTH)
    cotangent = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = run(x, ids, **how)
        return jnp.sum(out.astype(jnp.float32) * cotangent), out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(qkv)
    return [np.asarray(array, np.float32) for array in (out, gradient)]


# As a share of the largest value. float32: some units of the last place. bfloat16 keeps 8 bits, and
# the reference itself, in bfloat16, is 0.004 away from the reference in float32.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2**-7}


@functools.cache
def plain(kv_heads: int, dtype: str, **how: Any) -> list[np.ndarray]:
    """The reference in float32, from inputs of this type."""
    qkv = queries_keys_values(kv_heads, dtype).astype(np.float32)
    return value_and_gradient(qkv, backend="reference", **how)


def furthest(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference as a share of the largest wanted, over values and gradients."""
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, wanted, strict=True)
    )


CASES = pytest.mark.parametrize(
    ("kv_heads", "dtype", "causal", "window"),
    [
        (2, "float32", True, 0),
        (1, "float32", False, 70),
        (2, "bfloat16", False, 0),
        (4, "bfloat16", True, 70),
    ],
)


@pytest.mark.parametrize("backend", FAST)
@CASES
def test_a_fast_back_end_is_the_reference_in_values_and_gradients(
    backend: str, kv_heads: int, dtype: str, causal: bool, window: int
) -> None:
    qkv = queries_keys_values(kv_heads, dtype)
    how = {"causal": causal, "window": window}
    wanted = plain(kv_heads, dtype, **how)
    got = value_and_gradient(qkv, backend=backend, **how)
    assert furthest(got, wanted) < TOLERANCE[dtype]
    padding = segments() == 0
    for array in (*got, *wanted):
        assert np.isfinite(array).all()
        assert not array[padding].any(), "padding gets zeros and gives no gradient"


def temporary_bytes(length: int) -> int:
    """What the compiled gradient of one causal row needs beside its inputs and results."""
    q, k = (jax.ShapeDtypeStruct((1, length, heads, HEAD_WIDTH), "float32") for heads in (2, 1))
    ids = jax.ShapeDtypeStruct((1, length), "int32")

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.sum(attention(q, k, v, ids) ** 2)

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, ids).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary_bytes(512) < 2.5 * temporary_bytes(256)
    monkeypatch.setattr(blockwise, "_BLOCK", 512)  # the whole row is one block
    assert temporary_bytes(512) > 2.5 * temporary_bytes(256)


def test_blocks_and_masks_that_miss_a_key_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = queries_keys_values(2, "float32")
    wanted = plain(2, "float32", causal=True, window=0)
    span, mask, spans = blockwise._span, splash._mask, flash._spans

    def late(*a: Any) -> tuple[jax.Array, jax.Array]:
        first, stop = span(*a)
        return jnp.minimum(first + 1, stop - 1), stop

    monkeypatch.setattr(blockwise, "_span", late)
    monkeypatch.setattr(splash, "_mask", lambda length, causal, _: mask(length, causal, 130))
    # One block of keys fewer for each of queries, and one of queries fewer for each of keys.
    monkeypatch.setattr(
        flash, "_spans", lambda *a: [x - jnp.array([[0], [0], [0], [1]]) for x in spans(*a)]
    )
    for backend in FAST:
        got = value_and_gradient(qkv, causal=True, backend=backend)
        assert furthest(got, wanted) > 1000 * TOLERANCE["float32"], backend
    # All blocks after the first that needs no mask go without.
    monkeypatch.setattr(
        flash, "_spans", lambda *a: [x[:, jnp.array([0, 1, 3, 3])] for x in spans(*a)]
    )
    got = value_and_gradient(qkv, causal=True, backend="flash")
    assert furthest(got, wanted) > 1000 * TOLERANCE["float32"]


def test_a_window_that_leaves_out_a_block_it_reaches_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    qkv = queries_keys_values(1, "float32")
    how = {"causal": False, "window": 70}
    span = blockwise._span
    monkeypatch.setattr(
        blockwise,
        "_span",
        lambda n, count, size, causal, window: span(n, count, size, causal, window - size),
    )
    got = value_and_gradient(qkv, backend="blockwise", **how)
    assert furthest(got, plain(1, "float32", **how)) > 1000 * TOLERANCE["float32"]


def numpy_attention(qkv: np.ndarray, ids: np.ndarray, causal: bool, window: int) -> np.ndarray:
    """The definition, one query and one head at a time."""
    kv_heads = (qkv.shape[2] - HEADS) // 2
    out = np.zeros((*ids.shape, HEADS, HEAD_WIDTH))
    for b, i in np.argwhere(ids > 0):
        own = np.flatnonzero(ids[b] == ids[b, i])
        seen = [j for j in own if (j <= i or not causal) and (abs(i - j) < window or not window)]
        for head in range(HEADS):
            group = HEADS + head // (HEADS // kv_heads)
            keys, values = qkv[b, seen, group], qkv[b, seen, group + kv_heads]
            weights = np.exp(keys @ qkv[b, i, head] / np.sqrt(HEAD_WIDTH))
            out[b, i, head] = weights @ values / weights.sum()
    return out


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_the_reference_is_the_definition(causal: bool, window: int) -> None:
    qkv = queries_keys_values(2, "float32")[:3, :40]
    ids = np.array([[1] * 13 + [2] * 20 + [0] * 7, [1] * 40, [0] * 40], np.int32)
    how = {"causal": causal, "window": window, "backend": "reference"}
    got = quick_jit(functools.partial(run, **how))(qkv, ids)
    np.testing.assert_allclose(got, numpy_attention(qkv, ids, causal, window), rtol=0, atol=2e-6)


allowed = reference.allowed


def blind_mask(q_segments_BL: jax.Array, k_segments_BM: jax.Array, *rest: Any) -> jax.Array:
    """A planted fault: the mask without segments."""
    return allowed(jnp.ones_like(q_segments_BL), jnp.ones_like(k_segments_BM), *rest)


def attention_leaks(backend: str, **how: Any) -> list[str]:
    """Leaks of outputs, and of the gradients with respect to the inputs of every place."""
    ids = segments()[[0, 3]]
    qkv, other = (queries_keys_values(2, "float32", seed)[[0, 3]] for seed in (0, 7))

    def energy(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = run(x, ids, backend=backend, **how)
        return jnp.sum(out**2), out

    @quick_jit
    def both(x: jax.Array) -> jax.Array:
        gradient, out = jax.grad(energy, has_aux=True)(x)
        return jnp.concatenate([out, gradient], axis=2)

    return leaks(both, qkv, other, ids)


@pytest.mark.parametrize("how", [{"causal": True}, {"causal": False, "window": 70}], ids=str)
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_changed_segment_moves_no_bit_of_another(backend: str, how: dict) -> None:
    assert attention_leaks(backend, **how) == []


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_mask_without_segments_is_caught(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = splash.kernels.SegmentIds
    spans, seen, ones = flash._spans, flash._seen, jnp.ones_like
    monkeypatch.setattr(reference, "allowed", blind_mask)
    monkeypatch.setattr(flash, "_spans", lambda ids, *rest: spans(ones(ids), *rest))
    monkeypatch.setattr(flash, "_seen", lambda a, b, *rest: seen(ones(a), ones(b), *rest))
    monkeypatch.setattr(splash.kernels, "SegmentIds", lambda q, kv: pairs(ones(q), ones(kv)))
    found = attention_leaks(backend, causal=True)
    assert "segment 1 of row 0 moves row 0, segment 2" in found
    assert "segment 1 of row 1 moves row 1, segment 2" in found
    assert not any("row 0 moves row 1" in line for line in found)
