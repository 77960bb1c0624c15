"""How do the windows of a sequence become its one log-odds?

By a soft mean: (1 / t) log of the mean of exp(t x log-odds), each window as heavy as it has known
bases. At t = 0 it is the mean, below it leans towards the least viral windows, above towards the
most viral one; a sequence of one window keeps its log-odds whatever t is. t is chosen on validation
records only, by clusters left out in turn, and stays 0 unless another is better by more than its
standard error. How much the answer counts at each length, and what it means as a probability, is
settled by `joining` and `calibration`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnallm_jax.evaluation import calibration

GRID = (-2.0, -1.4, -1.0, -0.7, -0.5, -0.35, 0.35, 0.7)
"""Values of t that are tried beside 0, in units of one over the spread of the windows' log-odds."""

RECORDS = 50
"""With fewer records of several windows of either class than this, the mean is taken."""

CLUSTERS = 10
"""The same of clusters."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """What a network says of the W windows of one sequence: float64[W] log-odds, and shares."""

    logits: np.ndarray
    shares: np.ndarray


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """The soft mean of a sequence's windows; `sharpness` is t."""

    sharpness: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.sharpness):
            raise ValueError(f"an aggregation needs a finite sharpness, not {self.sharpness}")

    def apply(self, logits: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """float64[...]: the log-odds of a sequence of W windows.

        Args:
          logits: float[W, ...], of the windows. shares: float[W], of its known bases; sum to 1.
        """
        if not self.sharpness:
            return shares @ logits
        if len(logits) == 1:
            return logits[0]
        sharp = self.sharpness * logits
        top = sharp.max(axis=0)
        return (np.log(shares @ np.exp(sharp - top)) + top) / self.sharpness

    def of(self, records: Sequence[Windows]) -> np.ndarray:
        """float64[N]: the log-odds of N sequences."""
        return np.array([float(self.apply(own.logits, own.shares)) for own in records])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` of it is equal to self."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Aggregation":
        """The aggregation that `as_dict` wrote; ValueError where it was damaged."""
        if set(values) != {"sharpness"}:
            raise ValueError(f"an aggregation has the entry 'sharpness', not {sorted(values)}")
        return cls(float(values["sharpness"]))


def fit(
    windows: Sequence[Windows], labels: np.ndarray, lengths: np.ndarray, clusters: np.ndarray
) -> Aggregation:
    """The aggregation that tells clusters left out best, after calibration, on validation records.

    Args:
      windows: of N records, by a member that was not trained on them. labels: {0, 1}[N].
      lengths: int[N], bases. clusters: str[N]; contigs of one cluster are left out together.
    """
    several = np.flatnonzero([len(own.logits) > 1 for own in windows])
    labels, lengths, clusters = labels[several], lengths[several], clusters[several]
    enough = np.bincount(labels, minlength=2).min() >= RECORDS
    names, cluster = np.unique(clusters, return_inverse=True)
    if not enough or len(names) < CLUSTERS:
        return Aggregation()
    own = [windows[number] for number in several.tolist()]
    spread = float(np.std(np.concatenate([one.logits for one in own]))) or 1.0
    fold = calibration.folds(clusters)

    def losses(aggregation: Aggregation) -> np.ndarray:
        """float64[C]: what each cluster, left out, adds to the mean loss."""
        logits = aggregation.of(own)
        loss = np.empty(len(own))
        for number in range(calibration.FOLDS):
            out = fold == number
            fitted = calibration.fit(logits[~out], labels[~out], lengths[~out])
            p = fitted.apply(logits[out], lengths[out])
            loss[out] = -np.log(np.maximum(np.where(labels[out] == 1, p, 1 - p), 1e-12))
        return np.bincount(cluster, weights=loss, minlength=len(names)) / len(own)

    mean = losses(Aggregation())
    best, least = Aggregation(), 0.0
    for tried in (Aggregation(t / spread) for t in GRID):
        change = losses(tried) - mean
        error = float(change.std() * math.sqrt(len(names)))
        if change.sum() + error < 0 and change.sum() < least:
            best, least = tried, float(change.sum())
    return best
