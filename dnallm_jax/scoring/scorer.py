"""How viral does the network find a sequence? Windows, strands, and one log-odds a sequence.

A sequence up to the window length is one window; a longer one is cut into evenly spread windows
that cover it, and lie in the same places on both strands. Windows are padded to one of a few
lengths and run in batches of fixed shape, so a sequence's log-odds depend on nothing but the
sequence.
"""

import copy
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline.cutting import batch_rows
from data_pipeline.loader import layout, stack
from data_pipeline.views import View
from dnallm_jax.model.classifier import virus_logits
from dnallm_jax.model.gpt import Execution, GPTSpec, Params
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.execution import on_mesh

# Sequences are taken in groups of about so many bases; in a group, windows of like length share
# batches.
_GROUP_BASES = 2_000_000
_SMALLEST_WINDOW = 150
_KNOWN = np.isin(np.arange(256), np.frombuffer(b"ACGTUacgtu", np.uint8))


@dataclass(frozen=True)
class Scored:
    """What the network says of one sequence, before calibration."""

    logit: float  # log-odds; nan where nothing could be scored
    windows: int
    fraction_scored: float  # share of the bases that are A, C, G or T
    strand_gap: float  # mean |logit - logit of the reverse strand| over windows; 0 if read together


class Scorer:
    """Log-odds of sequences.

    Args:
      params, spec, run, pooling, causal: the network; without params, `of` gives them later.
      view: what it reads of a window.
      window: bases of the longest window.
      batch_tokens: tokens of a batch, about.
    """

    def __init__(
        self,
        params: Params | None,
        spec: GPTSpec,
        run: Execution,
        *,
        view: View,
        pooling: str,
        causal: bool,
        window: int,
        batch_tokens: int,
        mesh: Mesh,
    ) -> None:
        self.view = view
        self._params, self._mesh = params, mesh
        self._window, self._batch_tokens = window, batch_tokens
        self._sizes = window_sizes(window)
        self._logits = jax.jit(
            functools.partial(
                virus_logits, spec=spec, run=on_mesh(run, mesh), pooling=pooling, causal=causal
            )
        )

    def of(self, params: Params) -> "Scorer":
        """The same scorer with other parameters; what was compiled is kept."""
        other = copy.copy(self)
        other._params = params
        return other

    def score(self, sequences: Iterable[bytes]) -> Iterator[Scored]:
        """One result a sequence (letters of any case), in order; memory is bounded by a group."""
        remaining = iter(sequences)
        while group := list(_take(remaining, _GROUP_BASES)):
            yield from self._score_group(group)

    def _score_group(self, sequences: Sequence[bytes]) -> Iterator[Scored]:
        rows: dict[int, list[tuple[int, dict[str, np.ndarray]]]] = defaultdict(list)
        cuts = [windows(len(sequence), self._window) for sequence in sequences]
        flat = [(s, start, stop) for s, own in enumerate(cuts) for start, stop in own]
        pieces = [sequences[s][start:stop] for s, start, stop in flat]
        for number, read in enumerate(self.view.segments_batch(pieces)):
            size = next(size for size in self._sizes if size >= len(pieces[number]))
            length = self.view.row_length(size)
            for strand in read:
                rows[length].append((number, layout(strand, length, self.view.tokenizer)))
        logits: list[list[float]] = [[] for _ in flat]
        for length, members in rows.items():
            values = self._run([row for _, row in members], length)
            for (number, _), value in zip(members, values, strict=True):
                logits[number].append(float(value))
        at = 0
        for sequence, own in zip(sequences, cuts, strict=True):
            known = _KNOWN[np.frombuffer(sequence, np.uint8)]
            weights = np.array([known[start:stop].sum() for start, stop in own], np.float64)
            strands = np.array(logits[at : at + len(own)])
            at += len(own)
            if not weights.sum():
                yield Scored(float("nan"), len(own), 0.0, float("nan"))
                continue
            weights /= weights.sum()
            yield Scored(
                logit=float(weights @ strands.mean(axis=1)),
                windows=len(own),
                fraction_scored=float(known.mean()),
                strand_gap=float(weights @ np.ptp(strands, axis=1)),
            )

    def _run(self, rows: list[dict[str, np.ndarray]], length: int) -> np.ndarray:
        """float32[len(rows)]: logits of rows of one length, in batches of one shape."""
        parts = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        size = batch_rows(length, self._batch_tokens, parts)
        empty = layout([], length, self.view.tokenizer)
        waiting = []
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            batch = stack(chunk + [empty] * (size - len(chunk)))
            del batch["weights"]
            arrays = meshes.to_device(batch, self._mesh)
            waiting.append(
                self._logits(
                    self._params,
                    tokens_BL=arrays["tokens"],
                    segment_ids_BL=arrays["segment_ids"],
                    positions_BL=arrays["positions"],
                )
            )
        return np.concatenate(jax.device_get(waiting))[: len(rows)]


def window_sizes(window: int) -> list[int]:
    """The few lengths that windows are padded to: `window`, half of it, ... down to about 150."""
    sizes = [window]
    while sizes[0] // 2 >= _SMALLEST_WINDOW:
        sizes.insert(0, -(-sizes[0] // 2))
    return sizes


def windows(length: int, window: int) -> list[tuple[int, int]]:
    """(start, stop) of the windows of a sequence: all of it, or evenly spread ones that cover it.

    They are equally long, at most `window`, and read from the sequence's other end the same.
    """
    if length <= window:
        return [(0, length)] if length else []
    count = -(-length // window)
    if count % 2 and (length - window) % 2:
        # An odd number of windows has a middle one, which must leave as much before as behind it.
        return windows(length, window - 1)
    starts = np.round(np.linspace(0, length - window, count)).astype(int).tolist()
    half = -(-count // 2)
    starts[half:] = [length - window - start for start in reversed(starts[: count - half])]
    return [(start, start + window) for start in starts]


def _take(sequences: Iterator[bytes], bases: int) -> Iterator[bytes]:
    for sequence in islice(sequences, 100_000):
        yield sequence
        bases -= len(sequence)
        if bases <= 0:
            return
