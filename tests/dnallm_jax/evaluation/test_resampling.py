"""The fast bootstrap says what scikit-learn says, ties, weights and all."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from dnallm_jax.evaluation import resampling


@st.composite
def weighted_records(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both classes, scores with many ties, weights that leave both classes."""
    count = draw(st.integers(2, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.concatenate([[0, 1], random.integers(0, 2, count - 2)])
    scores = random.integers(0, draw(st.sampled_from([2, 5, 1000])), count) / 1000
    weights = random.integers(0, 4, count)
    weights[:2] += 1
    return labels, scores, weights


def fast(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    ranking = resampling.rank(labels, scores)
    return resampling.ranking_metrics(
        ranking, weights[ranking.positives], weights[ranking.negatives]
    )


def same_as_scikit_learn(
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]],
    labels: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
) -> None:
    got = measure(labels, scores, weights)
    auroc = sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights)
    precision = sklearn_metrics.average_precision_score(labels, scores, sample_weight=weights)
    false, found, _ = sklearn_metrics.roc_curve(
        labels, scores, sample_weight=weights, drop_intermediate=False
    )
    assert got["auroc"] == pytest.approx(auroc, abs=1e-12)
    assert got["average_precision"] == pytest.approx(precision, abs=1e-12)
    assert got["sensitivity_at_1_percent_fpr"] == pytest.approx(found[false <= 0.01].max())


@settings(max_examples=150, deadline=None)
@given(weighted_records())
def test_ranking_metrics_equal_scikit_learn(
    records: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    same_as_scikit_learn(fast, *records)


def test_ignoring_ties_would_be_caught() -> None:
    def careless(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        untied = scores - np.arange(len(scores)) * 1e-9  # breaks ties by position in the file
        return fast(labels, untied, weights)

    labels, scores = np.array([1, 0, 1, 0, 0]), np.array([0.5, 0.5, 0.5, 0.5, 0.1])
    weights = np.ones(5, dtype=np.int64)
    same_as_scikit_learn(fast, labels, scores, weights)
    with pytest.raises(AssertionError):
        same_as_scikit_learn(careless, labels, scores, weights)


def test_sensitivity_at_one_percent_counts_whole_negatives() -> None:
    """300 negatives allow exactly 3 false positives, 299 allow 2; binary 0.01 must not decide."""
    for negatives, expected in ((299, 3 / 4), (300, 4 / 4)):
        scores = np.full(4 + negatives, 0.1)
        scores[:4] = [0.99, 0.97, 0.95, 0.93]  # with 0, 1, 2 and 3 negatives above them
        scores[4:7] = [0.98, 0.96, 0.94]
        labels = np.concatenate([np.ones(4), np.zeros(negatives)]).astype(int)
        got = fast(labels, scores, np.ones(len(labels), dtype=np.int64))
        assert got["sensitivity_at_1_percent_fpr"] == expected


def test_resampled_threshold_measures_equal_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    scores = np.round(np.clip(0.3 * labels + random.normal(0.4, 0.2, 200), 0, 1), 2)
    draws = resampling.resampled_metrics(
        labels, scores, threshold=0.5, clusters=None, resamples=5, seed=3
    )
    repeated = resampling.resample_weights(labels, None, 5, 3)
    for index, weights in enumerate(repeated):
        again = np.repeat(np.arange(200), weights)
        y, p = labels[again], scores[again]
        expected = {
            "auroc": sklearn_metrics.roc_auc_score(y, p),
            "mcc": sklearn_metrics.matthews_corrcoef(y, p >= 0.5),
            "brier": sklearn_metrics.brier_score_loss(y, p),
            "sensitivity": sklearn_metrics.recall_score(y, p >= 0.5),
            "false_positive_rate": 1 - sklearn_metrics.recall_score(1 - y, p < 0.5),
        }
        for name, value in expected.items():
            assert draws[name][index] == pytest.approx(value, abs=1e-12), name


def stratified(weights: np.ndarray, labels: np.ndarray) -> bool:
    return all(weights[labels == c].sum() == (labels == c).sum() for c in (0, 1))


def test_each_class_keeps_its_size() -> None:
    labels = np.array([1] * 3 + [0] * 500)
    for weights in resampling.resample_weights(labels, None, 50, 0):
        assert stratified(weights, labels)
    careless = np.random.default_rng(0).multinomial(503, np.full(503, 1 / 503), size=50)
    assert not all(stratified(weights, labels) for weights in careless)


def test_clusters_are_redrawn_whole_and_widen_the_interval() -> None:
    """Ten copies of every contig are no more evidence than one."""
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 40)
    scores = np.clip(0.15 * labels + random.normal(0.4, 0.15, 80), 0, 1)
    tenfold, names = np.repeat(np.arange(80), 10), np.repeat(np.arange(80).astype(str), 10)

    def width(y: np.ndarray, p: np.ndarray, clusters: np.ndarray | None) -> float:
        draws = resampling.resampled_metrics(
            y, p, threshold=None, clusters=clusters, resamples=400, seed=0
        )
        return float(np.diff(np.percentile(draws["auroc"], (2.5, 97.5)))[0])

    honest = width(labels, scores, None)
    assert width(labels[tenfold], scores[tenfold], names) == pytest.approx(honest, rel=0.15)
    assert width(labels[tenfold], scores[tenfold], None) < 0.5 * honest  # the planted fault
    for weights in resampling.resample_weights(labels[tenfold], names, 5, 0):
        assert (weights.reshape(80, 10) == weights.reshape(80, 10)[:, :1]).all()


def test_calibration_bins_are_equal_and_ignore_the_order_of_records() -> None:
    random = np.random.default_rng(2)
    scores = np.round(random.random(1000), 2)
    bins = resampling.calibration_bins(scores)
    order = random.permutation(1000)
    assert (resampling.calibration_bins(scores[order]) == bins[order]).all()
    assert np.bincount(bins, minlength=10).min() > 80
    assert len(np.unique(resampling.calibration_bins(np.full(7, 0.3)))) == 1


def test_expected_calibration_error_by_hand() -> None:
    """Ten records, ten bins: each is its own bin, so the error is the mean of |score - label|."""
    labels = np.array([0, 1] * 5)
    scores = np.linspace(0.05, 0.95, 10)
    expected = np.abs(scores - labels).mean()
    assert resampling.expected_calibration_error(labels, scores) == pytest.approx(expected)


def test_chance_alone_gives_the_stated_calibration_error() -> None:
    random = np.random.default_rng(4)
    scores = random.random(400)
    floor = float(resampling.calibration_errors_by_chance(scores).mean())
    seen = [
        resampling.expected_calibration_error((random.random(400) < scores).astype(int), scores)
        for _ in range(50)
    ]
    assert floor == pytest.approx(np.mean(seen), rel=0.15)
    overconfident = np.where(scores > 0.5, 0.99, 0.01)
    y = (random.random(400) < scores).astype(int)
    assert resampling.expected_calibration_error(y, overconfident) > 3 * floor
