"""Thresholds keep their stated rate, intervals cover, Bayes' rule is Bayes' rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnallm_jax.evaluation import thresholds


def keeps_its_rate(
    threshold: float | None, labels: np.ndarray, scores: np.ndarray, rate: float
) -> bool:
    """Not above the rate, and no lower threshold among the scores would do as well."""
    negatives = scores[labels == 0]
    if threshold is None:
        return rate * len(negatives) < 1
    if (negatives >= threshold).mean() > rate + 1e-12:
        return False
    lower = scores[scores < threshold]
    return not len(lower) or bool((negatives >= lower.max()).mean() > rate)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(20, 300),
    steps=st.sampled_from([3, 20, 10**6]),
    rate=st.sampled_from([0.001, 0.01, 0.05, 0.3]),
)
def test_threshold_is_the_lowest_that_keeps_the_rate(
    seed: int, count: int, steps: int, rate: float
) -> None:
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], random.integers(0, 2, count - 2)])
    scores = random.integers(0, steps + 1, count) / steps
    threshold = thresholds.threshold_at_false_positive_rate(labels, scores, rate)
    assert keeps_its_rate(threshold, labels, scores, rate)


def test_a_plain_quantile_would_be_caught() -> None:
    labels = np.zeros(100, dtype=int)
    scores = np.repeat([0.2, 0.9], [98, 2])
    careless = float(np.quantile(scores, 0.99))
    assert not keeps_its_rate(careless, labels, scores, 0.01)
    honest = thresholds.threshold_at_false_positive_rate(labels, scores, 0.01)
    assert keeps_its_rate(honest, labels, scores, 0.01)


def test_too_few_negatives_support_no_rate() -> None:
    labels, scores = np.zeros(99, dtype=int), np.linspace(0, 1, 99)
    assert thresholds.threshold_at_false_positive_rate(labels, scores, 0.01) is None
    point = thresholds.operating_point(labels, scores, 0.01)
    assert "fewer than 100" in point["reason"]


def test_wilson_interval() -> None:
    assert thresholds.wilson(0, 300) == (0.0, pytest.approx(0.01264, abs=1e-4))
    assert thresholds.wilson(300, 300)[1] == 1.0
    low, high = thresholds.wilson(81, 263)  # Newcombe 1998, method 3: 0.2553 to 0.3662
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_precision_at_prevalence_by_counting() -> None:
    """In 100,000 contigs, 1 % viral: 900 of 1,000 found, 990 of 99,000 called wrongly."""
    assert thresholds.precision_at_prevalence(0.9, 0.01, 0.01) == pytest.approx(900 / 1890)
    assert thresholds.precision_at_prevalence(0.9, 0.0, 0.01) == 1.0
    assert thresholds.precision_at_prevalence(0.0, 0.0, 0.01) is None


def test_zero_false_positives_do_not_promise_perfect_precision() -> None:
    labels = np.repeat([0, 1], 300)
    scores = np.where(labels == 1, 0.9, 0.1)
    rates = thresholds.called_rates(labels, scores, 0.5, {"false_positive_rate": np.zeros(100)})
    assert rates["false_positive_rate"]["value"] == 0
    assert rates["false_positive_rate"]["high"] > 0.01
    assert rates["precision_at_prevalence"]["0.001"]["value"] == 1.0
    assert rates["precision_at_prevalence"]["0.001"]["low"] < 0.1
