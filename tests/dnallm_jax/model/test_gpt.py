"""Is the network the one described: its formulas, its first loss, its ways of running, no leaks?"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import gpt, reference
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.gpt import GPT, Execution, Params
from dnallm_jax.parallel.mesh import RULES
from dnallm_jax.training import objectives
from tests.dnallm_jax.model.test_attention import blind_mask
from tests.dnallm_jax.tiny import (
    RUN,
    SPEC,
    fresh_params,
    leaks,
    numpy_params,
    other_tokens,
    packed,
    quick_jit,
)

LENGTH = 208  # two blocks of queries in `blockwise`
ROWS = [[60, 1, 80], [140], []]  # the last one is nothing but padding
BFLOAT16 = Execution(dtype="bfloat16")


@functools.cache
def compiled_logits(run: Execution) -> Callable[..., jax.Array]:
    """One compilation for all tests; in float32 with the options in use, as bits are compared."""
    jit = jax.jit if run == RUN else quick_jit
    return jit(lambda p, *batch: gpt.next_token_logits(p, SPEC, run, *batch))


def logits_of(
    params: Params, batch: dict[str, np.ndarray], run: Execution = RUN
) -> Callable[[np.ndarray], jax.Array]:
    """tokens [3, L] -> logits [3, L, V], for the segments of a batch."""
    logits = compiled_logits(run)
    return lambda tokens: logits(params, tokens, batch["segment_ids"], batch["positions"])


def test_rms_norm_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    x, scale = rng.standard_normal((3, 5, 16)), rng.standard_normal(16)
    wanted = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale
    got = gpt.rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    half = gpt.rms_norm(jnp.asarray(x, jnp.bfloat16), jnp.asarray(scale, jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float32), wanted, rtol=2**-6, atol=2**-8)


def rotated(x: np.ndarray, positions: np.ndarray, base: float) -> np.ndarray:
    """Channel pair (i, i + h/2) of a token at p, turned by p * base^(-2i/h): as complex numbers."""
    half = x.shape[-1] // 2
    angle = positions[..., None, None] * base ** (-2 * np.arange(half) / x.shape[-1])
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def test_rotation_is_its_formula_and_keeps_lengths() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 3, 8))
    positions = rng.integers(0, 1000, (2, 7))
    cos, sin = quick_jit(lambda p: gpt.rope_table(p, 8, 500.0))(positions)
    got = quick_jit(gpt.rotate)(jnp.asarray(x, jnp.float32), cos, sin)
    np.testing.assert_allclose(got, rotated(x, positions, 500.0), rtol=0, atol=3e-4)
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    half = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
    assert jax.eval_shape(gpt.rotate, half, cos, sin).dtype == jnp.bfloat16


def numpy_logits(params: Params, tokens: np.ndarray) -> np.ndarray:
    """[L, V] for one segment [L]: the whole network again, in float64 and plain sight."""

    def rms(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    blocks, positions = p["backbone"]["blocks"], np.arange(len(tokens))
    x = p["backbone"]["embedding"][tokens]
    later = positions[:, None] < positions
    for n in range(SPEC.layers):
        b = {name: leaf[n] for name, leaf in blocks.items()}
        y = rms(x, b["attention_norm"])
        for head in range(SPEC.heads):
            kv = head // (SPEC.heads // SPEC.kv_heads)
            q, k = rms(y @ b["wq"][:, head], b["q_norm"]), rms(y @ b["wk"][:, kv], b["k_norm"])
            q, k = (rotated(a[:, None], positions, SPEC.rope_base)[:, 0] for a in (q, k))
            weights = np.exp(np.where(later, -np.inf, q @ k.T / np.sqrt(SPEC.head_width)))
            weights /= weights.sum(axis=1, keepdims=True)
            x = x + weights @ (y @ b["wv"][:, kv]) @ b["wo"][head]
        y = rms(x, b["mlp_norm"])
        gate = y @ b["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ b["up"])) @ b["down"]
    return rms(x, p["backbone"]["final_norm"]) @ p["lm_head"]


@pytest.fixture(scope="module")
def params() -> Params:
    return numpy_params(GPT)


def test_logits_are_the_formulas_wherever_a_segment_lies(params: Params) -> None:
    # The same 45 tokens alone, behind two others, and across the edge of a block of queries.
    batch = packed([[45, 30], [50, 20, 45, 10], [100, 45]], LENGTH)
    places = [(0, 0), (1, 70), (2, 100)]
    segment = batch["tokens"][0, :45].copy()
    for row, start in places:
        batch["tokens"][row, start : start + 45] = segment
    logits = logits_of(params, batch)(batch["tokens"])
    wanted = numpy_logits(params, segment)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()  # padding too
    assert np.abs(wanted).max() > 1
    for row, start in places:
        np.testing.assert_allclose(
            logits[row, start : start + 45], wanted, rtol=0, atol=2e-5, err_msg=f"{row}, {start}"
        )


@functools.cache
def compiled_gradient(run: Execution) -> Callable[..., tuple]:
    def loss(p: Params, batch: objectives.Batch) -> tuple[jax.Array, objectives.Sums]:
        bases = np.array([0, 0, 1, 1, 1, 1], np.int32)
        sums = objectives.next_token(p, batch, spec=SPEC, run=run, token_bases=bases)
        return sums["loss"], sums

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


def loss_and_gradient(params: Params, run: Execution) -> tuple[float, Params]:
    """Mean nats a base and their gradient, of 64-token rows."""
    (value, sums), gradient = compiled_gradient(run)(params, packed([[40, 20], [64]], 64))
    return float(value / sums["weight"]), jax.device_get(gradient)


def test_the_first_loss_is_that_of_the_uniform_distribution() -> None:
    fresh = fresh_params(GPT)
    batch = packed(ROWS, LENGTH)
    assert not np.asarray(logits_of(fresh, batch)(batch["tokens"])).any()
    loss, _ = loss_and_gradient(fresh, RUN)
    assert loss == pytest.approx(np.log(SPEC.vocab_size), rel=1e-6)


def furthest(got: Params, wanted: Params) -> float:
    """The largest difference of any leaf, as a share of that leaf's largest value."""
    shares = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), got, wanted)
    return max(jax.tree.leaves(shares))


PRODUCTS = {
    "to heads": (gpt.dense, lambda x, w: jnp.einsum("BLD,DHh->BLHh", x, w), (3, 5, 8), (8, 2, 4)),
    "from heads": (
        lambda x, w: gpt.dense(x, w, 2),
        lambda x, w: jnp.einsum("BLHh,HhD->BLD", x, w),
        (3, 5, 2, 4),
        (2, 4, 8),
    ),
    "from heads to a narrower": (
        lambda x, w: gpt.dense(x, w, 2),
        lambda x, w: jnp.einsum("BLHh,HhD->BLD", x, w),
        (3, 5, 2, 4),
        (2, 4, 3),
    ),
    "to a narrower": (gpt.dense, lambda x, w: x @ w, (3, 5, 8), (8, 2)),
}


def same_gradients(by_hand: Callable, plain: Callable, *shapes: tuple[int, ...]) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    args = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]
    value, pulled = jax.vjp(plain, *args)
    got, pulled_by_hand = jax.vjp(by_hand, *args)
    np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)
    change = jax.random.normal(keys[2], value.shape)
    for mine, wanted in zip(pulled_by_hand(change), pulled(change), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-5)
        assert float(np.abs(wanted).max()) > 1e-3


@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_written_by_hand_are_those_of_the_plain_expression(name: str) -> None:
    by_hand, *rest = PRODUCTS[name]
    same_gradients(by_hand, *rest)
    with pytest.raises(AssertionError):  # the values are right, but one gradient is lost
        same_gradients(lambda x, y: by_hand(x, jax.lax.stop_gradient(y)), *rest)


def test_ways_of_running_give_the_same_values_and_gradients(params: Params) -> None:
    value, gradient = loss_and_gradient(params, RUN)
    assert min(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0
    for change in (
        {"unroll": True},
        {"remat": "block"},
        {"remat": "dots"},
    ):
        other_value, other_gradient = loss_and_gradient(params, dataclasses.replace(RUN, **change))
        assert other_value == pytest.approx(value, rel=1e-6), change
        assert furthest(other_gradient, gradient) < 5e-6, change


def test_a_recomputation_that_forgets_a_path_is_caught(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgets(layer: Callable) -> Callable:
        """The values are right, but no gradient passes from a block to those before it."""
        return lambda p, x, *rest: x + layer(p, jax.lax.stop_gradient(x), *rest) - x

    monkeypatch.setitem(gpt.REMAT, "forgets", forgets)
    value, gradient = loss_and_gradient(params, RUN)
    other_value, other = loss_and_gradient(params, dataclasses.replace(RUN, remat="forgets"))
    assert other_value == pytest.approx(value, rel=1e-6)
    assert furthest(other, gradient) > 5e-6


def products_again(remat: str) -> int:
    """How many matrix products a gradient has more than one that keeps all activations."""

    def products(remat: str) -> int:
        run = dataclasses.replace(RUN, remat=remat)
        bases = np.array([0, 0, 1, 1, 1, 1], np.int32)

        def loss(p: Params, batch: objectives.Batch) -> jax.Array:
            return objectives.next_token(p, batch, spec=SPEC, run=run, token_bases=bases)["loss"]

        shapes = jax.eval_shape(functools.partial(gpt.initialise, GPT, SPEC, seed=0))
        return str(jax.make_jaxpr(jax.grad(loss))(shapes, packed([[64]], 64))).count("dot_general[")

    return products(remat) - products("none")


def test_policies_compute_again_what_they_say() -> None:
    # A block has seven products with parameters (the last need not be done again to know how its
    # inputs and parameters move it), and those of attention.
    attention_alone, whole = products_again("dots"), products_again("block")
    assert attention_alone > 0
    assert whole == attention_alone + 6
    assert products_again("offload") == attention_alone


def test_bfloat16_is_near_float32(params: Params) -> None:
    value, gradient = loss_and_gradient(params, RUN)
    half_value, half_gradient = loss_and_gradient(params, BFLOAT16)
    # 8 bits a number: 1/256 each, growing over two blocks there and back.
    assert half_value == pytest.approx(value, rel=2**-7)
    assert furthest(half_gradient, gradient) < 2**-4
    assert {leaf.dtype for leaf in jax.tree.leaves(half_gradient)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("vocabulary", [6, 300])
def test_gradients_of_embeddings_are_sums_that_bfloat16_cannot_hold(vocabulary: int) -> None:
    tokens = np.tile(np.array([0, 1, 2, 2], np.int32), (1, 1024))

    def counted(look_up: Callable) -> list[float]:
        """The gradient of a sum over places: how often each token was looked up."""
        table = jnp.zeros((vocabulary, 1), jnp.bfloat16)
        gradient = jax.grad(lambda table: look_up(table, tokens).astype(jnp.float32).sum())(table)
        return np.asarray(gradient[:4, 0], np.float32).tolist()

    assert counted(gpt.look_up) == [1024, 1024, 2048, 0]
    assert counted(lambda table, tokens: table[tokens]) == [256, 256, 256, 0]


@pytest.mark.parametrize("run", [RUN, BFLOAT16], ids=["float32", "bfloat16"])
def test_a_changed_segment_moves_no_bit_of_another(params: Params, run: Execution) -> None:
    batch = packed(ROWS, LENGTH)
    logits = logits_of(params, batch, run)
    tokens = batch["tokens"]
    assert leaks(logits, tokens, other_tokens(tokens), batch["segment_ids"]) == []


def test_a_mask_without_segments_is_caught(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "allowed", blind_mask)
    blind = dataclasses.replace(RUN, unroll=True)  # so that it is compiled anew, and only here
    batch = packed(ROWS, LENGTH)
    logits = logits_of(params, batch, blind)
    tokens = batch["tokens"]
    found = leaks(logits, tokens, other_tokens(tokens), batch["segment_ids"])
    assert "segment 1 of row 0 moves row 0, segment 3" in found
    assert not any("row 0 moves row 1" in line for line in found)


def test_a_later_token_moves_no_bit_of_an_earlier_logit(params: Params) -> None:
    batch = packed(ROWS, LENGTH)
    logits = logits_of(params, batch)
    before = np.asarray(logits(batch["tokens"]))[1]
    for place in (0, 1, 127, 128, 139):
        tokens = batch["tokens"].copy()
        tokens[1, place] = other_tokens(tokens[1, place])
        after = np.asarray(logits(tokens))[1]
        moved = np.flatnonzero((before != after).any(axis=1))
        assert moved.min() == place
        assert set(range(place, 140)) == set(moved), "every later logit should see the change"


@pytest.mark.parametrize(
    ("window", "causal", "before", "after"), [(5, True, 0, 8), (5, False, 8, 8), (0, False, 70, 69)]
)
def test_a_token_moves_those_that_may_see_it(
    params: Params, window: int, causal: bool, before: int, after: int
) -> None:
    """With a window of 5 it reaches 4 places further in each of the two layers."""
    batch = packed([[10, 140]], LENGTH)
    spec = dataclasses.replace(SPEC, window=window)

    @jax.jit
    def states(tokens: np.ndarray) -> jax.Array:
        rest = batch["segment_ids"], batch["positions"]
        return gpt.hidden_states(params["backbone"], spec, RUN, tokens, *rest, causal=causal)

    tokens, place = batch["tokens"].copy(), 80
    tokens[0, place] = other_tokens(tokens[0, place])
    differ = np.asarray(states(batch["tokens"]) != states(tokens))[0].any(axis=1)
    assert np.flatnonzero(differ).tolist() == [*range(place - before, place + after + 1)]


@pytest.mark.parametrize("module", [GPT, Classifier])
def test_every_parameter_is_described_once(module: Callable) -> None:
    params = jax.eval_shape(functools.partial(gpt.initialise, module, SPEC, seed=0))
    axes = gpt.logical_axes(module, SPEC)
    sizes = {"embed": SPEC.width, "heads": SPEC.heads, "kv_heads": SPEC.kv_heads}
    sizes |= {"mlp": SPEC.feed_forward, "layers": SPEC.layers}

    def fits(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> None:
        assert leaf.dtype == jnp.float32
        assert len(names) == leaf.ndim
        for name, size in zip(names, leaf.shape, strict=True):
            assert name is None or (name in RULES and sizes[name] == size)

    jax.tree.map(fits, params, axes, is_leaf=lambda x: isinstance(x, tuple))


def test_the_seed_decides_the_parameters() -> None:
    fresh, other = fresh_params(GPT), fresh_params(GPT, seed=1)
    assert not np.array_equal(fresh["backbone"]["embedding"], other["backbone"]["embedding"])
    blocks = fresh["backbone"]["blocks"]
    assert float(jnp.std(blocks["wq"])) == pytest.approx(SPEC.width**-0.5, rel=0.1)
    assert float(jnp.std(blocks["down"])) == pytest.approx(
        (2 * SPEC.layers * SPEC.feed_forward) ** -0.5, rel=0.1
    )
    assert not np.array_equal(blocks["wq"][0], blocks["wq"][1])
