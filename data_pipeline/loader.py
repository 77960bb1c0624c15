"""Which rows make up global batch number i, and which of them belong to this process?

Batch i is a pure function of (data set, seed, i): place p = i * batch_rows + j of an endless stream
is row `index_shuffle(p mod n)` of epoch p div n. So the data's whole state is one integer, and any
number of processes, threads or restarts sees the same global batches.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from data_pipeline.tokenizers import PAD, Tokenizer

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Rows or records by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def row_at(place: int, rows: int, seed: int) -> int:
    """The row at a place of the endless stream; every epoch is another permutation of all rows."""
    epoch, within = divmod(place, rows)
    if rows == 1:
        return 0
    from grain.experimental import index_shuffle  # loaded by training, not by scoring

    key = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return index_shuffle(within, max_index=rows - 1, seed=key, rounds=4)


def random(seed: int, *numbers: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments; give as many for the same purpose.

    (NumPy takes (1,) and (1, 0) for the same seed.)
    """
    return np.random.default_rng(np.random.SeedSequence([seed, *numbers]))


def part_of(batch_rows: int, process: int, processes: int) -> range:
    """Which rows of a global batch are this process's; ValueError where they do not divide."""
    if batch_rows % processes:
        raise ValueError(f"{batch_rows} rows do not divide over {processes} processes")
    part = batch_rows // processes
    return range(process * part, (process + 1) * part)


def layout(pieces: list[np.ndarray], length: int, tokenizer: Tokenizer) -> Batch:
    """Segments of tokens side by side in one row of `length`: the four arrays of a batch's row.

    `tokens`, `segment_ids` (from 1; 0 is padding) and `positions` (from 0 in each segment) are
    int32[length]; `weights`, float32[length], is 1 for a token that stands for bases, 0 for padding
    and N.
    """
    row = {
        "tokens": np.full(length, PAD, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "weights": np.zeros(length, np.float32),
    }
    at = 0
    for number, piece in enumerate(pieces, start=1):
        stop = at + len(piece)
        row["tokens"][at:stop] = piece
        row["segment_ids"][at:stop] = number
        row["positions"][at:stop] = np.arange(len(piece))
        at = stop
    row["weights"][:at] = tokenizer.token_bases[row["tokens"][:at]] > 0
    return row


def packed_row(row: Mapping[str, Any], length: int, tokenizer: Tokenizer, flip: bool) -> Batch:
    """One stored row as arrays; `flip` reads every segment on the other strand.

    Where the row has `weights` (a soft mask), they scale those of the batch, float32 from 0 to 1.
    """
    tokens, lengths, soft = row["tokens"], row["segment_lengths"], row.get("weights")
    segments = np.split(tokens, np.cumsum(lengths)[:-1])
    if flip:
        segments = [tokenizer.reverse_complement(segment) for segment in segments[::-1]]
    batch = layout(segments, length, tokenizer)
    if soft is not None:
        batch["weights"][: len(tokens)] *= soft[::-1] if flip else soft
    return batch


def stack(rows: list[Batch]) -> Batch:
    """Rows -> one batch: every array gets a leading axis."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def stream(
    batch: Callable[[int], Batch], *, start: int, threads: int = 1, ahead: int = 4
) -> Iterator[Batch]:
    """batch(start), batch(start + 1), ... for ever, made by threads while the caller computes.

    What `batch` raises reaches the caller in its turn. Closing the iterator, or losing the last
    reference to it, ends the threads after the batches they are at.
    """
    import grain

    numbers = grain.MapDataset.range(start, np.iinfo(np.int64).max)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    made = numbers.map(lambda number: batch(int(number))).to_iter_dataset(options)
    with contextlib.closing(iter(made)) as batches:
        yield from batches


class CorpusBatches:
    """Global batches of packed rows, and this process's part of each.

    Args:
      source: the rows of a split.
      batch_rows: rows of a global batch; a multiple of `processes`.
      both_strands: read each row, at each place in the stream, on a strand drawn for that place.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        row_length: int,
        *,
        batch_rows: int,
        seed: int,
        both_strands: bool = True,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._source, self._tokenizer, self._length = source, tokenizer, row_length
        self._rows, self._seed, self._both_strands = batch_rows, seed, both_strands
        self._mine = part_of(batch_rows, process, processes)

    def __call__(self, number: int) -> Batch:
        """This process's rows of global batch `number` (from 0)."""
        rows = []
        for place in (number * self._rows + j for j in self._mine):
            row = self._source[row_at(place, len(self._source), self._seed)]
            flip = self._both_strands and bool(random(self._seed, 1, place).integers(2))
            rows.append(packed_row(row, self._length, self._tokenizer, flip))
        return stack(rows)

    def record_ids(self, number: int) -> list[str]:
        """Ids of the records in the whole global batch `number`, each once."""
        ids: dict[str, None] = {}
        for place in range(number * self._rows, (number + 1) * self._rows):
            text = self._source[row_at(place, len(self._source), self._seed)]["record_ids"]
            ids.update(dict.fromkeys(text.decode().split("\n")))
        return list(ids)

    def rows_seen(self, batches: int) -> np.ndarray:
        """Numbers of the distinct rows in the first `batches` global batches, in stored order."""
        places = min(batches * self._rows, len(self._source))
        return np.unique([row_at(p, len(self._source), self._seed) for p in range(places)])


def evenly(total: int, rows: int) -> np.ndarray:
    """Numbers of `rows` of `total` rows (of all, if there are fewer), at even distances, rising.

    A corpus is stored record by record: its first rows would be those of a few genomes.
    """
    rows = min(rows, total)
    return np.arange(rows) * total // max(rows, 1)


def in_order(
    source: Source,
    tokenizer: Tokenizer,
    row_length: int,
    *,
    batch_rows: int,
    rows: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """The rows of `evenly(len(source), rows)` as they are stored, this process's part of a batch.

    The last batch is filled up with empty rows: padding, of no weight.
    """
    mine = part_of(batch_rows, process, processes)
    empty = layout([], row_length, tokenizer)
    chosen = evenly(len(source), rows)
    for start in range(0, len(chosen), batch_rows):
        places = (start + j for j in mine)
        yield stack(
            [
                packed_row(source[int(chosen[place])], row_length, tokenizer, False)
                if place < len(chosen)
                else empty
                for place in places
            ]
        )
