"""Which rows make up global batch number i, and which of them belong to this process?

Batch i is a pure function of (data set, seed, i): at place p = i * batch_rows + j of an endless
stream is the row, on the strand, that `order` says. So the data's whole state is one integer, and
any number of processes or restarts sees the same global batches.
"""

import atexit
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from data_pipeline.mixing import Mixture
from data_pipeline.order import flipped, rows_at
from data_pipeline.tokenizers import PAD, Tokenizer

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Rows or records by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class Rows(Source, Protocol):
    """Packed rows: `rows.RowSource`."""

    def read(self, index: int, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Writes the tokens of a row to the front; its segment lengths, its weights if any."""


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


def stack(rows: list[Batch]) -> Batch:
    """Rows -> one batch: every array gets a leading axis."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


class Layout:
    """Stored rows as the arrays of a batch: those of `layout`, written for speed."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length
        self._places = np.arange(length, dtype=np.int32)
        self._counts = tokenizer.token_bases > 0
        first = int(self._counts.argmax())
        # The ids that stand for bases are those from here on; or 0, and the table has to be asked.
        self._first = first if self._counts[first:].all() else 0

    def __call__(self, rows: Sequence[tuple[Rows, int, bool] | None]) -> Batch:
        """Row i of the batch is rows[i]: whose row, its number, and if it is read the other way.

        That is on the other strand, segment by segment. None is a row of padding. Weights of a row
        (a soft mask) scale those of the batch, float32 from 0 to 1.
        """
        shape = (len(rows), self._length)
        tokens = np.full(shape, PAD, self._tokenizer.dtype)
        ids, positions, weights = _of_whole_rows(*shape)
        # At once, lest the C library return the memory of several and have it cleared again.
        fresh = np.empty((4, *shape), np.int32)
        soft, turned = [], []
        for i, given in enumerate(rows):
            lengths: np.ndarray = _NONE
            if given is not None:
                source, number, flip = given
                lengths, own = source.read(number, tokens[i])
                if own is not None:
                    soft.append((i, own[::-1] if flip else own))
                if len(lengths) == 1 and lengths[0] == self._length:
                    if flip:
                        turned.append(i)
                    continue
                if flip:
                    lengths = self._turn(tokens[i], lengths)
            if not ids.flags.writeable:
                ids, positions = fresh[1], fresh[2]
                ids[:] = 1
                positions[:] = self._places
            ends = lengths.cumsum(dtype=np.int32)
            first, used = (ends[0], ends[-1]) if len(ends) else (0, 0)
            if len(ends) > 1:
                ids[i, first:used] = self._places[2 : len(ends) + 1].repeat(lengths[1:])
                positions[i, first:used] -= ends[:-1].repeat(lengths[1:])
            ids[i, used:] = positions[i, used:] = 0
        if turned:  # together, whole rows take two thirds of the time
            tokens[turned] = self._tokenizer.reverse_complement(tokens[turned])
        if not self._first or soft or tokens.min() < self._first:
            weights = fresh[3].view(np.float32)
            weights[:] = tokens >= self._first if self._first else self._counts[tokens]
            for i, own in soft:
                weights[i, : len(own)] *= own
        fresh[0] = tokens
        return {
            "tokens": fresh[0],
            "segment_ids": ids,
            "positions": positions,
            "weights": weights,
        }

    def _turn(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Turns every segment to the other strand, the last one first; returns their lengths."""
        turn = self._tokenizer.reverse_complement
        *segments, _ = np.split(tokens, np.cumsum(lengths))
        turned = np.concatenate([turn(segment) for segment in segments[::-1]])
        tokens[: len(turned)] = turned
        return lengths[::-1]


_NONE = np.zeros(0, np.int32)


@functools.lru_cache(maxsize=8)
def _of_whole_rows(rows: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment ids, positions and weights of full rows of one segment each; read-only.

    Batches of long genomes are mostly such, and need no arrays of their own.
    """
    ids, weights = np.ones((rows, length), np.int32), np.ones((rows, length), np.float32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    for array in (ids, positions, weights):
        array.flags.writeable = False
    return ids, positions, weights


def stream(
    batch: Callable[[int], Batch], *, start: int, ahead: int = 4, workers: int = 0
) -> Iterator[Batch]:
    """batch(start), batch(start + 1), ... for ever, made by a thread while the caller computes.

    `ahead` of them are being made or wait. What `batch` raises reaches the caller in its turn.
    Closing the iterator, losing the last reference to it or the end of the program ends the thread
    after the batch it is at, and waits for that.

    Args:
      workers: above 0, so many processes make the same batches, each some more ahead. They start
        anew (seconds) and are sent `batch` pickled, with all that it holds; close the iterator.

    Raises:
      LostError: one of these processes ended before its time.
    """
    if workers:
        from data_pipeline import workers as processes

        yield from processes.batches(batch, start=start, ahead=ahead, workers=workers)
        return
    wanted, made = queue.SimpleQueue[int](), queue.SimpleQueue[Batch | BaseException]()
    ended = threading.Event()

    def make() -> None:
        while True:
            number = wanted.get()
            if ended.is_set():
                return
            try:
                made.put(batch(number))
            except BaseException as error:  # whatever it is, the caller waits for it
                made.put(error)

    def end() -> None:
        ended.set()
        wanted.put(0)  # it may be waiting
        thread.join()  # Python aborts if it ends while a thread reads a file in C++

    def taken() -> Batch:  # and not kept: its memory is that of the next one, if the caller is done
        if isinstance(found := made.get(), BaseException):
            raise found
        return found

    # Not a pool, which takes five times as long to hand a batch over. A daemon, since the program's
    # end waits for other threads before it tells anyone; told so, it is waited for all the same.
    thread = threading.Thread(target=make, name="batches ahead", daemon=True)
    atexit.register(end)
    thread.start()
    try:
        for number in itertools.count(start):
            wanted.put(number)
            if number >= start + ahead:
                yield taken()
    finally:
        end()
        atexit.unregister(end)


class CorpusBatches:
    """Global batches of packed rows, and this process's part of each.

    Args:
      source: the rows of a split, or a `Mixture`, which has an order of its own.
      batch_rows: rows of a global batch; a multiple of `processes`.
      both_strands: read each row, at each place in the stream, on a strand drawn for that place.
    """

    def __init__(
        self,
        source: Rows,
        tokenizer: Tokenizer,
        row_length: int,
        *,
        batch_rows: int,
        seed: int,
        both_strands: bool = True,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._source, self._layout = source, Layout(tokenizer, row_length)
        self._rows, self._seed, self._both_strands = batch_rows, seed, both_strands
        self._mine = part_of(batch_rows, process, processes)

    def __call__(self, number: int) -> Batch:
        """This process's rows of global batch `number` (from 0)."""
        source, seed, both = self._source, self._seed, self._both_strands
        first = number * self._rows
        places = range(first + self._mine.start, first + self._mine.stop)
        return self._layout(
            [
                (source, row, both and flipped(place, seed))
                for place, row in zip(places, self._rows_at(places), strict=True)
            ]
        )

    def _rows_at(self, places: range) -> list[int]:
        if isinstance(self._source, Mixture):
            return [self._source.row_at(place, self._seed) for place in places]
        return rows_at(places, len(self._source), self._seed)

    def record_ids(self, number: int) -> list[str]:
        """Ids of the records in the whole global batch `number`, each once."""
        ids: dict[str, None] = {}
        for row in self._rows_at(range(number * self._rows, (number + 1) * self._rows)):
            text = self._source[row]["record_ids"]
            ids.update(dict.fromkeys(text.decode().split("\n")))
        return list(ids)

    def rows_seen(self, batches: int) -> np.ndarray:
        """Numbers of the distinct rows in the first `batches` global batches, in stored order."""
        places = batches * self._rows
        if not isinstance(self._source, Mixture):  # all rows come before any comes again
            places = min(places, len(self._source))
        return np.unique(self._rows_at(range(places)))


def evenly(total: int, rows: int) -> np.ndarray:
    """Numbers of `rows` of `total` rows (of all, if there are fewer), at even distances, rising.

    A corpus is stored record by record: its first rows would be those of a few genomes.
    """
    rows = min(rows, total)
    return np.arange(rows) * total // max(rows, 1)


def in_order(
    source: Rows,
    tokenizer: Tokenizer,
    row_length: int,
    *,
    batch_rows: int,
    numbers: Sequence[int],
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """The rows of these numbers as they are stored, this process's part of each batch.

    The last batch is filled up with empty rows: padding, of no weight.
    """
    mine = part_of(batch_rows, process, processes)
    arrange = Layout(tokenizer, row_length)
    for start in range(0, len(numbers), batch_rows):
        places = (start + j for j in mine)
        yield arrange(
            [(source, numbers[place], False) if place < len(numbers) else None for place in places]
        )
