"""How good are these predictions, how sure is that, and for which contigs?

The values themselves are scikit-learn's; the intervals are percentiles of a stratified bootstrap
(`resampling.py`). Every answer is plain JSON: a measure that does not exist here is None with a
reason.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sklearn_metrics

from dnallm_jax.evaluation import resampling, thresholds

RANKING = ("auroc", "sensitivity_at_1_percent_fpr")
"""Measures that do not change with the share of viruses among the records."""

METRICS = (
    "auroc",
    "average_precision",
    "mcc",
    "sensitivity_at_1_percent_fpr",
    "brier",
    "expected_calibration_error",
)
FALSE_POSITIVE_RATES = (0.05, 0.01, 0.001)
LENGTH_EDGES = (300, 500, 1000, 3000, 5000, 10000)
GC_EDGES = (0.3, 0.4, 0.5, 0.6)
"""Shares of G and C at which bins of contigs meet."""

MAX_EXACT_LENGTHS = 10
"""With more distinct lengths than this, contigs are reported in ranges of length."""


def evaluate_predictions(
    predictions: Mapping[str, np.ndarray],
    *,
    threshold: float | None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every reported measure of a predictions table, overall and by length, novelty, group and GC.

    Args:
      predictions: equal-length columns. Needed: "label" {0, 1}, "score" (probability of virus, 0 to
        1), "length" (bases). Used where present: "group", "novelty" (text; "-" is unknown), "gc"
        (share of G and C), "cluster" (then whole clusters are redrawn in the bootstrap: contigs of
        one genome are not independent).
      threshold: records with score >= threshold are called viral; None where none has been chosen.
      bootstrap: resamples for each interval.
      seed: of the resamples.

    Returns:
      {"settings", "overall", "by_length", "by_novelty", "by_group", "by_gc",
      "by_novelty_and_length", "operating_points"}. "overall" and each bin are the dict that
      `evaluate_subset` describes. A bin of one class only (a group of phages) is set against all
      records of the other class, of the same length bin where the table is by length; its "against"
      says so.

    Raises:
      ValueError: columns of different length, labels other than 0 and 1, scores outside 0 to 1.
    """
    columns = checked(predictions)
    everything = np.ones(len(columns["label"]), dtype=bool)

    def entry(chosen: np.ndarray, pool: np.ndarray) -> dict[str, Any]:
        return evaluate_subset(
            columns, chosen, pool, threshold=threshold, resamples=bootstrap, seed=seed
        )

    bins = length_bins(columns["length"])
    by_novelty = text_bins(columns, "novelty")
    by_group = text_bins(columns, "group")
    return {
        "settings": {
            "threshold": threshold,
            "resamples": bootstrap,
            "seed": seed,
            "interval": "95 % percentiles of a bootstrap stratified by class",
            "resampled_unit": "cluster" if "cluster" in columns else "record",
            "calibration_bins": "10 bins of equal numbers of records",
        },
        "overall": entry(everything, everything),
        "by_length": {name: entry(chosen, chosen) for name, chosen in bins.items()},
        "by_novelty": {name: entry(chosen, everything) for name, chosen in by_novelty.items()},
        "by_group": {name: entry(chosen, everything) for name, chosen in by_group.items()},
        "by_gc": {name: entry(chosen, chosen) for name, chosen in gc_bins(columns).items()},
        "by_novelty_and_length": {
            name: {
                length: entry(chosen & pool, pool)
                for length, pool in bins.items()
                if (chosen & pool).any()
            }
            for name, chosen in by_novelty.items()
            if len(by_novelty) > 1
        },
        "operating_points": [
            thresholds.operating_point(columns["label"], columns["score"], rate)
            for rate in FALSE_POSITIVE_RATES
        ],
    }


def evaluate_subset(
    columns: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    pool: np.ndarray,
    *,
    threshold: float | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The measures of the records `chosen` (bool[N]) of a checked table.

    Where `chosen` holds one class only, it is joined by the records of the other class in `pool`
    (bool[N]); then only measures that do not depend on the share of viruses are given.

    Returns:
      counts "records", "viral", "not_viral", "bases" and (with a cluster column) "clusters";
      "against", None or the number and class of the records joined; each of METRICS as {"value",
      "low", "high"}, or all None and a "reason" (the calibration error also has "if_perfect", what
      chance alone would give a perfectly calibrated model on these records); with a threshold also
      "sensitivity", "false_positive_rate" (of the class present) and "precision_at_prevalence".
    """
    label = columns["label"]
    viral = int(label[chosen].sum())
    records = int(chosen.sum())
    entry: dict[str, Any] = {
        "records": records,
        "viral": viral,
        "not_viral": records - viral,
        "bases": int(columns["length"][chosen].sum()),
        "against": None,
    }
    if "cluster" in columns:
        entry["clusters"] = len(np.unique(columns["cluster"][chosen]))

    used = chosen
    if 0 < viral < records:
        measurable: tuple[str, ...] = METRICS
        reason = ""
    else:
        only = "viral" if viral else "not viral"
        reason = f"only one class here: every contig is {only}"
        used = chosen | (pool & (label == (0 if viral else 1)))
        joined = int(used.sum()) - records
        measurable = RANKING if joined else ()
        if joined:
            other = "not viral" if viral else "viral"
            entry["against"] = {"records": joined, "class": other}
    if threshold is None:
        measurable = tuple(name for name in measurable if name != "mcc")

    y, scores = label[used], columns["score"][used]
    clusters = columns["cluster"][used] if "cluster" in columns else None
    values = point_metrics(y, scores, measurable, threshold)
    draws: dict[str, np.ndarray] = {}
    if measurable and resamples:
        draws = resampling.resampled_metrics(
            y, scores, threshold=threshold, clusters=clusters, resamples=resamples, seed=seed
        )
    for name in METRICS:
        if name in values:
            entry[name] = with_interval(name, values[name], draws.get(name))
        else:
            unset = name == "mcc" and threshold is None
            entry[name] = thresholds.missing("no threshold was given" if unset else reason)
    if "expected_calibration_error" in values:
        chance = resampling.calibration_errors_by_chance(scores, seed=seed)
        error = entry["expected_calibration_error"]
        error["if_perfect"] = float(chance.mean())
        if error["low"] is not None and error["value"] <= np.percentile(chance, 97.5):
            error["low"] = 0.0  # nothing here speaks against perfect calibration
    if threshold is not None:
        entry.update(
            thresholds.called_rates(label[chosen], columns["score"][chosen], threshold, draws)
        )
    return entry


def point_metrics(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], threshold: float | None
) -> dict[str, float]:
    """The named METRICS of records of both classes, by scikit-learn wherever it has them."""
    values = {}
    for name in names:
        if name == "auroc":
            value = sklearn_metrics.roc_auc_score(labels, scores)
        elif name == "average_precision":
            value = sklearn_metrics.average_precision_score(labels, scores)
        elif name == "mcc":
            value = sklearn_metrics.matthews_corrcoef(labels, scores >= threshold)
        elif name == "brier":
            value = sklearn_metrics.brier_score_loss(labels, scores)
        elif name == "sensitivity_at_1_percent_fpr":
            false, found, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
            value = found[false <= resampling.FALSE_POSITIVE_RATE + 1e-12].max()
        elif name == "expected_calibration_error":
            value = resampling.expected_calibration_error(labels, scores)
        else:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        values[name] = float(value)
    return values


def paired_difference(
    labels: np.ndarray,
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    metric: str,
    *,
    clusters: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How much better is `a` than `b` on the same records? Both are redrawn together.

    Args:
      labels: {0, 1}[N], both classes present. scores_a, scores_b: float[N], probabilities.
      metric: one of METRICS.
      clusters: str[N] to redraw whole clusters, or None.
      limits: the thresholds of a and of b; for "mcc" alone.

    Returns:
      {"metric", "a", "b", "value": a - b, "low", "high", "share_above_zero": of the resamples}.
    """
    if metric == "mcc" and limits is None:
        raise ValueError("mcc needs the two thresholds (limits)")
    labels = np.asarray(labels)
    values, draws = [], []
    for column, limit in zip((scores_a, scores_b), limits or (None, None), strict=True):
        scores = np.asarray(column, dtype=np.float64)
        values.append(point_metrics(labels, scores, [metric], limit)[metric])
        draws.append(
            resampling.resampled_metrics(
                labels,
                scores,
                threshold=limit,
                clusters=clusters,
                resamples=bootstrap,
                seed=seed,
            )[metric]
        )
    difference = draws[0] - draws[1]
    low, high = np.percentile(difference, (2.5, 97.5))
    return {
        "metric": metric,
        "a": values[0],
        "b": values[1],
        "value": values[0] - values[1],
        "low": float(low),
        "high": float(high),
        "share_above_zero": float((difference > 0).mean()),
    }


def with_interval(name: str, value: float, draws: np.ndarray | None) -> dict[str, Any]:
    """{"value", "low", "high"}: 95 % of the resamples.

    Resampling adds its own noise to the calibration error, which noise can only raise; its interval
    is therefore mirrored about the value (the "basic" bootstrap), not below 0, and holds the value.
    """
    if draws is None or not len(draws):
        return {"value": value, "low": None, "high": None}
    low, high = (float(edge) for edge in np.percentile(draws, (2.5, 97.5)))
    if name == "expected_calibration_error":
        low, high = max(0.0, min(value, 2 * value - high)), max(value, 2 * value - low)
    return {"value": value, "low": low, "high": high}


def called_viral_by(
    predictions: Mapping[str, np.ndarray], column: str, *, threshold: float, label: int = 0
) -> dict[str, dict[str, Any]]:
    """The share called viral by value of a text column (genus, organism), most called first.

    Args:
      label: only records of this class: 0 gives false-positive rates, 1 gives sensitivities.

    Returns:
      value -> {"value", "low", "high", "called", "of"}, Wilson intervals.
    """
    columns = checked(predictions)
    of_class = columns["label"] == label
    names = text(predictions[column])
    rates = {}
    for name in np.unique(names[of_class]):
        called = columns["score"][of_class & (names == name)] >= threshold
        hits, of = int(called.sum()), len(called)
        low, high = thresholds.wilson(hits, of)
        rates[str(name)] = {"value": hits / of, "low": low, "high": high, "called": hits, "of": of}
    return dict(sorted(rates.items(), key=lambda item: (-item[1]["value"], item[0])))


def text(column: np.ndarray) -> np.ndarray:
    """str[N]: a text column, decoded where it comes as bytes."""
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in column], dtype=str)


def checked(predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns that evaluation uses, as int64, float64 and str; ValueError if unusable."""
    lengths = {name: len(column) for name, column in predictions.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different length: {lengths}")
    label = np.asarray(predictions["label"])
    if not len(label):
        raise ValueError("no predictions to evaluate")
    if not np.isin(label, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    score = np.asarray(predictions["score"], dtype=np.float64)
    bad = np.flatnonzero(~((score >= 0) & (score <= 1)))
    if len(bad):
        raise ValueError(f"record {bad[0]}: score {score[bad[0]]} is not between 0 and 1")
    columns = {
        "label": label.astype(np.int64),
        "score": score,
        "length": np.asarray(predictions["length"]).astype(np.int64),
    }
    for name in ("group", "novelty", "cluster"):
        if name in predictions:
            columns[name] = text(predictions[name])
    if "gc" in predictions:
        columns["gc"] = np.asarray(predictions["gc"], dtype=np.float64)
    return columns


def text_bins(columns: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """bool[N] by value of a text column, in alphabetical order; nothing where all are unknown."""
    if name not in columns or (columns[name] == "-").all():
        return {}
    return {str(value): columns[name] == value for value in np.unique(columns[name])}


def gc_bins(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """bool[N] by share of G and C, "0-30 %" to "60-100 %", of those bins that hold contigs."""
    if "gc" not in columns:
        return {}
    bins = {
        f"{100 * low:.0f}-{100 * high:.0f} %": (columns["gc"] >= low) & (columns["gc"] < high)
        for low, high in itertools.pairwise((0.0, *GC_EDGES, 1.0 + 1e-9))
    }
    return {name: chosen for name, chosen in bins.items() if chosen.any()}


def length_bins(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """bool[N] by length bin, short to long: the exact lengths where they are few, else ranges.

    Exact bins are named "300", ranges "0-299", "300-499" ... "10000+".
    """
    distinct = np.unique(lengths)
    if len(distinct) <= MAX_EXACT_LENGTHS:
        return {str(length): lengths == length for length in distinct}
    edges = (0, *LENGTH_EDGES)
    bins = {
        f"{low}-{high - 1}": (lengths >= low) & (lengths < high)
        for low, high in itertools.pairwise(edges)
    }
    bins[f"{edges[-1]}+"] = lengths >= edges[-1]
    return {name: chosen for name, chosen in bins.items() if chosen.any()}
