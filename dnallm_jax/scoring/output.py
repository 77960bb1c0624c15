"""What does `score` say of a record? One row, with a reason where there is no score."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.spooling import Spooled

if TYPE_CHECKING:  # which loads JAX
    from dnallm_jax.scoring.bundle import Detector
    from dnallm_jax.scoring.scorer import Scored

SHORT = 100  # bases below which a score says little ...
SHORTEST = 50  # ... and below which, unless asked for, there is none


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the output; None where the record could not be scored."""

    sequence_id: str
    length: int
    """Bases."""
    virus_score: float | None
    """Probability that the sequence is viral, at the prevalence of `Calls`."""
    is_virus: bool | None
    """Whether the score reaches the threshold."""
    n_windows: int
    fraction_scored: float
    """Share of the bases that are A, C, G or T; 0 where nothing was scored."""
    strand_gap: float | None
    """Mean difference of the log-odds of the two strands; 0 where both are read at once."""
    status: str
    """ok, short, ambiguous, empty or duplicate_id; see `status_of`."""


COLUMNS = tuple(field.name for field in dataclasses.fields(Result))


@dataclass(frozen=True)
class Calls:
    """How log-odds become scores and calls.

    Attributes:
      threshold: scores from here on are called viral.
      false_positive_rate: share of sequences that are not viral which the threshold calls, as the
        bundle states it; None where the threshold was chosen by other means.
      prevalence: share of viral sequences at which scores are probabilities.
      calibrated_at: the same, of the detector's own probabilities.
      min_length: shorter sequences are not scored.
    """

    threshold: float
    false_positive_rate: float | None = None
    prevalence: float = 0.5
    calibrated_at: float = 0.5
    min_length: int = 0

    def score(self, probability: float) -> float:
        """A calibrated probability where another share of sequences is viral (Bayes' rule)."""
        if self.prevalence == self.calibrated_at:
            return probability
        from dnallm_jax.evaluation.calibration import at_prevalence

        one = np.array([probability])
        return float(at_prevalence(one, self.prevalence, self.calibrated_at)[0])


def choose_calls(
    detector: "Detector",
    *,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    prevalence: float | None = None,
    min_length: int = 0,
) -> Calls:
    """What a user asks for, checked; without wishes, the bundle's own threshold.

    A `threshold` of the user's is one of the scores as they are reported. The bundle's thresholds
    hold at the calibration's prevalence and move with the scores, so that another prevalence
    changes probabilities but no call. UserError for what is out of range, or a rate that the bundle
    has no threshold for.
    """
    if threshold is not None and false_positive_rate is not None:
        raise UserError("--threshold and --fpr both choose the threshold; give one of them")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold={threshold:g}: scores lie between 0 and 1")
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(
            f"--prevalence={prevalence:g}: the share of viral sequences lies between 0 and 1"
        )
    if min_length < 0:
        raise UserError(f"--min-length={min_length}: give a number of bases, 0 or more")
    calibrated_at = detector.calibration.prevalence
    calls = Calls(0.0, None, prevalence or calibrated_at, calibrated_at, min_length)
    if threshold is not None:
        return dataclasses.replace(calls, threshold=threshold)
    rate = detector.manifest.get("threshold_false_positive_rate")
    known = detector.threshold
    if false_positive_rate is not None:
        rate, known = false_positive_rate, _threshold_at(detector, false_positive_rate)
    return dataclasses.replace(calls, threshold=calls.score(known), false_positive_rate=rate)


def _threshold_at(detector: "Detector", rate: float) -> float:
    """The bundle's threshold of a false-positive rate; UserError names those that it has."""
    held = {float(key): value for key, value in detector.manifest.get("thresholds", {}).items()}
    if (own := detector.manifest.get("threshold_false_positive_rate")) is not None:
        held.setdefault(float(own), detector.threshold)
    for known, threshold in held.items():
        if threshold is not None and math.isclose(known, rate, rel_tol=1e-9):
            return float(threshold)
    rates = ", ".join(f"{known:g}" for known in sorted(held) if held[known] is not None)
    raise UserError(
        f"--fpr={rate:g}: this bundle has thresholds for the false-positive rates {rates or 'none'}"
        "; choose one of them, or give --threshold"
    )


@dataclass(frozen=True)
class Part:
    """Successive records, scored together and written together."""

    number: int  # from 0
    records: list[Spooled]
    repeated: list[bool]  # whether an earlier record, of any part, has the same id
    digest: str  # of all records from the first one of the input to the last one here


def score_part(detector: "Detector", calls: Calls, part: Part) -> list[Result]:
    """Exactly one Result a record, in order."""
    long_enough = [r.bases for r in part.records if len(r.bases) >= calls.min_length]
    scores = detector.scorer.score(long_enough)
    return [
        _result(detector, calls, record, repeated, scores)
        for record, repeated in zip(part.records, part.repeated, strict=True)
    ]


def _result(
    detector: "Detector", calls: Calls, record: Spooled, repeated: bool, scores: "Iterator[Scored]"
) -> Result:
    length = len(record.bases)
    scored = next(scores) if length >= calls.min_length else None
    known = scored is not None and math.isfinite(scored.logit)
    score = calls.score(detector.probability(scored, length)) if scored and known else None
    return Result(
        sequence_id=record.id,
        length=length,
        virus_score=score,
        is_virus=None if score is None else score >= calls.threshold,
        n_windows=scored.windows if scored else 0,
        fraction_scored=scored.fraction_scored if scored else 0.0,
        strand_gap=scored.strand_gap if scored and known else None,
        status=status_of(length, calls.min_length, known=known, repeated=repeated),
    )


def status_of(length: int, min_length: int, *, known: bool, repeated: bool) -> str:
    """Why there is no score, or what to beware of where there is one.

    Without a score: `empty` has no bases, `short` fewer than `min_length`, `ambiguous` nothing that
    the detector can read. With one: `duplicate_id` has the id of an earlier record, `short` fewer
    than SHORT bases; else `ok`.
    """
    if not length:
        return "empty"
    if length < min_length:
        return "short"
    if not known:
        return "ambiguous"
    if repeated:
        return "duplicate_id"
    return "short" if length < SHORT else "ok"
