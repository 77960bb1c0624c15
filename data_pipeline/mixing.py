"""Which row of which data set comes at a place of a mixture?

Of every BLOCK places of the endless stream each data set has as many as its weight says, in an
order drawn for the block. What lies at place p is thus a function of (data sets, weights, seed, p),
found without looking at the places before. Each data set goes through its own rows epoch by epoch,
as if it were alone, faster or slower.
"""

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.order import permuted, row_at

if (
    TYPE_CHECKING
):  # which loads ArrayRecord: the loader's other half serves scoring, which needs none
    from data_pipeline.rows import RowSource, Segments

BLOCK = 4_096


@dataclass(frozen=True)
class Joined:
    """The rows of several sources, one source after the other."""

    sources: tuple["RowSource", ...]

    @functools.cached_property
    def ends(self) -> list[int]:
        """Of each source, how many rows there are up to its last."""
        return list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        source, own = self._place(index)
        return source[own]

    def read(self, index: int, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """`RowSource.read` of the row."""
        source, own = self._place(index)
        return source.read(own, tokens)

    def segments(self, indices: Iterable[int]) -> Iterator["Segments"]:
        """`RowSource.segments` of the rows."""
        for source, own in map(self._place, indices):
            yield from source.segments([own])

    def _place(self, index: int) -> tuple["RowSource", int]:
        part = bisect.bisect_right(self.ends, index)
        return self.sources[part], index - (self.ends[part - 1] if part else 0)


@dataclass(frozen=True)
class Mixture(Joined):
    """The same rows in an order of its own, in which each source comes as often as its share."""

    shares: tuple[int, ...]  # of BLOCK places

    def row_at(self, place: int, seed: int) -> int:
        """The row at a place of the endless stream."""
        block, within = divmod(place, BLOCK)
        part, own = _placed(self.shares, seed, block)[within]
        before = self.ends[part - 1] if part else 0
        return before + row_at(own, len(self.sources[part]), seed)


@functools.lru_cache(maxsize=16)
def _placed(shares: tuple[int, ...], seed: int, block: int) -> list[tuple[int, int]]:
    """Of the places of a block, whose each is, and which place in the stream of that one alone."""
    drawn = permuted(np.arange(BLOCK), BLOCK, np.random.SeedSequence([seed, 4, block, 1]))
    ends = np.cumsum(shares)
    parts = np.searchsorted(ends, drawn, side="right")
    own = drawn.astype(np.int64) - (ends - shares)[parts] + block * np.array(shares)[parts]
    return list(zip(parts.tolist(), own.tolist(), strict=True))


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """How many of BLOCK places go to each weight: the nearest whole numbers (largest remainder).

    Raises UserError for a weight that would get none.
    """
    exact = BLOCK * np.array(weights, np.float64) / sum(weights)
    shares = np.floor(exact).astype(int)
    most = np.argsort(shares - exact, kind="stable")
    shares[most[: BLOCK - int(shares.sum())]] += 1
    if not shares.all():
        least = weights[int(shares.argmin())]
        raise UserError(
            f"pretrain.mixture: weight {least:g} is less than one row in {BLOCK:,}; leave that "
            "corpus out or give it more"
        )
    return tuple(shares.tolist())
