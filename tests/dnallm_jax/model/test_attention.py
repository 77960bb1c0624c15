"""Is the fast attention the plain one, and does no segment ever see another?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import attention as module
from dnallm_jax.model.attention import BACKENDS, attention
from tests.dnallm_jax.tiny import leaks, quick_jit

HEADS, HEAD_WIDTH = 4, 8
LENGTH = 200  # a whole block of queries and a part of one
LENGTHS = [[1, 130, 50], [200], [], [128, 60]]  # the third row is nothing but padding


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


def run(qkv: jax.Array, ids: np.ndarray, *, causal: bool, backend: str) -> jax.Array:
    kv_heads = (qkv.shape[2] - HEADS) // 2
    q, k, v = jnp.split(qkv, [HEADS, HEADS + kv_heads], axis=2)
    return attention(q, k, v, ids, causal=causal, backend=backend)


def value_and_gradient(qkv: jax.Array, *, causal: bool, backend: str) -> list[np.ndarray]:
    """The output, and the gradient of its product with fixed numbers, both float32."""
    ids = segments()
    shape = (*qkv.shape[:2], HEADS, HEAD_WIDTH)
    cotangent = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = run(x, ids, causal=causal, backend=backend)
        return jnp.sum(out.astype(jnp.float32) * cotangent), out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(qkv)
    return [np.asarray(array, np.float32) for array in (out, gradient)]


# As a share of the largest value. float32: some units of the last place. bfloat16 keeps 8 bits, and
# the reference itself, in bfloat16, is 0.004 away from the reference in float32.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2**-7}


def furthest(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference as a share of the largest wanted, over values and gradients."""
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize(
    ("kv_heads", "dtype", "causal"),
    [
        (2, "float32", True),
        (2, "float32", False),
        (1, "float32", True),
        (2, "bfloat16", True),
        (1, "bfloat16", False),
    ],
)
def test_blockwise_is_the_reference_in_values_and_gradients(
    kv_heads: int, dtype: str, causal: bool
) -> None:
    qkv = queries_keys_values(kv_heads, dtype)
    # The reference in float32, from the same inputs.
    wanted = value_and_gradient(qkv.astype(np.float32), causal=causal, backend="reference")
    got = value_and_gradient(qkv, causal=causal, backend="blockwise")
    assert furthest(got, wanted) < TOLERANCE[dtype]
    padding = segments() == 0
    for array in (*got, *wanted):
        assert np.isfinite(array).all()
        assert not array[padding].any(), "padding gets zeros and gives no gradient"


def test_a_block_that_misses_a_key_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = queries_keys_values(2, "float32")
    wanted = value_and_gradient(qkv, causal=True, backend="reference")
    blocks = module._blocks
    monkeypatch.setattr(
        module, "_blocks", lambda *a: [(start, stop, seen - 1) for start, stop, seen in blocks(*a)]
    )
    got = value_and_gradient(qkv, causal=True, backend="blockwise")
    assert furthest(got, wanted) > 1000 * TOLERANCE["float32"]


def numpy_attention(qkv: np.ndarray, ids: np.ndarray, causal: bool) -> np.ndarray:
    """The definition, one query and one head at a time."""
    kv_heads = (qkv.shape[2] - HEADS) // 2
    out = np.zeros((*ids.shape, HEADS, HEAD_WIDTH))
    for b, i in np.argwhere(ids > 0):
        seen = [j for j in np.flatnonzero(ids[b] == ids[b, i]) if j <= i or not causal]
        for head in range(HEADS):
            group = HEADS + head // (HEADS // kv_heads)
            keys, values = qkv[b, seen, group], qkv[b, seen, group + kv_heads]
            weights = np.exp(keys @ qkv[b, i, head] / np.sqrt(HEAD_WIDTH))
            out[b, i, head] = weights @ values / weights.sum()
    return out


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_the_reference_is_the_definition(causal: bool) -> None:
    qkv = queries_keys_values(2, "float32")[:3, :40]
    ids = np.array([[1] * 13 + [2] * 20 + [0] * 7, [1] * 40, [0] * 40], np.int32)
    got = quick_jit(functools.partial(run, causal=causal, backend="reference"))(qkv, ids)
    np.testing.assert_allclose(got, numpy_attention(qkv, ids, causal), rtol=0, atol=2e-6)


def blind_mask(
    q_segments_BL: jax.Array, k_segments_BM: jax.Array, q_offset: int, causal: bool
) -> jax.Array:
    """A planted fault: the mask without segments."""
    rows = q_offset + jnp.arange(q_segments_BL.shape[1])
    seen = (rows[:, None] >= jnp.arange(k_segments_BM.shape[1])) | (not causal)
    return jnp.broadcast_to(seen, (len(q_segments_BL), *seen.shape))


def attention_leaks(backend: str, causal: bool) -> list[str]:
    """Leaks of outputs, and of the gradients with respect to the inputs of every place."""
    ids = segments()[[0, 3]]
    qkv, other = (queries_keys_values(2, "float32", seed)[[0, 3]] for seed in (0, 7))

    def energy(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = run(x, ids, causal=causal, backend=backend)
        return jnp.sum(out**2), out

    @quick_jit
    def both(x: jax.Array) -> jax.Array:
        gradient, out = jax.grad(energy, has_aux=True)(x)
        return jnp.concatenate([out, gradient], axis=2)

    return leaks(both, qkv, other, ids)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_changed_segment_moves_no_bit_of_another(backend: str, causal: bool) -> None:
    assert attention_leaks(backend, causal) == []


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_mask_without_segments_is_caught(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_mask", blind_mask)
    found = attention_leaks(backend, causal=True)
    assert "segment 1 of row 0 moves row 0, segment 2" in found
    assert "segment 1 of row 1 moves row 1, segment 2" in found
    assert not any("row 0 moves row 1" in line for line in found)
