"""How much does each member of a detector count, at every contig length?

A network on composition needs length, a language model less so: the joint log-odds are a weighted
sum whose weights, none below zero, are linear in log length between a few knots. They are fitted by
maximum likelihood on validation records only (stacking: Wolpert 1992). What the sum means as a
probability is settled afterwards, by `calibration`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from dnallm_jax.evaluation.calibration import (
    RECORDS_AT_ALL,
    choose_knots,
    choose_spread,
    class_weights,
    hat_weights,
)

WEIGHT_SPREADS = (0.5, 0.1, 0.02)
"""How far a weight may stray from the one over all lengths before it has to pay, as a share of it
(standard deviations of a Gaussian); clusters left out choose among them."""


@dataclasses.dataclass(frozen=True)
class Joining:
    """Weights of M members' log-odds by contig length.

    Attributes:
      lengths: the knots, bases, rising. Between them weights are linear in log length, outside they
        stay as at the nearest knot.
      weights: for each knot the weight of each member, 0 or more.
    """

    lengths: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not len(self.lengths) == len(self.weights) > 0:
            raise ValueError("a joining needs as many rows of weights as lengths")
        table = np.array(self.weights)
        if not np.isfinite(table).all() or table.min() < 0 or table.sum(axis=1).min() <= 0:
            raise ValueError(f"weights are 0 or more, and some above 0: {self.weights}")

    def apply(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """float64[N]: the joint log-odds, before calibration.

        Args:
          logits: float[N, M], of the members. lengths: int[N], bases.
        """
        weights = hat_weights(np.asarray(lengths), self.lengths) @ np.array(self.weights)
        return (weights * logits).sum(axis=1)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` of it is equal to self."""
        return {"lengths": list(self.lengths), "weights": [list(row) for row in self.weights]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Joining":
        """The joining that `as_dict` wrote; ValueError where it was damaged."""
        return cls(
            tuple(float(v) for v in values["lengths"]),
            tuple(tuple(float(v) for v in row) for row in values["weights"]),
        )


def equal(members: int) -> Joining:
    """The mean of the members' log-odds; of a single member, its log-odds as they are."""
    return Joining((1000.0,), ((1 / members,) * members,))


def fit(
    logits: np.ndarray,
    labels: np.ndarray,
    lengths: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
) -> Joining:
    """The joining of greatest likelihood on validation records.

    Args:
      logits: float[N, M], of members that were not trained on these records; finite.
      labels: {0, 1}[N]. lengths: int[N], bases.
      clusters: str[N]; records of one are left out together to choose how smooth in length the
        weights are. Without them records count as independent.

    Returns:
      Weights at up to `calibration.KNOTS` lengths; equal shares of the standardised log-odds below
      RECORDS_AT_ALL of either class; `equal(1)` for a single member.
    """
    records, members = logits.shape
    if members == 1:
        return equal(1)
    spread = np.maximum(logits.std(axis=0), 1e-6)
    if np.bincount(labels, minlength=2).min() < RECORDS_AT_ALL:
        return Joining((1000.0,), (tuple(1 / members / spread),))
    standard = logits / spread
    start = np.full((1, members), 1 / members)
    pooled, _ = _fit(standard, labels, np.ones((records, 1)), start, None)
    knots = choose_knots(labels, lengths)
    weights = pooled
    if len(knots) > 1:
        hats = hat_weights(lengths, knots)
        start = np.repeat(pooled, len(knots), 0)
        balance = class_weights(labels, hats, 0.5)

        def fitted(chosen: np.ndarray, stray: float) -> tuple[np.ndarray, np.ndarray]:
            return _fit(standard[chosen], labels[chosen], hats[chosen], start, stray)

        def loss(chosen: np.ndarray, out: np.ndarray, stray: float) -> float:
            own, biases = fitted(chosen, stray)
            z = ((hats[out] @ own) * standard[out]).sum(axis=1) + hats[out] @ biases
            return float(balance[out] @ (np.logaddexp(0.0, z) - labels[out] * z))

        stray = WEIGHT_SPREADS[0]
        if clusters is not None:
            stray = choose_spread(WEIGHT_SPREADS, loss, clusters)
        weights, _ = fitted(np.ones(records, bool), stray)
    rows = (weights / spread).tolist()
    return Joining(tuple(float(knot) for knot in knots), tuple(tuple(row) for row in rows))


def _fit(
    logits: np.ndarray,
    labels: np.ndarray,
    hats: np.ndarray,
    start: np.ndarray,
    spread: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights, float64[K, M], and a bias at each knot, of the smallest weighted cross-entropy.

    With a `spread`, weights that stray from `start` pay for it.
    """
    from scipy import optimize  # a third of a second that scoring does not need

    knots, members = start.shape
    balance = class_weights(labels, hats, 0.5)
    scale = spread * np.maximum(start, 0.1 * start.mean()) if spread else None

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = np.split(parameters, [knots * members])
        weights = weights.reshape(knots, members)
        z = ((hats @ weights) * logits).sum(axis=1) + hats @ biases
        slope = balance * (expit(z) - labels)
        value = balance @ (np.logaddexp(0.0, z) - labels * z)
        gradient = hats.T @ (slope[:, None] * logits)
        if scale is not None:
            stray = (weights - start) / scale
            value += 0.5 * (stray**2).sum()
            gradient = gradient + stray / scale
        return float(value), np.concatenate([gradient.ravel(), hats.T @ slope])

    bounds = [(0.0, None)] * (knots * members) + [(None, None)] * knots
    answer = optimize.minimize(
        loss,
        np.concatenate([start.ravel(), np.zeros(knots)]),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
    )
    weights, biases = np.split(answer.x, [knots * members])
    return weights.reshape(knots, members), biases
