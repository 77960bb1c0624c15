"""Is the detector better than something simpler, at every length, and how sure is that?

A rival is whatever else gave scores to the same contigs: a baseline, a member of the detector
alone, another bundle. Differences are paired: the same clusters are redrawn for both.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dnallm_jax.evaluation.metrics import (
    evaluate_predictions,
    length_bins,
    paired_difference,
    point_metrics,
)
from dnallm_jax.evaluation.thresholds import missing

OVERALL = "all"
"""The name of all lengths together, beside those of `metrics.length_bins`."""

Table = Mapping[str, np.ndarray]
Scores = Mapping[str, np.ndarray]
"""Name -> float[N], in the order of the contigs; only their order matters."""


def beside(table: Table, scores: np.ndarray) -> dict[str, Any]:
    """What a rival is worth, and what `table["score"]` is worth beside it.

    Returns:
      "evaluation" of the rival, the "difference" over all contigs, and "by_length".
    """
    return {
        "evaluation": evaluate_predictions(
            {**table, "score": scores}, threshold=None, bootstrap=200
        ),
        "difference": difference(table, table["score"], scores),
        "by_length": {
            length: difference(table, table["score"], scores, chosen)
            for length, chosen in length_bins(table["length"]).items()
        },
    }


def against_best(table: Table, own: np.ndarray, rivals: Scores) -> dict[str, dict[str, Any]]:
    """How much better than the best rival `own` is: over all contigs (OVERALL), and by length.

    The best is chosen anew at each length, by its AUROC on these very contigs, so that it flatters
    the rivals. Each entry is `difference`'s with the best one's name under "rival".
    """
    found = {}
    bins = {OVERALL: np.ones(len(own), bool), **length_bins(table["length"])}
    for length, chosen in bins.items():
        label = table["label"][chosen]
        if not rivals or not 0 < label.sum() < len(label):
            reason = "contigs of one class only" if rivals else "nothing to compare with"
            found[length] = missing(reason) | {"rival": None}
            continue
        worth = {name: auroc(label, scores[chosen]) for name, scores in rivals.items()}
        best = max(worth, key=lambda name: worth[name])
        found[length] = difference(table, own, rivals[best], chosen) | {"rival": best}
    return found


def difference(
    table: Table, own: np.ndarray, other: np.ndarray, chosen: np.ndarray | None = None
) -> dict[str, Any]:
    """The paired difference in AUROC of the chosen contigs, with the interval of whole clusters."""
    if chosen is None:
        chosen = np.ones(len(own), bool)
    label = table["label"][chosen]
    if not 0 < label.sum() < len(label):
        return missing("contigs of one class only")
    clusters = table["cluster"][chosen]
    return paired_difference(label, own[chosen], other[chosen], "auroc", clusters=clusters)


def auroc(label: np.ndarray, scores: np.ndarray) -> float:
    """The AUROC of contigs of both classes."""
    return point_metrics(label, scores, ("auroc",), None)["auroc"]
