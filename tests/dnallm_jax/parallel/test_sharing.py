"""Is attention on several devices, whole rows or parts of them, that of one, and without a leak?"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import splash
from dnallm_jax.model.attention import BACKENDS, attention
from dnallm_jax.parallel import sharing
from dnallm_jax.parallel.mesh import make_mesh
from tests.dnallm_jax.tiny import leaks, quick_jit

HEADS, KV_HEADS, LENGTH = 8, 2, 144  # a row in parts of 36 and of 18 tokens
IDS = np.zeros((2, LENGTH), np.int32)
IDS[0, :140] = np.repeat([1, 2, 3], [20, 100, 20])  # segments within a part and over many
IDS[1, :] = np.repeat([1, 2], [70, 74])


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "splash", functools.partial(splash.splash, interpret=True))


def queries_keys_values(seed: int) -> np.ndarray:
    shape = (2, LENGTH, HEADS + 2 * KV_HEADS, 16)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def output_and_gradient(
    sizes: tuple[int, ...] | None, backend: str, ids: np.ndarray = IDS
) -> Callable:
    """[B, L, ...] of both, on a mesh of these sizes or (None) on one device alone."""
    attend: Any = functools.partial(attention, window=90, backend=backend)
    if sizes:
        mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        attend = sharing.share_out(attend, mesh=mesh)

    def energy(qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
        q, k, v = jnp.split(qkv, [HEADS, HEADS + KV_HEADS], axis=2)
        out = attend(q, k, v, jnp.asarray(ids))
        return jnp.sum(out**2 * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    @quick_jit
    def both(qkv: jax.Array) -> jax.Array:
        gradient, out = jax.grad(energy, has_aux=True)(qkv)
        return jnp.concatenate([out, gradient], axis=2)

    return both


@functools.cache
def alone() -> np.ndarray:
    return np.asarray(output_and_gradient(None, "reference")(queries_keys_values(0)))


def furthest(got: jax.Array) -> float:
    return float(np.abs(np.asarray(got) - alone()).max() / np.abs(alone()).max())


SIZES = {"sequence": (1, 1, 1, 8), "all": (1, 2, 2, 2)}


@pytest.mark.parametrize(
    ("sizes", "backend"),
    [
        ("sequence", "reference"),
        ("all", "reference"),
        ("sequence", "blockwise"),
        ("all", "splash"),
    ],
)
def test_shared_attention_is_that_of_one_device(sizes: str, backend: str) -> None:
    assert furthest(output_and_gradient(SIZES[sizes], backend)(queries_keys_values(0))) < 2e-6


def test_a_changed_segment_moves_no_bit_of_another() -> None:
    both = output_and_gradient(SIZES["all"], "blockwise")
    assert leaks(both, queries_keys_values(0), queries_keys_values(1), IDS) == []


def test_key_heads_given_to_the_wrong_queries_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing.jnp, "repeat", lambda x, n, axis: jnp.tile(x, (1, 1, n, 1)))
    assert (
        furthest(output_and_gradient(SIZES["sequence"], "reference")(queries_keys_values(0))) > 0.01
    )


def test_segment_ids_of_a_part_taken_for_those_of_the_row_are_caught() -> None:
    both = output_and_gradient(SIZES["sequence"], "reference", np.tile(IDS[:, :18], (1, 8)))
    found = leaks(both, queries_keys_values(0), queries_keys_values(1), IDS)
    assert "segment 1 of row 1 moves row 1, segment 2" in found
