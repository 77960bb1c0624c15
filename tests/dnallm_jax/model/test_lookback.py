"""Does a token see those just before it in its own segment, and nothing of another segment?"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import gpt
from dnallm_jax.model.gpt import Backbone, Params, initialise
from tests.dnallm_jax.tiny import RUN, SPEC, leaks, numpy_params, other_tokens, packed, quick_jit

DEEP = dataclasses.replace(SPEC, lookback=3)
BATCH = packed([[5, 1, 8], [2, 3, 4]], 16)


@pytest.fixture(scope="module")
def params() -> Params:
    return numpy_params(Backbone, DEEP)


def embedded(params: Params, batch: dict[str, np.ndarray]) -> Callable[[np.ndarray], jax.Array]:
    embed = quick_jit(lambda tokens, at: gpt._embed(params, DEEP, tokens, at, RUN))
    return lambda tokens: embed(tokens, batch["positions"])


def test_an_embedding_is_the_sum_over_earlier_tokens_of_the_segment(params: Params) -> None:
    found = np.asarray(embedded(params, BATCH)(BATCH["tokens"]))
    own, before = np.asarray(params["embedding"]), np.asarray(params["lookback_embedding"])
    for row, place in np.argwhere(BATCH["segment_ids"] > 0):
        tokens, at = BATCH["tokens"][row], BATCH["positions"][row, place]
        wanted = own[tokens[place]] + sum(
            before[n - 1][tokens[place - n]] for n in range(1, 4) if n <= at
        )
        np.testing.assert_allclose(found[row, place], wanted, rtol=1e-5, atol=1e-5)


def leaks_of(params: Params, positions: np.ndarray) -> list[str]:
    batch = {**BATCH, "positions": positions}
    return leaks(
        embedded(params, batch),
        batch["tokens"],
        other_tokens(batch["tokens"]),
        batch["segment_ids"],
    )


def test_no_segment_sees_another(params: Params) -> None:
    assert leaks_of(params, BATCH["positions"]) == []


def test_planted_positions_that_run_on_let_segments_see_each_other(params: Params) -> None:
    running = np.broadcast_to(np.arange(16, dtype=np.int32), BATCH["positions"].shape)
    assert leaks_of(params, running)


def test_without_it_there_is_no_such_parameter() -> None:
    shapes = jax.eval_shape(functools.partial(initialise, Backbone, SPEC, seed=0))
    assert "lookback_embedding" not in shapes
    deep = jax.eval_shape(functools.partial(initialise, Backbone, DEEP, seed=0))
    assert deep["lookback_embedding"].shape == (3, SPEC.vocab_size, SPEC.width)
    assert deep["lookback_embedding"].dtype == jnp.float32
