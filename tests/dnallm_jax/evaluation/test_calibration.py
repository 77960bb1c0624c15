"""Calibrated probabilities can be taken at their word, at every length, and never change ranks."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from dnallm_jax.evaluation import calibration
from dnallm_jax.evaluation.calibration import Calibration
from dnallm_jax.evaluation.resampling import (
    calibration_errors_by_chance,
    expected_calibration_error,
)

LENGTHS = np.array([300, 1000, 10000])
TEMPERATURES = np.array([4.0, 2.0, 0.5])
BIASES = np.array([-1.0, 0.0, 1.0])


def draw(
    count: int, seed: int, lengths: np.ndarray = LENGTHS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits wrong by a known temperature and bias at each length; classes equally many."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    which = random.integers(0, len(lengths), count)
    # Normal logits of unit variance, means +-1: the true log odds of x are 2x.
    true_logits = 2 * random.normal(2.0 * labels - 1, 1.0)
    raw = (true_logits - BIASES[which % 3]) * TEMPERATURES[which % 3]
    return raw, labels, lengths[which]


def calibrated_at_each_length(fitted: Calibration, seed: int = 99) -> bool:
    logits, labels, lengths = draw(6000, seed)
    errors = []
    for length in LENGTHS:
        at = lengths == length
        p = fitted.apply(logits[at], lengths[at])
        floor = calibration_errors_by_chance(p).mean()
        errors.append(expected_calibration_error(labels[at], p) < floor + 0.015)
    return all(errors)


def test_finds_temperature_and_bias_of_every_length() -> None:
    fitted = calibration.fit(*draw(6000, 0))
    assert fitted.lengths == (300.0, 1000.0, 10000.0)
    assert np.array(fitted.scales) * TEMPERATURES == pytest.approx(1, abs=0.12)
    assert np.array(fitted.biases) == pytest.approx(BIASES, abs=0.25)
    assert calibrated_at_each_length(fitted)


def test_one_temperature_for_all_lengths_would_be_caught() -> None:
    logits, labels, _ = draw(6000, 0)
    pooled = calibration.fit(logits, labels, np.full(6000, 1000))
    assert len(pooled.scales) == 1
    assert not calibrated_at_each_length(pooled)
    assert not calibrated_at_each_length(Calibration())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 400),
    length=st.integers(1, 10**6),
)
def test_ranks_at_one_length_never_change(seed: int, count: int, length: int) -> None:
    """Whatever the fit makes of little or perverse data (here also: labels turned round)."""
    logits, labels, lengths = draw(count, seed)
    fitted = calibration.fit(logits, 1 - labels if seed % 2 else labels, lengths)
    rising = np.linspace(-5, 5, 50)
    probabilities = fitted.apply(rising, np.full(50, length))
    assert probabilities.dtype == np.float64
    assert (np.diff(probabilities) > 0).all()


def test_a_scale_that_turns_ranks_round_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Calibration(scales=(-1.0,))


def test_small_sets_get_less_freedom() -> None:
    few = calibration.fit(*draw(2 * calibration.RECORDS_AT_ALL - 2, 0))
    assert few == Calibration()
    some = calibration.fit(*draw(120, 0))
    assert len(some.scales) == 1
    assert some.records == 120


def test_separable_records_have_a_finite_answer() -> None:
    labels = np.arange(400) % 2
    logits = np.where(labels == 1, 3.0, -3.0)
    p = calibration.fit(logits, labels, np.full(400, 500)).apply(logits, np.full(400, 500))
    assert 0.95 < p[1] < 1
    assert 0 < p[0] < 0.05


def test_the_mixture_of_the_validation_set_is_not_evidence() -> None:
    """Short contigs hardly ever viral, long ones nearly always: the same probabilities."""
    logits, labels, lengths = draw(30000, 7)
    rare = np.where(lengths == 300, 1, 0)
    kept = (labels != rare) | (np.random.default_rng(0).random(30000) < 1 / 9)
    even = calibration.fit(logits, labels, lengths)
    skewed = calibration.fit(logits[kept], labels[kept], lengths[kept])
    for length in LENGTHS:
        x, at = np.linspace(-4, 4, 9), np.full(9, length)
        assert skewed.apply(x, at) == pytest.approx(even.apply(x, at), abs=0.06)
    # The planted fault: without the weights the mixture shows as bias.
    unweighted = calibration.fit_knots(
        logits[kept],
        labels[kept].astype(float),
        np.ones(int(kept.sum())),
        calibration.hat_weights(lengths[kept], even.lengths),
        start=(1.0, 0.0),
        spread=1.0,
    )
    careless = dataclasses.replace(even, biases=tuple(unweighted[1]), scales=tuple(unweighted[0]))
    short = np.full(9, 300)
    x = np.linspace(-4, 4, 9)
    assert careless.apply(x, short) != pytest.approx(even.apply(x, short), abs=0.06)


def test_many_lengths_become_a_few_knots_and_a_smooth_line() -> None:
    random = np.random.default_rng(3)
    lengths = random.integers(300, 20000, 5000)
    labels = np.arange(5000) % 2
    logits = 3 * (2 * random.normal(2.0 * labels - 1, 1.0))
    fitted = calibration.fit(logits, labels, lengths)
    assert 1 < len(fitted.lengths) <= calibration.KNOTS
    near, nearer = fitted.apply(np.array([2.0, 2.0]), np.array([4000, 4001]))
    assert near == pytest.approx(nearer, abs=1e-3)
    outside = fitted.apply(np.array([2.0, 2.0]), np.array([10**6, 10**8]))
    assert outside[0] == outside[1]


def roughness(fitted: Calibration) -> float:
    """How much scale and bias change with length."""
    return float(np.ptp(np.log(fitted.scales)) + np.ptp(fitted.biases))


def test_clusters_left_out_choose_how_smooth_it_is_in_length() -> None:
    """Contigs of a cluster err together: what looks like length is then which clusters were met."""
    logits, labels, lengths = draw(2400, 5)
    alone = np.arange(2400).astype(str)
    real = calibration.fit(logits, labels, lengths, clusters=alone)
    assert roughness(real) > 0.9 * roughness(calibration.fit(logits, labels, lengths))

    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(40) % 2, 40)
    lengths = np.repeat(LENGTHS[np.arange(40) // 2 % 3], 40)
    errors = np.repeat(random.normal(0, 2.5, 40), 40)
    logits = 2 * random.normal(2.0 * labels - 1, 1.0) + errors
    clusters = np.repeat(np.arange(40).astype(str), 40)
    smooth = calibration.fit(logits, labels, lengths, clusters=clusters)
    assert roughness(smooth) < 0.7 * roughness(calibration.fit(logits, labels, lengths))


def test_a_cluster_is_left_out_whole() -> None:
    clusters = np.array([f"c{number // 7}" for number in range(700)])
    fold = calibration.folds(clusters)
    assert set(np.bincount(fold)) == {140}
    assert (fold.reshape(100, 7) == fold[::7, None]).all()


def test_json_round_trip_is_exact() -> None:
    fitted = calibration.fit(*draw(600, 1))
    again = Calibration.from_dict(json.loads(json.dumps(fitted.as_dict(), allow_nan=False)))
    assert again == fitted
    with pytest.raises(ValueError, match="entries"):
        Calibration.from_dict({"scales": [1.0]})
    with pytest.raises(ValueError, match="finite"):
        Calibration.from_dict(fitted.as_dict() | {"prevalence": float("nan")})


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="logit 1 is not finite"):
        calibration.fit(np.array([0.0, np.nan]), np.array([0, 1]), np.array([9, 9]))


def test_at_prevalence_is_bayes_rule() -> None:
    """Log odds move by the change of the prior's log odds."""
    logits = np.linspace(-6, 6, 13)
    moved = calibration.at_prevalence(expit(logits), 0.01)
    assert moved == pytest.approx(expit(logits + np.log(0.01 / 0.99)))
    back = calibration.at_prevalence(moved, 0.5, training_prevalence=0.01)
    assert back == pytest.approx(expit(logits))
    assert calibration.at_prevalence(np.array([0.0, 1.0]), 0.2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration.at_prevalence(np.array([0.5]), 0.0)
