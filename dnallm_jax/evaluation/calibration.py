"""How does a raw logit become a probability that can be taken at its word, at every contig length?

A classifier that is right about a 10 kb contig at logit 3 is not equally right about 300 bases at
logit 3. So probability = sigmoid(scale(length) x logit + bias(length)), with scale and bias linear
in log length between a few knots, fitted by maximum likelihood on validation records only
(temperature scaling: Guo et al. 2017; its slope-and-intercept form: Platt 1999). scale is positive:
at one length calibration never changes which of two contigs scores higher. A few numbers, stored as
JSON.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

KNOTS = 6
"""At most so many lengths at which scale and bias are free."""

RECORDS_PER_KNOT = 50
"""A knot is kept where at least so many records of each class lie around it."""

RECORDS_AT_ALL = 10
"""With fewer records of either class than this nothing is fitted: probability = sigmoid(logit)."""

SMALLEST_SCALE = 1e-3

SPREADS = (1.0, 0.3, 0.1)
"""How far a knot may stray from the fit over all lengths before it has to pay (standard deviations
of a Gaussian): as a share of the scale, and in logits of bias. 500 independent records outweigh any
of them; contigs of one cluster are fewer than they look, so clusters left out choose among them."""

FOLDS = 5
"""Parts that clusters are divided into; each is left out in turn."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scale and bias of the logit by contig length.

    Attributes:
      lengths: the knots, bases, rising. Between them scale and bias are linear in log length,
        outside they stay as at the nearest knot.
      scales: per knot, > 0 (1 / temperature). biases: per knot, logits.
      prevalence: the share of viral records at which the probabilities hold.
      records: validation records it was fitted on; 0 means that nothing was fitted.
    """

    lengths: tuple[float, ...] = (1000.0,)
    scales: tuple[float, ...] = (1.0,)
    biases: tuple[float, ...] = (0.0,)
    prevalence: float = 0.5
    records: int = 0

    def __post_init__(self) -> None:
        if not len(self.lengths) == len(self.scales) == len(self.biases) > 0:
            raise ValueError("a calibration needs equally many lengths, scales and biases")
        numbers = (*self.lengths, *self.scales, *self.biases, self.prevalence)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a calibration holds finite numbers only")
        rising = all(a < b for a, b in itertools.pairwise(self.lengths))
        if self.lengths[0] < 1 or not rising:
            raise ValueError(f"knots must be rising lengths of at least 1 base: {self.lengths}")
        if min(self.scales) <= 0:
            raise ValueError(f"scales must be positive, or ranks would turn round: {self.scales}")
        if not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence must lie between 0 and 1: {self.prevalence}")

    def apply(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """float64[N]: the probability of virus, rising in the logit at any one length.

        Args:
          logits: float[N], raw. lengths: int[N], bases.
        """
        return expit(self.log_odds(logits, lengths))

    def log_odds(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """float64[N]: the log-odds of that probability."""
        hats = hat_weights(np.asarray(lengths), self.lengths)
        scale, bias = hats @ np.array(self.scales), hats @ np.array(self.biases)
        return scale * np.asarray(logits, dtype=np.float64) + bias

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` of it is equal to self."""
        fields = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """The calibration that `as_dict` wrote; ValueError where it was damaged."""
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            raise ValueError(f"a calibration has the entries {sorted(known)}, not {sorted(values)}")
        return cls(
            lengths=tuple(float(v) for v in values["lengths"]),
            scales=tuple(float(v) for v in values["scales"]),
            biases=tuple(float(v) for v in values["biases"]),
            prevalence=float(values["prevalence"]),
            records=int(values["records"]),
        )


def fit(
    logits: np.ndarray,
    labels: np.ndarray,
    lengths: np.ndarray,
    *,
    prevalence: float = 0.5,
    clusters: np.ndarray | None = None,
) -> Calibration:
    """The calibration of greatest likelihood on validation records.

    Args:
      logits: float[N], raw, of a model that was not trained on these records. labels: {0, 1}[N].
      lengths: int[N], bases, >= 1.
      prevalence: the share of viral records for which probabilities shall hold. Classes are
        weighted to it around each knot, so that neither the mixture of the validation set nor its
        change with length is mistaken for evidence.
      clusters: str[N]; records of one are left out together to choose how smooth in length the
        calibration is. Without them records count as independent.

    Returns:
      A Calibration with up to KNOTS knots; one knot (the same at every length) where records are
      few, and the identity below RECORDS_AT_ALL of either class.

    The targets are Platt's (a little inside 0 and 1), so that a set which the logits separate
    perfectly still has a finite answer.

    Raises:
      ValueError: logits that are not finite, labels other than 0 and 1, lengths below 1.
    """
    logits = np.asarray(logits, dtype=np.float64)
    labels, lengths = np.asarray(labels).astype(np.int64), np.asarray(lengths).astype(np.int64)
    if not np.isfinite(logits).all():
        raise ValueError(f"logit {int(np.flatnonzero(~np.isfinite(logits))[0])} is not finite")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if len(lengths) and lengths.min() < 1:
        raise ValueError("lengths must be at least 1 base")
    counts = np.bincount(labels, minlength=2)
    if counts.min() < RECORDS_AT_ALL:
        return Calibration(prevalence=prevalence)

    targets = np.where(labels == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    unit = float(np.std(logits)) or 1.0
    standard = logits / unit
    middle = np.ones((len(logits), 1))
    balance = class_weights(labels, middle, prevalence)
    pooled = fit_knots(standard, targets, balance, middle, start=(1.0, 0.0), spread=None)
    knots = choose_knots(labels, lengths)
    scales, biases = pooled
    if len(knots) > 1:
        start = (float(pooled[0][0]), float(pooled[1][0]))
        hats = hat_weights(lengths, knots)
        weights = class_weights(labels, hats, prevalence)

        def fitted(chosen: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
            return fit_knots(
                standard[chosen],
                targets[chosen],
                weights[chosen],
                hats[chosen],
                start=start,
                spread=spread,
            )

        def loss(chosen: np.ndarray, out: np.ndarray, spread: float) -> float:
            scale, bias = fitted(chosen, spread)
            z = (hats[out] @ scale) * standard[out] + hats[out] @ bias
            return float(weights[out] @ (np.logaddexp(0.0, z) - labels[out] * z))

        spread = SPREADS[0] if clusters is None else choose_spread(SPREADS, loss, clusters)
        scales, biases = fitted(np.ones(len(labels), bool), spread)
    return Calibration(
        lengths=tuple(float(knot) for knot in knots),
        scales=tuple(float(scale) / unit for scale in scales),
        biases=tuple(float(bias) for bias in biases),
        prevalence=prevalence,
        records=len(logits),
    )


def fit_knots(
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    hats: np.ndarray,
    *,
    start: tuple[float, float],
    spread: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases, float64[K] each, of the smallest weighted cross-entropy (convex).

    Args:
      logits, targets, weights: float64[N]. hats: float64[N, K], from `hat_weights`.
      start: scale and bias to start from; with a `spread`, also to stay near.
    """
    from scipy import optimize  # a third of a second that scoring does not need

    knots = hats.shape[1]
    scale0, bias0 = start

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scales, biases = parameters[:knots], parameters[knots:]
        z = (hats @ scales) * logits + hats @ biases
        value = weights @ (np.logaddexp(0.0, z) - targets * z)
        slope = weights * (expit(z) - targets)
        gradient = np.concatenate([hats.T @ (slope * logits), hats.T @ slope])
        if spread is not None:
            stray_scale = (scales - scale0) / (spread * scale0)
            stray_bias = (biases - bias0) / spread
            value += 0.5 * (stray_scale @ stray_scale + stray_bias @ stray_bias)
            gradient[:knots] += stray_scale / (spread * scale0)
            gradient[knots:] += stray_bias / spread
        return float(value), gradient

    answer = optimize.minimize(
        loss,
        np.repeat([scale0, bias0], knots),
        jac=True,
        method="L-BFGS-B",
        bounds=[(SMALLEST_SCALE, None)] * knots + [(None, None)] * knots,
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
    )
    return answer.x[:knots], answer.x[knots:]


def choose_spread(
    spreads: Sequence[float],
    loss: Callable[[np.ndarray, np.ndarray, float], float],
    clusters: np.ndarray,
) -> float:
    """The spread of least loss on clusters left out.

    Args:
      loss: (bool[N] fitted on, bool[N] left out, spread) -> loss over those left out.
    """
    fold = folds(clusters)
    parts = [fold == number for number in range(FOLDS)]
    return min(spreads, key=lambda spread: sum(loss(~out, out, spread) for out in parts))


def folds(clusters: np.ndarray) -> np.ndarray:
    """int[N]: the part, 0 to FOLDS - 1, that each record is left out with; by whole clusters."""
    names, cluster = np.unique(clusters, return_inverse=True)
    return np.random.default_rng(0).permutation(len(names))[cluster] % FOLDS


def hat_weights(lengths: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """float64[N, K]: what each knot counts for at each length; rows sum to 1.

    Linear in log length between neighbouring knots, constant outside.
    """
    x, at = np.log(np.maximum(lengths, 1)), np.log(knots)
    return np.stack([np.interp(x, at, unit) for unit in np.eye(len(knots))], axis=1)


def choose_knots(labels: np.ndarray, lengths: np.ndarray) -> tuple[float, ...]:
    """Lengths around each of which RECORDS_PER_KNOT records of both classes lie; at least one."""
    distinct = np.unique(lengths)
    if len(distinct) > KNOTS:
        shares = (np.arange(KNOTS) + 0.5) / KNOTS
        distinct = np.unique(np.quantile(lengths, shares, method="nearest"))
    knots = [float(length) for length in distinct]
    while len(knots) > 1:
        hats = hat_weights(lengths, tuple(knots))
        around = np.minimum(hats[labels == 0].sum(axis=0), hats[labels == 1].sum(axis=0))
        if around.min() >= RECORDS_PER_KNOT:
            break
        del knots[int(around.argmin())]
    return tuple(knots)


def class_weights(labels: np.ndarray, hats: np.ndarray, prevalence: float) -> np.ndarray:
    """float64[N]: weights that make the share of viral records `prevalence` around every knot."""
    viral = hats[labels == 1].sum(axis=0)
    other = hats[labels == 0].sum(axis=0)
    both = viral + other
    return np.where(
        labels == 1, hats @ (prevalence * both / viral), hats @ ((1 - prevalence) * both / other)
    )


def at_prevalence(
    probabilities: np.ndarray, prevalence: float, training_prevalence: float = 0.5
) -> np.ndarray:
    """float64[N]: the same evidence where another share of contigs is viral (Bayes' rule).

    Args:
      probabilities: float[N], calibrated at `training_prevalence` (`Calibration.prevalence`).
      prevalence: the share of viral contigs in the sample, between 0 and 1.
    """
    for name, share in (("prevalence", prevalence), ("training_prevalence", training_prevalence)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1: {share}")
    p = np.asarray(probabilities, dtype=np.float64)
    viral = p * prevalence / training_prevalence
    other = (1 - p) * (1 - prevalence) / (1 - training_prevalence)
    return viral / (viral + other)
