"""How viral does a network find a sequence? Windows, strands, and one log-odds a sequence.

A sequence up to the window length is one window; a longer one is cut into evenly spread windows
that cover it, and lie in the same places on both strands; an `Aggregation` makes them one. Windows
are padded to one of a few lengths and run in batches of fixed shape, so a sequence's log-odds
depend on nothing but the sequence.
"""

import copy
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline.cutting import batch_rows
from data_pipeline.loader import Batch
from data_pipeline.views import View
from dnallm_jax.evaluation.aggregation import Aggregation, Windows
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import Network
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel import watchdog

# Sequences are taken in groups of about so many bases; in a group, windows of like length share
# batches.
_GROUP_BASES, _GROUP_SEQUENCES = 2_000_000, 100_000
_SMALLEST_WINDOW, _STEP = 150, 0.5**0.5
_LETTERS = b"ACGTUacgtu"
_AHEAD = (
    4  # batches that are made while one is computed; what more of them hold grows with a genome
)

Span = tuple[bytes, int, int]  # a sequence, and where a window of it starts and stops
Compiled = Callable[[Any, Mapping[str, jax.Array]], jax.Array]  # (parameters, batch) -> [B, ...]


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
        self._params, self._view, self._mesh = params, view, mesh
        self._window, self._batch_tokens, self._overlap = window, batch_tokens, overlap
        self._aggregation = aggregation or Aggregation()
        self._sizes = window_sizes(window)
        self._logits = log_odds(network, mesh)
        self._embeddings = network.embeddings and jax.jit(
            network.embeddings, out_shardings=meshes.sharding(mesh)
        )

    def of(self, params: Params) -> "Scorer":
        """The same scorer with other parameters; what was compiled is kept."""
        other = copy.copy(self)
        other._params = params
        return other

    def score(self, sequences: Iterable[bytes]) -> Iterator[Scored]:
        """One result a sequence (letters of any case), in order; memory is bounded by a group."""
        remaining = iter(sequences)
        while group := take(remaining):
            for sequence, weights, strands in self._read(self._logits, group):
                if not weights.sum() > 0:
                    yield Scored(float("nan"), len(strands), 0.0, float("nan"))
                    continue
                each = strands.mean(axis=1)
                yield Scored(
                    logit=float(self._aggregation.apply(each, weights)),
                    windows=len(strands),
                    fraction_scored=known_bases(sequence) / len(sequence),
                    strand_gap=float(weights @ np.ptp(strands, axis=1)),
                    by_window=tuple(each.tolist()),
                    shares=tuple(weights.tolist()),
                )

    @property
    def embeds(self) -> bool:
        """Whether the network has embeddings."""
        return self._embeddings is not None

    def embed(self, sequences: Iterable[bytes]) -> Iterator[np.ndarray | None]:
        """float64[D] for each sequence, in order: the mean of its windows' embeddings.

        Over both strands, each window as heavy as it has known bases; None where there are none.
        """
        assert self._embeddings
        remaining = iter(sequences)
        while group := take(remaining):
            for _, weights, values in self._read(self._embeddings, group):
                yield weights @ values.mean(axis=1) if weights.sum() > 0 else None

    def _read(
        self, network: Compiled, sequences: Sequence[bytes]
    ) -> Iterator[tuple[bytes, np.ndarray, np.ndarray]]:
        """Each sequence with what the network says of its W windows.

        Yields:
          (sequence, float64[W] shares of the known bases, nan where there are none,
          float64[W, strands, ...] values).
        """
        cuts = [windows(len(sequence), self._window, self._overlap) for sequence in sequences]
        spans = [
            (sequence, start, stop)
            for sequence, own in zip(sequences, cuts, strict=True)
            for start, stop in own
        ]
        by_length: dict[int, list[int]] = defaultdict(list)  # length of the row -> numbers of spans
        longest: dict[int, int] = {}  # ... -> bases that fit it
        for number, (_, start, stop) in enumerate(spans):
            size = next(size for size in self._sizes if size >= stop - start)
            length = self._view.row_length(size)
            by_length[length].append(number)
            longest[length] = max(size, longest.get(length, 0))
        values: list[Any] = [None] * len(spans)
        for length, numbers in by_length.items():
            found = self._run(network, [spans[n] for n in numbers], longest[length], length)
            for number, value in zip(numbers, found, strict=True):
                values[number] = value
        at = 0
        for sequence, own in zip(sequences, cuts, strict=True):
            known = np.array([known_bases(sequence[start:stop]) for start, stop in own], float)
            total = known.sum()
            yield sequence, known / (total or np.nan), np.array(values[at : at + len(own)], float)
            at += len(own)

    def _run(self, network: Compiled, spans: Sequence[Span], bases: int, length: int) -> np.ndarray:
        """float[len(spans), strands, ...]: values of windows of one row length, in equal batches.

        `bases` is as long as a window may be whose row has that length.
        """
        parts = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        size = batch_rows(length, self._batch_tokens, parts)
        fetched: list[list[np.ndarray]] = []
        waiting: deque[list[jax.Array]] = deque()  # batches that are being computed
        for at in range(0, len(spans), size):
            pieces = [sequence[start:stop] for sequence, start, stop in spans[at : at + size]]
            batches = self._view.read(pieces + [b""] * (size - len(pieces)), bases)
            waiting.append([network(self._params, self._on_device(batch)) for batch in batches])
            if len(waiting) > _AHEAD:
                fetched.append(jax.device_get(waiting.popleft()))
                watchdog.alive("a batch of contigs that was scored")
        fetched += jax.device_get(list(waiting))
        return np.concatenate([np.stack(strands, axis=1) for strands in fetched])[: len(spans)]

    def _on_device(self, batch: Batch) -> dict[str, jax.Array]:
        read = {name: array for name, array in batch.items() if name != "weights"}
        return meshes.to_device(meshes.own_rows(read, self._mesh), self._mesh)


def log_odds(network: Network, mesh: Mesh) -> Compiled:
    """(parameters, batch) -> float32 [B]: the mean of the log-odds of a network's members.

    On every device the results of all rows, so that every process has them.
    """
    return jax.jit(
        lambda params, batch: network.logits(params, batch).mean(axis=0),
        out_shardings=meshes.sharding(mesh),
    )


def known_bases(letters: bytes) -> int:
    """How many of the letters are A, C, G or T (or U)."""
    return len(letters) - len(letters.translate(None, _LETTERS))


def gc_share(letters: bytes) -> float:
    """The share of G and C among the letters that are A, C, G or T (or U); nan without any."""
    known = known_bases(letters)
    return (len(letters) - len(letters.translate(None, b"CGcg"))) / known if known else math.nan


def window_sizes(window: int) -> list[int]:
    """The few lengths that windows are padded to: `window`, each about 0.7 of the next, over 150.

    Finer steps would waste less on padding, and cost more to compile.
    """
    sizes = [window]
    while sizes[0] * _STEP >= _SMALLEST_WINDOW:
        sizes.insert(0, math.ceil(sizes[0] * _STEP))
    return sizes


def windows(length: int, window: int, overlap: int = 0) -> list[tuple[int, int]]:
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


def take(sequences: Iterator[bytes]) -> list[bytes]:
    """The next sequences, of about _GROUP_BASES together; empty at the end."""
    group: list[bytes] = []
    bases = 0
    for sequence in islice(sequences, _GROUP_SEQUENCES):
        group.append(sequence)
        bases += len(sequence)
        if bases >= _GROUP_BASES:
            break
    return group
