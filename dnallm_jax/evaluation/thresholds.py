"""Which threshold keeps false positives at a stated rate, and what is then found and called?

Plain arithmetic on calls, also without scikit-learn: `score` and `finetune` may use it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import gammaincinv

PREVALENCES = (0.1, 0.01, 0.001)
"""Shares of viral contigs in a sample for which precision is given."""

Z = 1.959963984540054  # the normal quantile of a 95 % interval


def missing(reason: str) -> dict[str, Any]:
    """A measure that does not exist here, and why."""
    return {"value": None, "low": None, "high": None, "reason": reason}


def called_rates(
    labels: np.ndarray, scores: np.ndarray, threshold: float, draws: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Sensitivity, false-positive rate and precision at stated prevalences, at the threshold.

    The interval of a rate is the wider of Wilson's and the bootstrap's: the first knows that 0 of
    300 is not zero, the second that contigs of one genome are not independent.
    """
    rates: dict[str, Any] = {}
    for name, label in (("sensitivity", 1), ("false_positive_rate", 0)):
        of_class = scores[labels == label]
        if not len(of_class):
            rates[name] = missing("no contig of that class here")
            continue
        called = int((of_class >= threshold).sum())
        low, high = wilson(called, len(of_class))
        if name in draws and len(draws[name]):
            edges = np.percentile(draws[name], (2.5, 97.5))
            low, high = min(low, float(edges[0])), max(high, float(edges[1]))
        rates[name] = {
            "value": called / len(of_class),
            "low": low,
            "high": high,
            "called": called,
            "of": len(of_class),
        }
    rates["precision_at_prevalence"] = {
        f"{prevalence:g}": precision_interval(
            rates["sensitivity"], rates["false_positive_rate"], prevalence
        )
        for prevalence in PREVALENCES
    }
    return rates


def precision_at_prevalence(
    sensitivity: float, false_positive_rate: float, prevalence: float
) -> float | None:
    """Share of the called that are viral, by Bayes' rule; None where nothing would be called."""
    true = sensitivity * prevalence
    called = true + false_positive_rate * (1 - prevalence)
    return true / called if called > 0 else None


def precision_interval(
    sensitivity: Mapping[str, Any], false_positive_rate: Mapping[str, Any], prevalence: float
) -> dict[str, Any]:
    """Precision, with its interval from the worst to the best corner of both rates: cautious."""
    if sensitivity["value"] is None or false_positive_rate["value"] is None:
        return missing("needs contigs of both classes")
    value, low, high = (
        precision_at_prevalence(sensitivity[s], false_positive_rate[f], prevalence)
        for s, f in (("value", "value"), ("low", "high"), ("high", "low"))
    )
    if value is None:
        return missing("nothing is called at this threshold")
    return {"value": value, "low": low, "high": high}


def wilson(called: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): also right for 0 and for all."""
    share = called / of
    centre = share + Z * Z / (2 * of)
    half = Z * math.sqrt(share * (1 - share) / of + Z * Z / (4 * of * of))
    scale = 1 + Z * Z / of
    low = 0.0 if called == 0 else (centre - half) / scale
    high = 1.0 if called == of else (centre + half) / scale
    return low, high


def poisson(count: int) -> tuple[float, float]:
    """95 % interval of the mean of which so many events were counted (Garwood 1936)."""
    low = float(gammaincinv(count, 0.025)) if count else 0.0
    return low, float(gammaincinv(count + 1, 0.975))


def threshold_at_false_positive_rate(
    labels: np.ndarray, scores: np.ndarray, rate: float
) -> float | None:
    """The lowest threshold at which at most `rate` of the records that are not viral are called.

    Records with score >= threshold are called. None where `rate` allows less than one of the
    negatives at hand: so few cannot support such a rate. Choose thresholds on validation only.
    """
    negatives = np.sort(np.asarray(scores, dtype=np.float64)[np.asarray(labels) == 0])[::-1]
    allowed = math.floor(rate * len(negatives) + 1e-9)
    if allowed < 1:
        return None
    if allowed >= len(negatives):
        return 0.0
    first_refused = negatives[allowed]
    higher = np.asarray(scores)[np.asarray(scores) > first_refused]
    just_above = float(np.nextafter(first_refused, np.inf))
    if not len(higher):
        return just_above
    # Halfway to the next score seen: a last-digit difference on another machine changes no call.
    return max(just_above, float((first_refused + higher.min()) / 2))


def operating_point(labels: np.ndarray, scores: np.ndarray, rate: float) -> dict[str, Any]:
    """The threshold of a stated false-positive rate on these records, and what it finds."""
    threshold = threshold_at_false_positive_rate(labels, scores, rate)
    point: dict[str, Any] = {"stated_false_positive_rate": rate, "threshold": threshold}
    if threshold is None:
        return point | {"reason": f"fewer than {math.ceil(1 / rate):,} contigs that are not viral"}
    return point | called_rates(labels, scores, threshold, {})
