"""What does a network say of many windows? Their rows, in batches of few shapes.

Where the network reads a mean over tokens, however weighted, each segment of a window (an open
stretch, or all of it) lies in a row of its own: rows are then short, nearly full, and attention
looks at little else than what it may see. A mean over the segments gives that over the window.
Otherwise a window is a row.
Either way a row's values depend on that row alone, and batches of a shape are all equally large.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline.cutting import batch_rows
from data_pipeline.loader import Batch
from data_pipeline.tokenizers import PAD
from data_pipeline.views import TokenView, View
from dnallm_jax.model import flash
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import Network
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel import watchdog

# (parameters, batch) -> [B, ...], or several of these.
Compiled = Callable[[Any, Mapping[str, jax.Array]], Any]

# Batches that are made while one is computed; what more of them hold grows with a genome.
_AHEAD = 4
_MEANS, _MEANS_ROWS = "means", 512
_SHORTEST_ROW, _ROW_MULTIPLE, _ROW_STEP = 32, 16, 0.25
_SHORTEST_WINDOW, _WINDOW_STEP = 150, 0.5**0.5


class Batches:
    """The values that a network has for windows of up to `window` bases.

    Args:
      view: what it reads of a window.
      batch_tokens: tokens of a batch, about.
    """

    def __init__(
        self, network: Network, *, view: View, window: int, batch_tokens: int, mesh: Mesh
    ) -> None:
        self._view, self._mesh, self._batch_tokens = view, mesh, batch_tokens
        self._parts = mesh.shape["data"] * mesh.shape["fsdp"]
        self._windows = window_sizes(window)
        self._lengths = row_lengths(longest_row(view, window, mesh.devices.flat[0].platform))
        # On every device the results of all rows, so that every process has them.
        compiled = functools.partial(jax.jit, out_shardings=meshes.sharding(mesh))
        self.rows: Compiled | None = None
        self.logits: Compiled
        self.embeddings: Compiled | None
        if pooled := network.pooled:
            self.rows = compiled(pooled.rows)
            self.logits = compiled(lambda p, batch: pooled.logits(p, batch[_MEANS]).mean(axis=0))
            self.embeddings = compiled(lambda _, batch: pooled.embeddings(batch[_MEANS]))
        else:
            self.logits = log_odds(network, mesh)
            self.embeddings = network.embeddings and compiled(network.embeddings)

    def values(
        self, network: Compiled, params: Params | None, pieces: Sequence[bytes]
    ) -> np.ndarray:
        """float[len(pieces), strands, ...] of `logits` or `embeddings`."""
        if self.rows is None:
            return self._of_windows(network, params, pieces)
        means = self._means(self.rows, params, pieces)
        rows = batch_rows(1, _MEANS_ROWS, self._parts)
        jobs = (
            (at, [{_MEANS: _filled(means[at : at + rows], rows)}])
            for at in range(0, len(means), rows)
        )
        found = np.concatenate([own for _, (own,) in self._computed(network, params, jobs)])
        return found[: len(means)].reshape(len(pieces), self._view.strands, *found.shape[1:])

    def _means(
        self, network: Compiled, params: Params | None, pieces: Sequence[bytes]
    ) -> np.ndarray:
        """float32[len(pieces) * strands, D]: the mean over the tokens of each window and strand."""
        view: TokenView = self._view  # type: ignore[assignment]  # what has means reads tokens
        read = [own for piece in view.segments_batch(pieces) for own in piece[: view.strands]]
        segments = [segment for own in read for segment in own]
        lengths = np.array([len(segment) for segment in segments], int)
        jobs = (
            (chosen, [_one_a_row([segments[number] for number in chosen], length, rows)])
            for length, rows, chosen in self._groups(lengths, self._lengths, self._lengths)
        )
        values = np.zeros((len(segments), 0), np.float32)
        for chosen, (pooled,) in self._computed(network, params, jobs):
            found = np.column_stack(pooled)
            if not values.shape[1]:
                values = np.zeros((len(segments), found.shape[1]), np.float32)
            values[chosen] = found[: len(chosen)]
        return _mean_of_each(values, np.array([len(own) for own in read]))

    def _of_windows(
        self, network: Compiled, params: Params | None, pieces: Sequence[bytes]
    ) -> np.ndarray:
        sizes, costs = self._windows, [*map(self._view.row_length, self._windows)]
        lengths = np.array([len(piece) for piece in pieces])
        jobs = (
            (
                chosen,
                self._view.read([pieces[n] for n in chosen] + [b""] * (rows - len(chosen)), most),
            )
            for most, rows, chosen in self._groups(lengths, sizes, costs)
        )
        values: list[Any] = [None] * len(pieces)
        for chosen, strands in self._computed(network, params, jobs):
            for number, own in zip(chosen, np.stack(strands, axis=1), strict=False):
                values[number] = own
        return np.array(values)

    def _groups(
        self, lengths: np.ndarray, bounds: Sequence[int], costs: Sequence[int]
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Which items share a batch: the least bound above them, the batch's rows, their numbers.

        costs: tokens of a row for each bound; bounds that cost the same share batches.
        """
        which = np.searchsorted(bounds, lengths)
        for cost in dict.fromkeys(costs):
            places = [place for place, own in enumerate(costs) if own == cost]
            chosen = np.flatnonzero(np.isin(which, places))
            rows = batch_rows(cost, self._batch_tokens, self._parts)
            for at in range(0, len(chosen), rows):
                yield bounds[places[-1]], rows, chosen[at : at + rows]

    def _computed(
        self, network: Compiled, params: Params | None, jobs: Iterable[tuple[Any, Sequence[Batch]]]
    ) -> Iterator[tuple[Any, list[Any]]]:
        """What the network says of each batch of each job; jobs are made while one is computed."""
        waiting: deque[tuple[Any, list[Any]]] = deque()
        for job, batches in jobs:
            waiting.append((job, [network(params, self._on_device(batch)) for batch in batches]))
            if len(waiting) > _AHEAD:
                done, values = waiting.popleft()
                yield done, jax.device_get(values)
                watchdog.alive("a batch of contigs that was scored")
        for done, values in waiting:
            yield done, jax.device_get(values)

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


def longest_row(view: View, window: int, platform: str) -> int:
    """Tokens of a row for a window of so many bases, or a few more.

    On GPUs whole blocks of the attention kernel, where this adds a sixteenth at most: the kernel
    would pad all queries, keys and values to these, layer by layer.
    """
    length = view.row_length(window)
    whole = -(-length // flash.BLOCK) * flash.BLOCK
    return whole if platform == "gpu" and 16 * (whole - length) <= length else length


def row_lengths(longest: int) -> list[int]:
    """The lengths of rows that segments are padded to: each about a quarter above the one before.

    Multiples of 16, but for the last, which is `longest`. Finer steps would waste less on padding,
    and cost more to compile.
    """
    lengths = [min(_SHORTEST_ROW, longest)]
    while lengths[-1] < longest:
        step = int(_ROW_STEP * lengths[-1]) // _ROW_MULTIPLE * _ROW_MULTIPLE
        lengths.append(min(longest, lengths[-1] + max(step, _ROW_MULTIPLE)))
    return lengths


def window_sizes(window: int) -> list[int]:
    """The lengths that whole windows are padded to: `window`, each about 0.7 of the next, over 150.

    Coarser than `row_lengths`: such rows are long, and compiled slowly.
    """
    sizes = [window]
    while sizes[0] * _WINDOW_STEP >= _SHORTEST_WINDOW:
        sizes.insert(0, math.ceil(sizes[0] * _WINDOW_STEP))
    return sizes


def _one_a_row(segments: Sequence[np.ndarray], length: int, rows: int) -> Batch:
    """Each segment of tokens in a row of its own, as `data_pipeline.loader.layout` lays it out."""
    tokens = np.full((rows, length), PAD, np.int32)
    ends = np.zeros((rows, 1), np.int32)
    for row, segment in enumerate(segments):
        tokens[row, : len(segment)] = segment
        ends[row] = len(segment)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    held = positions < ends
    return {"tokens": tokens, "segment_ids": held.astype(np.int32), "positions": positions * held}


def _mean_of_each(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float32[N, D]: for each of N windows the mean over its segments, by their weights.

    Args:
      values: float[S, D + 1], of all segments, window after window; last the logarithm of a weight.
      counts: int[N], how many segments each window has; without a segment, the mean is 0.
    """
    means = np.zeros((len(counts), max(values.shape[1] - 1, 0)), np.float32)
    if (has := counts > 0).any():
        starts = (counts.cumsum() - counts)[has]
        heaviest = np.repeat(np.maximum.reduceat(values[:, -1], starts), counts[has])
        weights = np.exp((values[:, -1] - heaviest).astype(float))[:, None]
        sums = np.add.reduceat(values[:, :-1] * weights, starts, axis=0)
        means[has] = sums / np.add.reduceat(weights, starts)
    return means


def _filled(values: np.ndarray, rows: int) -> np.ndarray:
    """The values and rows of zeros behind them, so many rows together."""
    return np.concatenate([values, np.zeros((rows - len(values), values.shape[1]), values.dtype)])
