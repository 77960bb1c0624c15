"""Does a sequence's log-odds come from its own tokens and nothing else?"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import classifier, gpt
from dnallm_jax.model.classifier import POOLINGS, Classifier, pool, virus_logits
from dnallm_jax.model.gpt import Params
from tests.dnallm_jax.tiny import RUN, SPEC, fresh_params, numpy_params, packed, quick_jit

LENGTH = 64


@pytest.fixture(scope="module")
def params() -> Params:
    return numpy_params(Classifier)


@functools.cache
def compiled(pooling: str, causal: bool) -> Callable[..., jax.Array]:
    return quick_jit(
        lambda p, *batch: virus_logits(p, SPEC, RUN, *batch, pooling=pooling, causal=causal)
    )


def call(params: Params, batch: dict[str, np.ndarray], pooling: str, causal: bool) -> np.ndarray:
    arrays = (batch[key] for key in ("tokens", "segment_ids", "positions"))
    return np.asarray(compiled(pooling, causal)(params, *arrays))


def test_pooling_is_over_what_is_not_padding() -> None:
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    ids = np.array(
        [[1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.int32
    )
    mean, last = (np.asarray(pool(jnp.asarray(x), jnp.asarray(ids), how)) for how in POOLINGS)
    for row, tokens in enumerate([4, 6, 1]):
        np.testing.assert_allclose(mean[row], x[row, :tokens].mean(axis=0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(last[row], x[row, tokens - 1], rtol=0, atol=0)
    assert not mean[3].any()
    assert not last[3].any()
    assert pool(jnp.asarray(x, jnp.bfloat16), jnp.asarray(ids), "mean").dtype == jnp.float32
    with pytest.raises(ValueError, match="unknown pooling 'max'; known: mean, last"):
        pool(jnp.asarray(x), jnp.asarray(ids), "max")


def padding_matters(params: Params, pooling: str, causal: bool) -> bool:
    """Whether tokens at padding, or the amount of padding, move a logit."""
    batch = packed([[20, 15], [50]], LENGTH)
    logits = call(params, batch, pooling, causal)
    filled = {**batch, "tokens": np.where(batch["segment_ids"] > 0, batch["tokens"], 3)}
    assert not np.array_equal(filled["tokens"], batch["tokens"])
    shorter = {key: value[:, :50] for key, value in batch.items()}
    return (
        call(params, filled, pooling, causal).tobytes() != logits.tobytes()
        or np.abs(call(params, shorter, pooling, causal) - logits).max() > 1e-5
    )


@pytest.mark.parametrize(("pooling", "causal"), [("mean", True), ("last", True), ("mean", False)])
def test_padding_does_not_matter(params: Params, pooling: str, causal: bool) -> None:
    assert not padding_matters(params, pooling, causal)


def test_pooling_over_padding_is_caught(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "pool", lambda x, ids, pooling: x.mean(axis=1))
    compiled.cache_clear()
    assert padding_matters(params, "mean", True)
    compiled.cache_clear()


def test_the_head_is_layer_norm_and_a_line(params: Params) -> None:
    batch = packed([[20, 15], [50]], LENGTH)
    x = quick_jit(functools.partial(gpt.hidden_states, params["backbone"], SPEC, RUN))(
        batch["tokens"], batch["segment_ids"], batch["positions"]
    )
    pooled = np.stack([np.asarray(x, np.float64)[0, :35].mean(0), np.asarray(x)[1, :50].mean(0)])
    normal = (pooled - pooled.mean(1, keepdims=True)) / np.sqrt(pooled.var(1, keepdims=True) + 1e-6)
    wanted = (normal * params["head_norm"]) @ params["head_kernel"] + params["head_bias"]
    np.testing.assert_allclose(call(params, batch, "mean", True), wanted, rtol=0, atol=1e-5)


def test_a_row_of_padding_is_finite_and_so_is_its_gradient(params: Params) -> None:
    batch = packed([[], [20]], LENGTH)

    def total(p: Params) -> jax.Array:
        arrays = (batch[key] for key in ("tokens", "segment_ids", "positions"))
        return virus_logits(p, SPEC, RUN, *arrays).sum()

    value, gradient = quick_jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_new_head_says_nothing() -> None:
    assert not call(fresh_params(Classifier), packed([[20, 15], [50]], LENGTH), "mean", True).any()
