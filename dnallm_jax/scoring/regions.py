"""Where in a long sequence is the virus? Stretches that stand out, each called as contigs are.

A sequence longer than WINDOW is cut into windows that overlap by half; each is scored as a sequence
of its own. Hosts differ in how viral all of their DNA looks, so part of the median of a sequence's
windows is taken off. Neighbours are weighed together by a hidden Markov model of two states, virus
and not: its likeliest path takes a run of windows for viral where their evidence outweighs two
changes of state, so that neither one hot window makes a virus nor one cold window cuts it in two.
Each run is then scored as a sequence of its own, calibrated for its length, and is a region if it
reaches the threshold. benchmarks/bench_regions.py measures it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.spooling import Spooled
from dnallm_jax.scoring.output import Calls, Result

if TYPE_CHECKING:
    from dnallm_jax.scoring.bundle import Detector

WINDOW = 5_000  # bases: long enough for a sure word, shorter than most viruses
VIRUS, BETWEEN = 20_000, 300_000  # bases: mean lengths of a virus in a chromosome and of the rest
BACKGROUND = 0.5  # of the median of a sequence's windows that is no evidence ...
CHROMOSOME = 20  # ... where they are so many that the median is a host's

Region = tuple[int, int, float]  # start, stop (from 0, stop not in it), score
Span = tuple[int, int]


def regions(
    detector: "Detector", calls: Calls, records: Sequence[Spooled], results: Sequence[Result]
) -> Iterator[list[Region]]:
    """The regions of each record, whose rows are `results`, in order along it.

    A record called viral in which no stretch stands out is one region, as a short one is.
    """
    from dnallm_jax.scoring.scorer import windows

    cuts = [
        windows(row.length, WINDOW, WINDOW // 2)
        if row.length > WINDOW and row.virus_score is not None
        else []
        for row in results
    ]
    runs = [
        viral_runs(spans, log_odds, row.length)
        for row, spans, log_odds in zip(
            results, cuts, _log_odds(detector, records, cuts), strict=True
        )
    ]
    scored = _log_odds(detector, records, runs)
    for row, own, log_odds in zip(results, runs, scored, strict=True):
        scores = [calls.score(1 / (1 + math.exp(-z))) for z in log_odds]
        found = [
            (start, stop, score)
            for (start, stop), score in zip(own, scores, strict=True)
            if score >= calls.threshold
        ]
        if not found and row.is_virus:
            found = [(0, row.length, row.virus_score or 0.0)]
        yield found


def _log_odds(
    detector: "Detector", records: Sequence[Spooled], spans: Sequence[Sequence[Span]]
) -> Iterator[np.ndarray]:
    """float64[W] for each record: calibrated log-odds of its spans; 0 where nothing is known."""
    scored = detector.scorer.score(
        record.bases[start:stop]
        for record, own in zip(records, spans, strict=True)
        for start, stop in own
    )
    for own in spans:
        logits = np.array([next(scored).logit for _ in own])
        lengths = np.array([stop - start for start, stop in own], int)
        found = detector.calibration.log_odds(logits, lengths) if own else logits
        yield np.where(np.isnan(found), 0.0, found)


def viral_runs(spans: Sequence[Span], log_odds: np.ndarray, length: int) -> list[Span]:
    """The stretches in which the likeliest path is in the viral state.

    Neighbouring windows meet in the middle of what they share.
    """
    if not spans:
        return []
    middles = [(start + stop) // 2 for (start, _), (_, stop) in zip(spans[1:], spans, strict=False)]
    edges = [0, *middles, length]
    step = length / len(spans)
    enter, leave = min(step / BETWEEN, 0.5), min(step / VIRUS, 0.5)
    if len(spans) >= CHROMOSOME:
        log_odds = log_odds - BACKGROUND * np.median(log_odds)
    path = likeliest_path(log_odds, enter, leave)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], path, [0]])))
    return [(edges[first], edges[last]) for first, last in changes.reshape(-1, 2).tolist()]


def likeliest_path(log_odds: np.ndarray, enter: float, leave: float) -> np.ndarray:
    """int64[W] of 0 and 1: the most probable states (Viterbi 1967), 1 where `log_odds` speaks.

    Args:
      log_odds: float[W], of state 1 at each place. enter, leave: the chances that state 1 begins,
        and that it ends, from one place to the next. The path begins, and so ends, as it goes on.
    """
    stay, change = math.log(1 - enter), math.log(enter)
    remain, back = math.log(1 - leave), math.log(leave)
    zero, one = math.log(leave / (enter + leave)), math.log(enter / (enter + leave))
    one += log_odds[0]
    came = np.zeros((len(log_odds), 2), np.int64)  # the state before the best path to each state
    for place, odds in enumerate(log_odds[1:].tolist(), 1):
        to_zero, to_one = (zero + stay, one + back), (zero + change, one + remain)
        came[place] = (to_zero[1] > to_zero[0], to_one[1] > to_one[0])
        zero, one = max(to_zero), max(to_one) + odds
    path = np.zeros(len(log_odds), np.int64)
    path[-1] = one > zero
    for place in range(len(path) - 1, 0, -1):
        path[place - 1] = came[place, path[place]]
    return path


def bed(
    detector: "Detector", calls: Calls, records: Sequence[Spooled], results: Sequence[Result]
) -> list[bytes]:
    """The regions of all records as lines of BED: id, start, stop, `virus`, score x 1,000."""
    found = regions(detector, calls, records, results)
    lines = [
        f"{row.sequence_id}\t{start}\t{stop}\tvirus\t{round(1_000 * score)}\n"
        for row, own in zip(results, found, strict=True)
        for start, stop, score in own
    ]
    return ["".join(lines).encode()]
