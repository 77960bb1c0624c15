"""Does a held backbone stay, and do merged adapters say what they said beside it?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.model import adapters
from dnallm_jax.model.adapters import MATRICES, AdapterSpec, adapted, head_only, merged
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import gpt_network
from tests.dnallm_jax.tiny import RUN, SPEC, numpy_params, packed, quick_jit

PLAIN = gpt_network(SPEC, RUN, pooling="mean", causal=False)
ALL = AdapterSpec(rank=3, alpha=6.0, matrices=tuple(MATRICES))
BATCH = packed([[20, 11], [32]], 32)


@functools.cache
def fresh() -> Params:
    blocks = numpy_params(Classifier)["backbone"]["blocks"]
    return quick_jit(lambda blocks: adapters._initialise(blocks, ALL, 0))(blocks)


@functools.cache
def params() -> Params:
    """A backbone with adapters that change something."""
    rng = np.random.default_rng(2)
    full = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), fresh())
    return {**numpy_params(Classifier), "adapters": full}


def test_new_adapters_change_nothing() -> None:
    network = adapted(PLAIN, ALL)
    made = jax.eval_shape(functools.partial(network.initialise, 0))
    is_axes = lambda x: isinstance(x, tuple)  # noqa: E731
    assert jax.tree.structure(made) == jax.tree.structure(network.axes, is_leaf=is_axes)
    ranks = jax.tree.map(lambda x, axes: len(x.shape) == len(axes), made, network.axes)
    assert all(jax.tree.leaves(ranks))
    assert all(np.asarray(own["a"]).any() for own in fresh().values())
    same = merged({**params(), "adapters": fresh()}, ALL)
    assert "adapters" not in same
    for name in MATRICES:
        own = same["backbone"]["blocks"][name], params()["backbone"]["blocks"][name]
        assert np.array_equal(*own), name


def unlike(p: Params, spec: AdapterSpec) -> float:
    """How far the merged network is from one whose products with A B are made apart."""
    blocks = {name: np.asarray(w, np.float64) for name, w in p["backbone"]["blocks"].items()}
    for name, axes in MATRICES.items():
        a, b = (np.asarray(p["adapters"][name][key], np.float64) for key in "ab")
        outer = [np.tensordot(a[n], b[n], axes=(axes, 0)) for n in range(SPEC.layers)]
        blocks[name] = blocks[name] + 2.0 * np.stack(outer)
    by_hand = {k: v.astype(np.float32) for k, v in blocks.items()}
    found = merged(p, spec)["backbone"]["blocks"]
    return max(float(np.abs(found[name] - by_hand[name]).max()) for name in by_hand)


def test_merged_adapters_are_products_added_to_the_matrices() -> None:
    assert unlike(params(), ALL) < 1e-6
    assert unlike(params(), AdapterSpec(3, 3.0, ALL.matrices)) > 1e-2, "planted: another scale"


@functools.cache
def gradient(kind: str) -> Params:
    network = {"full": PLAIN, "head": head_only(PLAIN), "lora": adapted(PLAIN, ALL)}[kind]
    p = params() if kind == "lora" else {k: v for k, v in params().items() if k != "adapters"}
    return quick_jit(jax.grad(lambda p: network.logits(p, BATCH).sum()))(p)


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_a_held_backbone_has_no_gradient(kind: str) -> None:
    found = gradient(kind)
    assert not any(leaf.any() for leaf in jax.tree.leaves(found["backbone"]))
    assert found["head_kernel"].any()
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient("full")["backbone"]))
    if kind == "lora":
        assert all(leaf.any() for leaf in jax.tree.leaves(found["adapters"]))
        # What goes to the head is what the merged network would give it.
        plain = merged(params(), ALL)
        whole = quick_jit(jax.grad(lambda p: PLAIN.logits(p, BATCH).sum()))(plain)
        np.testing.assert_allclose(found["head_kernel"], whole["head_kernel"], atol=1e-5)


def test_what_the_networks_hold_and_finish() -> None:
    assert (PLAIN.held, PLAIN.finished) == ((), None)
    assert head_only(PLAIN).held == adapted(PLAIN, ALL).held == ("backbone",)
    assert head_only(PLAIN).finished is None
    finish = adapted(PLAIN, ALL).finished
    assert finish
    assert jax.tree.structure(finish(params())) == jax.tree.structure(numpy_params(Classifier))
    assert adapted(PLAIN, ALL).description == PLAIN.description
