"""How often does each word occur, whether those that do are few or most of all there could be?

A word is an integer below `size`. A table of all words is the fastest to count in and to ask, once
it is paid for. Where the words that were met are few beside it, they themselves, sorted, are
cheaper. Which of the two it is changes no figure.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

FEW = 16  # words are few that are less than one in so many of all there could be
BLOCK = 1 << 20  # so much of the range of words is gone through at once


class WordCounts(Protocol):
    """Counts of the words below `size`."""

    @property
    def size(self) -> int: ...

    @property
    def total(self) -> int:
        """All words, each as often as it occurs."""

    @property
    def distinct(self) -> int:
        """How many words occur at all."""

    def occurring(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The words that occur, int64[n] rising, and how often each does, BLOCK after BLOCK."""

    def of(self, words: np.ndarray) -> np.ndarray:
        """How often each of the words (int64, any shape) occurs; fastest where they rise."""

    def of_starts(self, starts: np.ndarray, symbols: int) -> np.ndarray:
        """How often the words occur that begin so, with any of `symbols` letters behind."""

    def ends(self, size: int) -> "WordCounts":
        """Counts of the shorter words, those below `size`, that the words end in."""


@dataclass(frozen=True)
class Few:
    """Counts of the words that are held, each as often as it occurs."""

    words: np.ndarray  # int64, rising
    size: int

    @property
    def total(self) -> int:
        return len(self.words)

    @property
    def distinct(self) -> int:
        return len(self._each[0])

    @functools.cached_property
    def _each(self) -> tuple[np.ndarray, np.ndarray]:
        ends = np.flatnonzero(np.append(self.words[1:] != self.words[:-1], self.total > 0))
        return self.words[ends], np.diff(ends, prepend=-1)

    def occurring(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        words, times = self._each
        bounds = np.searchsorted(words, np.arange(0, self.size, BLOCK))[1:]
        yield from zip(np.split(words, bounds), np.split(times, bounds), strict=True)

    def of(self, words: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.words, words, "right") - np.searchsorted(self.words, words)

    def of_starts(self, starts: np.ndarray, symbols: int) -> np.ndarray:
        first = starts * symbols
        return np.searchsorted(self.words, first + symbols) - np.searchsorted(self.words, first)

    def ends(self, size: int) -> WordCounts:
        return count([self.words % size], size)


@dataclass(frozen=True)
class Many:
    """Counts of all words there could be."""

    counts: np.ndarray  # integers, [size]

    @property
    def size(self) -> int:
        return len(self.counts)

    @property
    def total(self) -> int:
        return int(self.counts.sum(dtype=np.int64))

    @property
    def distinct(self) -> int:
        return int(np.count_nonzero(self.counts))

    def occurring(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for at in range(0, self.size, BLOCK):
            words = np.flatnonzero(self.counts[at : at + BLOCK]) + at
            yield words, self.counts[words]

    def of(self, words: np.ndarray) -> np.ndarray:
        return self.counts[words]

    def of_starts(self, starts: np.ndarray, symbols: int) -> np.ndarray:
        # einsum adds a few neighbours faster than sum does
        own = self.counts.reshape(-1, symbols)[starts]
        return np.einsum("...j->...", own, dtype=np.int64)

    def ends(self, size: int) -> "Many":
        return Many(self.counts.reshape(-1, size).sum(0, dtype=np.int64))


def count(parts: Iterable[np.ndarray], size: int) -> WordCounts:
    """Counts of the words of all parts, integers below `size`.

    Memory, however many they are: 4 bytes for each word there could be, and 16 for each of a part.
    """
    parts, held = iter(parts), [np.zeros(0, np.int64)]
    while sum(map(len, held)) < size // FEW:
        part = next(parts, None)
        if part is None:
            return Few(np.sort(np.concatenate(held, dtype=np.int64)), size)
        held.append(part)
    counts = np.zeros(size, np.int32)
    for part in itertools.chain(held, parts):
        # Of whole-size indices and numbers of its own type this is one plain loop.
        np.add.at(counts, part.astype(np.intp), np.int32(1))
    return Many(counts)
