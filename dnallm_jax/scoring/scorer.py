"""How viral does a network find a sequence? Windows, strands, and one log-odds a sequence.

A sequence up to the window length is one window; a longer one is cut into evenly spread windows
that cover it, and lie in the same places on both strands; an `Aggregation` makes them one. They are
read in batches of few shapes (`batches`), so a sequence's log-odds depend on nothing but the
sequence.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from jax.sharding import Mesh

from data_pipeline.spooling import Letters, pieces
from data_pipeline.views import View
from dnallm_jax.evaluation.aggregation import Aggregation, Windows
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import Network
from dnallm_jax.scoring.batches import Batches, Compiled

# Sequences are taken in groups of about so many bases, and windows are read in such groups; in a
# group, what is of like length shares batches.
_GROUP_BASES, _GROUP_SEQUENCES = 2_000_000, 100_000
_LETTERS = b"ACGTUacgtu"

Span = tuple[int, int]  # start, stop
Some = TypeVar("Some", bound=Letters)
_NOTHING = np.zeros(0), np.zeros((0, 1))  # known bases and values of no window


@dataclass(frozen=True)
class Scored:
    """What the network says of one sequence, before calibration."""

    logit: float  # log-odds; nan where nothing could be scored
    windows: int
    fraction_scored: float  # share of the bases that are A, C, G or T
    strand_gap: float  # mean |logit - logit of the reverse strand| over windows; 0 if read together
    by_window: tuple[float, ...] = ()  # the log-odds of each window ...
    shares: tuple[float, ...] = ()  # ... and its share of the known bases, where there are any
    members: "tuple[Scored, ...]" = ()  # whose log-odds were joined into `logit`, if any

    @property
    def read(self) -> Windows:
        """The windows, as an aggregation is fitted on them."""
        return Windows(np.array(self.by_window), np.array(self.shares))


class Scorer:
    """Log-odds of sequences.

    Args:
      params: of the network; without them, `of` gives them later.
      view: what it reads of a window.
      window: bases of the longest window. overlap: bases that neighbouring windows share, at least.
      aggregation: how the windows of a sequence become one.
      batch_tokens: tokens of a batch, about.
    """

    def __init__(
        self,
        params: Params | None,
        network: Network,
        *,
        view: View,
        window: int,
        batch_tokens: int,
        mesh: Mesh,
        overlap: int = 0,
        aggregation: Aggregation | None = None,
    ) -> None:
        self._params, self._window, self._overlap = params, window, overlap
        self._aggregation = aggregation or Aggregation()
        self._batches = Batches(
            network, view=view, window=window, batch_tokens=batch_tokens, mesh=mesh
        )

    def of(self, params: Params) -> "Scorer":
        """The same scorer with other parameters; what was compiled is kept."""
        other = copy.copy(self)
        other._params = params
        return other

    def score(self, sequences: Iterable[Letters]) -> Iterator[Scored]:
        """One result a sequence (letters of any case), in order.

        Memory is bounded by a group; a window takes some hundred bytes beyond that.
        """
        remaining = iter(sequences)
        while group := take(remaining):
            cuts = [windows(len(sequence), self._window, self._overlap) for sequence in group]
            read = [*self._read(self._batches.logits, group, cuts)] or [_NOTHING]
            all_known, all_strands = map(np.concatenate, zip(*read, strict=True))
            stops = np.cumsum([len(own) for own in cuts]).tolist()
            for sequence, start, stop in zip(group, [0, *stops], stops, strict=False):
                known, strands = all_known[start:stop], all_strands[start:stop].astype(float)
                if not known.any():
                    yield Scored(float("nan"), len(strands), 0.0, float("nan"))
                    continue
                weights, each = known / known.sum(), strands.mean(axis=1)
                yield Scored(
                    logit=float(self._aggregation.apply(each, weights)),
                    windows=len(strands),
                    fraction_scored=sum(map(known_bases, pieces(sequence))) / len(sequence),
                    strand_gap=float(weights @ np.ptp(strands, axis=1)),
                    by_window=tuple(each.tolist()),
                    shares=tuple(weights.tolist()),
                )

    @property
    def embeds(self) -> bool:
        """Whether the network has embeddings."""
        return self._batches.embeddings is not None

    def embed(self, sequences: Iterable[Letters]) -> Iterator[np.ndarray | None]:
        """float64[D] for each sequence, in order: the mean of its windows' embeddings.

        Over both strands, each window as heavy as it has known bases; None where there are none.
        """
        network = self._batches.embeddings
        assert network
        remaining = iter(sequences)
        while group := take(remaining):
            cuts = [windows(len(sequence), self._window, self._overlap) for sequence in group]
            owners = (number for number, own in enumerate(cuts) for _ in own)
            totals, sums = [0.0] * len(group), [np.zeros(1)] * len(group)
            for known, values in self._read(network, group, cuts):
                # One window after the other, so that no sum depends on where blocks end.
                vectors = values.mean(axis=1, dtype=float)
                for bases, vector, number in zip(known.tolist(), vectors, owners, strict=False):
                    totals[number] += bases
                    sums[number] = sums[number] + bases * vector
            for total, vector in zip(totals, sums, strict=True):
                yield vector / total if total else None

    def _read(
        self, network: Compiled, sequences: Iterable[Letters], cuts: Iterable[list[Span]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What the network says of the windows of all sequences, a block of windows at a time.

        Yields:
          (float64[W] known bases of each window, float[W, strands, ...] values).
        """
        cut = (
            bytes(sequence[start:stop])
            for sequence, own in zip(sequences, cuts, strict=True)
            for start, stop in own
        )
        while block := take(cut):
            known = np.array([known_bases(window) for window in block], float)
            yield known, self._batches.values(network, self._params, block)


def known_bases(letters: bytes) -> int:
    """How many of the letters are A, C, G or T (or U)."""
    return len(letters) - len(letters.translate(None, _LETTERS))


def gc_share(letters: bytes) -> float:
    """The share of G and C among the letters that are A, C, G or T (or U); nan without any."""
    known = known_bases(letters)
    return (len(letters) - len(letters.translate(None, b"CGcg"))) / known if known else math.nan


def windows(length: int, window: int, overlap: int = 0) -> list[Span]:
    """(start, stop) of the windows of a sequence: all of it, or evenly spread ones that cover it.

    They are equally long, at most `window`, read from the sequence's other end the same, and
    neighbours share `overlap` bases or more (but for one that was lost to this symmetry).
    """
    if length <= window:
        return [(0, length)] if length else []
    overlap = min(overlap, window - 1)
    count = -(-(length - overlap) // (window - overlap))
    if count % 2 and (length - window) % 2:
        # An odd number of windows has a middle one, which must leave as much before as behind it.
        return windows(length, window - 1, max(overlap - 1, 0))
    starts = np.round(np.linspace(0, length - window, count)).astype(int).tolist()
    half = -(-count // 2)
    starts[half:] = [length - window - start for start in reversed(starts[: count - half])]
    return [(start, start + window) for start in starts]


def take(sequences: Iterator[Some]) -> list[Some]:
    """The next sequences, of about _GROUP_BASES together; empty at the end."""
    group: list[Some] = []
    bases = 0
    for sequence in islice(sequences, _GROUP_SEQUENCES):
        group.append(sequence)
        bases += len(sequence)
        if bases >= _GROUP_BASES:
            break
    return group
