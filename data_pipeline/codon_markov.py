"""How many bits per base does an order-k Markov model of codons need, along the open stretches?

What is counted, and what is scored, are the codons that a language model predicts in the same rows:
every unambiguous codon but the first of a segment. Order k knows the k codons before it in the same
stretch. Where a stretch (or the segment) began less than k codons before, it knows those and that
there are no more; an ambiguous codon hides what lies before it. So every order is scored on the
same codons, all of them. Smoothing is that of `markov`, down to p = 1/64 below order 0.

The figures are bits per base covered: those of a codon over 3. They stand beside a model of the
codon stream, never beside one that reads every base.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline import word_counts
from data_pipeline.frames import FIRST_CODON, FORWARD
from data_pipeline.markov import SMOOTHING, Score, code_lengths
from data_pipeline.word_counts import WordCounts

MAX_ORDER = 3
_CODONS = 64
_NONE = _CODONS  # stands for all that is not a codon, and for all before that
_SYMBOLS = _CODONS + 1
_BATCH = 1 << 20  # tokens counted at once


@dataclass(frozen=True)
class CodonCounts:
    """Counts of the words of MAX_ORDER codons and the one behind; where they are many, 71 MB."""

    words: WordCounts

    @property
    def counted(self) -> int:
        """Codons counted."""
        return self.words.total

    def score(self, segments: Iterable[np.ndarray]) -> Score:
        """Bits per base covered by order, the strengths picked, and the bases scored."""
        target = fit(segments)
        orders = range(MAX_ORDER + 1)
        scored = 3 * target.counted
        if scored == 0:
            return Score(dict.fromkeys(orders, float("nan")), {}, 0)
        bits, strengths = code_lengths(self.words, target.words, MAX_ORDER, _SYMBOLS, _CODONS)
        return Score(
            {order: float(bits[order] / scored) for order in orders},
            {order: float(a) for order, a in enumerate(strengths)},
            scored,
        )

    def summary(self) -> dict:
        """JSON-able: what was counted, and how the scores are smoothed."""
        return {
            "unit": "codon",
            "orders": list(range(MAX_ORDER + 1)),
            "counted_bases": 3 * self.counted,
            "smoothing": SMOOTHING,
        }


def fit(segments: Iterable[np.ndarray]) -> CodonCounts:
    """Counts of all segments, each dtype[T] of the ids of `frames.Codon`.

    Memory does not grow with the segments.
    """
    words = map(_words, _batches(segments))
    return CodonCounts(word_counts.count(words, _SYMBOLS ** (MAX_ORDER + 1)))


def _batches(segments: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    held: list[np.ndarray] = []
    size = 0
    for segment in segments:
        held.append(segment)
        size += len(segment)
        if size >= _BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


def _words(segments: list[np.ndarray]) -> np.ndarray:
    """int64[n]: the words that end in the codons that are counted."""
    tokens = np.concatenate(segments)
    codons = np.where((tokens >= FIRST_CODON) & (tokens < FORWARD), tokens, FIRST_CODON + _NONE)
    codons = codons.astype(np.int64) - FIRST_CODON
    lengths = np.array([len(segment) for segment in segments])
    is_first = np.zeros(len(tokens), bool)
    is_first[(lengths.cumsum() - lengths)[lengths > 0]] = True
    words, weight, before = codons.copy(), 1, codons
    hidden = np.zeros(len(tokens), bool)  # what lies this far before the codon is not known
    starts = is_first  # so far before it, a segment began
    for _ in range(MAX_ORDER):
        before = np.concatenate([[_NONE], before[:-1]])
        hidden = hidden | starts | (before == _NONE)
        starts = np.concatenate([[True], starts[:-1]])
        weight *= _SYMBOLS
        words += weight * np.where(hidden, _NONE, before)
    return words[(codons != _NONE) & ~is_first]
