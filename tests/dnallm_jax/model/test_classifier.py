"""Does a sequence's log-odds come from its own tokens and nothing else?"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import classifier, gpt
from dnallm_jax.model.classifier import POOLINGS, Classifier, pool, virus_logits
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import gpt_network
from tests.dnallm_jax.gpus import gpu_compiler, h100
from tests.dnallm_jax.tiny import RUN, SPEC, fresh_params, numpy_params, packed, quick_jit

LENGTH = 64


@pytest.fixture(scope="module")
def params() -> Params:
    """With what attention looks for, which the other poolings do not read."""
    return numpy_params(functools.partial(Classifier, pooling="attention"))


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
    (mean, weight), (last, _) = (
        map(np.asarray, pool(jnp.asarray(x), jnp.asarray(ids), how)) for how in POOLINGS[:2]
    )
    np.testing.assert_allclose(np.exp(weight[:3]), [4, 6, 1], rtol=1e-6)
    assert np.exp(weight[3]) == 0
    for row, tokens in enumerate([4, 6, 1]):
        np.testing.assert_allclose(mean[row], x[row, :tokens].mean(axis=0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(last[row], x[row, tokens - 1], rtol=0, atol=0)
    assert not mean[3].any()
    assert not last[3].any()
    assert pool(jnp.asarray(x, jnp.bfloat16), jnp.asarray(ids), "mean")[0].dtype == jnp.float32
    with pytest.raises(ValueError, match="unknown pooling 'max'; known: mean, last, attention"):
        pool(jnp.asarray(x), jnp.asarray(ids), "max")


def test_attention_is_a_mean_weighted_by_likeness_to_the_query() -> None:
    x = np.random.default_rng(1).standard_normal((2, 5, 4)).astype(np.float32)
    ids = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    query = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    found, weight = pool(jnp.asarray(x), jnp.asarray(ids), "attention", jnp.asarray(query))
    heavy = np.exp(x[0, :3] @ query / 2)
    np.testing.assert_allclose(found[0], heavy @ x[0, :3] / heavy.sum(), rtol=0, atol=1e-6)
    assert float(weight[0]) == pytest.approx(np.log(heavy.sum()), abs=1e-5)
    assert not found[1].any()
    start, _ = pool(jnp.asarray(x), jnp.asarray(ids), "attention", jnp.zeros(4))
    np.testing.assert_allclose(np.asarray(start)[0], x[0, :3].mean(axis=0), rtol=0, atol=1e-6)


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


@pytest.mark.parametrize(
    ("pooling", "causal"), [("mean", True), ("last", True), ("mean", False), ("attention", False)]
)
def test_padding_does_not_matter(params: Params, pooling: str, causal: bool) -> None:
    assert not padding_matters(params, pooling, causal)


def test_pooling_over_padding_is_caught(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "pool", lambda x, *_: (x.mean(axis=1), x[:, 0, 0]))
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
        return virus_logits(p, SPEC, RUN, *arrays, pooling="attention").sum()

    value, gradient = quick_jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_new_head_says_nothing() -> None:
    assert not call(fresh_params(Classifier), packed([[20, 15], [50]], LENGTH), "mean", True).any()


def test_dropout_hides_inputs_of_the_head_in_training_alone(params: Params) -> None:
    network = gpt_network(SPEC, RUN, pooling="mean", causal=True, dropout=0.5, seed=1)
    hiding = quick_jit(network.logits)
    batch = packed([[20, 15], [50]], LENGTH)
    first, again, later = (hiding(params, {**batch, "step": jnp.int32(n)}) for n in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first) - np.asarray(later)).max() > 1e-3
    np.testing.assert_array_equal(hiding(params, batch)[0], call(params, batch, "mean", True))


def refusal(gpu: jax.Device, joined: Callable[[tuple[jax.Array, ...]], Any]) -> str:
    """Why XLA does not compile pooled rows for this GPU; empty where it does."""
    run = dataclasses.replace(RUN, attention="reference")
    spec = dataclasses.replace(SPEC, width=128)
    network = gpt_network(spec, run, pooling="attention", causal=False)
    params = jax.eval_shape(lambda: network.initialise(0))
    batch = dict.fromkeys(("tokens", "segment_ids", "positions"), np.zeros((256, 64), np.int32))
    lies = jax.sharding.SingleDeviceSharding(gpu)
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), (params, batch)
    )
    try:
        jax.jit(lambda p, batch: joined(network.pooled.rows(p, batch))).lower(*given).compile()
    except jax.errors.JaxRuntimeError as error:
        return str(error)
    return ""


@gpu_compiler
def test_gpus_take_what_scoring_asks_for() -> None:
    assert refusal(h100(), lambda both: both) == ""


@gpu_compiler
def test_means_and_weights_of_rows_in_one_array_are_caught() -> None:
    found = refusal(h100(), jnp.column_stack)
    if not found:
        pytest.skip("this XLA compiles them so too")
    assert "Reshape input and output shapes must be the same" in found
