"""Do the small networks compute what they say, and is what they drop random in training alone?"""

import dataclasses

import jax
import numpy as np
import pytest

from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.composition import CompositionSpec, standardisation
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import composition_network, gpt_network, make_network
from tests.dnallm_jax.tiny import RUN, SPEC, numpy_params, packed, quick_jit

SMALL = CompositionSpec(features=12, widths=(8, 5), networks=3)
FEATURES = np.random.default_rng(0).random((40, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def params() -> Params:
    """Trained ones, as far as the formulas know: no head is zero, and features have been seen."""
    network = composition_network(SMALL, standard=standardisation(FEATURES))
    fresh = network.initialise(0)
    rng = np.random.default_rng(1)
    drawn = {
        name: rng.normal(0, 0.7, leaf.shape).astype(np.float32)
        for name, leaf in fresh.items()
        if not name.startswith("feature_")
    }
    return {**fresh, **drawn}


def logits(params: Params, features: np.ndarray, spec: CompositionSpec = SMALL, **more: int):
    network = composition_network(spec)
    return np.asarray(quick_jit(network.logits)(params, {"features": features, **more}))


def test_log_odds_are_their_formula(params: Params) -> None:
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    standard = (np.sqrt(FEATURES) - p["feature_mean"]) / p["feature_spread"]
    for network in range(3):
        x = np.clip(standard, -8, 8)
        for layer in range(2):
            x = x @ p[f"hidden_{layer}"][network] + p[f"bias_{layer}"][network]
            x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        wanted = x @ p["head_kernel"][network] + p["head_bias"][network]
        np.testing.assert_allclose(logits(params, FEATURES)[network], wanted, rtol=1e-4, atol=1e-5)


def test_features_are_standardised_and_never_decide_alone(params: Params) -> None:
    standard = standardisation(FEATURES)
    roots = (np.sqrt(FEATURES) - standard["feature_mean"]) / standard["feature_spread"]
    np.testing.assert_allclose(roots.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(roots.std(axis=0), 1, atol=1e-4)
    constant = standardisation(np.ones((9, 2), np.float32))
    assert np.isfinite(1 / constant["feature_spread"]).all()
    huge, huger = FEATURES[:1].copy(), FEATURES[:1].copy()
    huge[0, 3], huger[0, 3] = 1e4, 1e8
    assert (logits(params, huge) == logits(params, huger)).all()


def test_rows_are_dropped_from_in_training_alone_and_by_the_step_alone(params: Params) -> None:
    still = logits(params, FEATURES)
    assert (still == logits(params, FEATURES)).all()
    first = logits(params, FEATURES, step=1)
    assert (first == logits(params, FEATURES, step=1)).all()
    assert not np.allclose(first, still)
    assert not np.allclose(first, logits(params, FEATURES, step=2))
    assert not np.allclose(first[0] - still[0], first[1] - still[1]), "each network its own"
    none = dataclasses.replace(SMALL, dropout=0.0, feature_dropout=0.0)
    np.testing.assert_allclose(logits(params, FEATURES, none, step=1), still, rtol=1e-5)


def test_what_is_dropped_leaves_the_mean_as_it_is(params: Params) -> None:
    linear = CompositionSpec(features=12, widths=(8,), networks=1, dropout=0.5)
    p = {name: leaf[:1] for name, leaf in params.items() if not name.startswith("feature_")}
    p |= {name: params[name] for name in ("feature_mean", "feature_spread")}
    p["head_kernel"] = np.ones((1, 8), np.float32)
    network = composition_network(dataclasses.replace(linear, feature_dropout=0.0))
    run = quick_jit(lambda step: network.logits(p, {"features": FEATURES, "step": step}))
    mean = np.mean([run(step) for step in range(300)], axis=0)
    assert mean.mean() == pytest.approx(logits(p, FEATURES, linear).mean(), rel=0.03)


def test_standardisation_is_never_trained(params: Params) -> None:
    network = composition_network(SMALL)
    gradient = quick_jit(jax.grad(lambda p: network.logits(p, {"features": FEATURES}).sum()))(
        params
    )
    assert not np.any(gradient["feature_mean"])
    assert not np.any(gradient["feature_spread"])
    assert np.any(gradient["hidden_0"])


def test_a_network_is_made_again_from_its_description() -> None:
    gpt = gpt_network(SPEC, RUN, pooling="mean", causal=False)
    batch = packed([[20], [3, 9]], 32)
    p = numpy_params(Classifier)
    again = quick_jit(make_network(gpt.description, RUN).logits)(p, batch)
    assert (again == quick_jit(gpt.logits)(p, batch)).all()
    assert again.shape == (1, 2)
    composition = composition_network(SMALL)
    assert make_network(composition.description, RUN).description == composition.description
    with pytest.raises(ValueError, match="unknown kind of network 'forest'"):
        make_network({"kind": "forest"}, RUN)
