"""What would the metrics have been on other draws of such contigs? A fast, exact bootstrap.

Scikit-learn computes one AUROC in a millisecond; a table with intervals needs tens of thousands.
Here the records are sorted by score once, a resample is a whole number per record, and every metric
is a few cumulative sums over arrays that stay in a core's cache (blocks of many resamples at once
were measured slower). With all weights one the results equal scikit-learn's.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

CALIBRATION_BINS = 10
"""Equal-mass bins of the expected calibration error."""

FALSE_POSITIVE_RATE = 0.01
"""The false-positive rate at which sensitivity is reported."""


def calibration_bins(scores: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """int64[N]: the equal-mass bin (0 .. bins - 1) of each score.

    Records of equal score share a bin (the one their middle falls into), so the result does not
    depend on the order of the records.
    """
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((bins * middle / len(scores)).astype(np.int64), bins - 1)[group]


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean over records of |mean score - share viral| of the record's equal-mass bin."""
    gap = np.bincount(calibration_bins(scores), weights=scores - labels)
    return float(np.abs(gap).sum() / len(scores))


def calibration_errors_by_chance(
    scores: np.ndarray, *, seed: int = 0, draws: int = 200
) -> np.ndarray:
    """float64[draws]: calibration errors of a perfect model, its labels drawn from the scores."""
    random = np.random.default_rng(seed)
    members = np.eye(CALIBRATION_BINS)[calibration_bins(scores)].T
    errors = [
        np.abs(members @ (scores - (random.random(len(scores)) < scores))).sum()
        for _ in range(draws)
    ]
    return np.array(errors) / len(scores)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How P positives and N negatives lie among each other, by falling score.

    Attributes:
      positives, negatives: int64[P], int64[N]; the records of each class, highest score first.
      negatives_above: int64[P]; negatives of a higher score than this positive.
      negatives_level: int64[P]; negatives of a higher or equal score.
      positives_level: int64[P]; positives of a higher or equal score.
      positives_above: int64[N + 1]; positives of a higher score than this negative; the last
        entry, for no negative at all, is P.
      tied: whether any positive shares its score with another record.
    """

    positives: np.ndarray
    negatives: np.ndarray
    negatives_above: np.ndarray
    negatives_level: np.ndarray
    positives_level: np.ndarray
    positives_above: np.ndarray
    tied: bool


def rank(labels: np.ndarray, scores: np.ndarray) -> Ranking:
    """The Ranking of records with labels {0, 1}[N] and scores float[N]."""
    order = np.argsort(-scores, kind="stable")
    positives, negatives = order[labels[order] == 1], order[labels[order] == 0]
    falling_positive, falling_negative = -scores[positives], -scores[negatives]
    negatives_above = np.searchsorted(falling_negative, falling_positive, side="left")
    negatives_level = np.searchsorted(falling_negative, falling_positive, side="right")
    positives_level = np.searchsorted(falling_positive, falling_positive, side="right")
    return Ranking(
        positives=positives,
        negatives=negatives,
        negatives_above=negatives_above,
        negatives_level=negatives_level,
        positives_level=positives_level,
        positives_above=np.append(
            np.searchsorted(falling_positive, falling_negative, side="left"), len(positives)
        ),
        tied=bool(
            (negatives_above < negatives_level).any()
            or (positives_level > np.arange(1, len(positives) + 1)).any()
        ),
    )


def ranking_metrics(
    ranking: Ranking, positive: np.ndarray, negative: np.ndarray
) -> dict[str, float]:
    """AUROC, average precision and sensitivity at 1 % false positives of weighted records.

    Args:
      positive: int64[P], negative: int64[N]: how often each record counts, in the order of
        `ranking.positives` and `ranking.negatives`; neither sum is zero.

    Returns:
      "auroc" (ties count half), "average_precision" (scikit-learn's step sum),
      "sensitivity_at_1_percent_fpr" (the best threshold whose rate is not above 1 %).
    """
    found, false = cumulative(positive), cumulative(negative)
    positives, negatives = int(found[-1]), int(false[-1])
    level = false[ranking.negatives_level]
    outranking = level + (false[ranking.negatives_above] if ranking.tied else level)
    found_level = found[ranking.positives_level] if ranking.tied else found[1:]
    # At least 1 where a positive has weight: found_level holds its own.
    precision = found_level / np.maximum(found_level + level, 1)
    # 1e-9: 1 % of 300 is 3, not 2.99...
    allowed = math.floor(FALSE_POSITIVE_RATE * negatives + 1e-9)
    first_refused = int(np.searchsorted(false[1:], allowed, side="right"))
    return {
        "auroc": 1 - int(positive @ outranking) / (2 * positives * negatives),
        "average_precision": float(positive @ precision) / positives,
        "sensitivity_at_1_percent_fpr": int(found[ranking.positives_above[first_refused]])
        / positives,
    }


def cumulative(weights: np.ndarray) -> np.ndarray:
    """int64[K + 1]: entry k is the sum of the first k of [K]."""
    sums = np.zeros(len(weights) + 1, dtype=np.int64)
    np.cumsum(weights, out=sums[1:])
    return sums


def matthews(hit: int, false: int, missed: int, rejected: int) -> float:
    """Matthews correlation of confusion counts; 0 where all or none are called."""
    product = (hit + false) * (hit + missed) * (rejected + false) * (rejected + missed)
    return (hit * rejected - false * missed) / math.sqrt(product) if product else 0.0


def resample_weights(
    labels: np.ndarray, clusters: np.ndarray | None, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """int64[N] for each resample: how often each record occurs in it.

    Stratified: each class is redrawn on its own, so that both always occur. With `clusters`, whole
    clusters are redrawn (contigs of one genome are not independent witnesses), within each class.
    """
    random = np.random.default_rng(seed)
    strata = []  # of each class: its records, the unit that each belongs to, the number of units
    for label in (0, 1):
        records = np.flatnonzero(labels == label)
        units, unit = len(records), None
        if clusters is not None:
            names, unit = np.unique(clusters[records], return_inverse=True)
            units = len(names)
        strata.append((records, unit, units))
    for _ in range(resamples):
        weights = np.empty(len(labels), dtype=np.int64)
        for records, unit, units in strata:
            counts = np.bincount(random.integers(0, units, size=units), minlength=units)
            weights[records] = counts if unit is None else counts[unit]
        yield weights


def resampled_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    threshold: float | None,
    clusters: np.ndarray | None,
    resamples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """float64[resamples] by metric name: each metric on stratified bootstrap resamples.

    Args:
      labels: {0, 1}[N], both classes present.
      scores: float64[N], probabilities.
      threshold: records with score >= threshold are called; None leaves out "mcc", "sensitivity"
        and "false_positive_rate".
      clusters: str[N] to redraw whole clusters, or None to redraw records.

    The bins of the calibration error are those of the whole set, not made anew in each resample.
    The resamples depend on labels, clusters and seed alone: two score columns of the same records
    are redrawn together.
    """
    ranking = rank(labels, scores)
    gaps = scores - labels
    squares = np.square(gaps)
    bins = calibration_bins(scores)
    if threshold is not None:  # the called are the first of each class by falling score
        called_positives = int((scores[ranking.positives] >= threshold).sum())
        called_negatives = int((scores[ranking.negatives] >= threshold).sum())

    draws: list[dict[str, float]] = []
    for weights in resample_weights(labels, clusters, resamples, seed):
        positive, negative = weights[ranking.positives], weights[ranking.negatives]
        draw = ranking_metrics(ranking, positive, negative)
        total = int(weights.sum())
        draw["brier"] = float(weights @ squares) / total
        gap = np.bincount(bins, weights=weights * gaps)
        draw["expected_calibration_error"] = float(np.abs(gap).sum()) / total
        if threshold is not None:
            hit = int(positive[:called_positives].sum())
            false = int(negative[:called_negatives].sum())
            positives = int(positive.sum())
            missed, rejected = positives - hit, total - positives - false
            draw["mcc"] = matthews(hit, false, missed, rejected)
            draw["sensitivity"] = hit / positives
            draw["false_positive_rate"] = false / (false + rejected)
        draws.append(draw)
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
