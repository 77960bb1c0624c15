"""How is a packed row stored, and how is it read back?

A row is a tf.train.Example of byte strings, as TFDS writes and decodes it (`wire`). Tokens of small
vocabularies are stored two in a byte, those of the row's first half in the low bits, those of its
second half above them: the compression of ArrayRecord (zstd) then has only their entropy left to
work on, and either half is read in one stride.
"""

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_record.python import array_record_module

from data_pipeline import wire
from data_pipeline.datasets import unreadable
from data_pipeline.packing import FullRows, Row
from data_pipeline.pieces import unmarked
from data_pipeline.tokenizers import Tokenizer

Segments = tuple[np.ndarray, np.ndarray]
"""The tokens of a row, dtype[<= L], and the lengths of its segments, int32[S]."""

NIBBLE_VOCABULARY = 16
CHUNK_BYTES = 4_096  # about so many bytes of tokens are compressed together, and unpacked for a row
MOST_TOGETHER = 16

# Where the two halves lie in a byte. NumPy takes arrays faster than numbers, a fiftieth of a batch.
_LOW, _HIGH = np.array(15, np.uint8), np.array(4, np.uint8)


@dataclass(frozen=True)
class RowFormat:
    """What the stored rows of a data set hold."""

    tokenizer: Tokenizer
    row_length: int
    masks: bool  # of every token, how many of its letters are soft-masked

    @property
    def halves(self) -> bool:
        """Whether tokens are stored two in a byte."""
        return self.tokenizer.vocab_size <= NIBBLE_VOCABULARY

    @property
    def features(self) -> dict[str, np.dtype | type]:
        """The arrays of a stored row, by name; beside them, "record_ids" is a text."""
        return {
            **({"token_halves": np.uint8} if self.halves else {"tokens": self.tokenizer.dtype}),
            "segment_lengths": np.int32,
            "starts": np.int64,
            **({"masked": np.uint8} if self.masks else {}),
        }

    @property
    def together(self) -> int:
        """Rows of a chunk of the file: each costs a header, and reading one unpacks all of it."""
        row_bytes = self.row_length * self.tokenizer.dtype.itemsize // (2 if self.halves else 1)
        return min(max(CHUNK_BYTES // max(row_bytes, 1), 1), MOST_TOGETHER)

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        lengths = self.tokenizer.token_lengths
        return lengths.astype(np.min_scalar_type(lengths.max()))

    def serialised(self, rows: FullRows | Row) -> tuple[list[bytes], dict[str, int]]:
        """The stored bytes of each row, and counts: rows, tokens, covered (bases), masked."""
        tokens = rows.tokens if isinstance(rows, FullRows) else rows.tokens[None]
        masked = np.zeros((0, 0), np.uint8)
        if self.masks:
            tokens, masked = unmarked(tokens, self.tokenizer)
        counts = {
            "rows": len(tokens),
            "tokens": tokens.size,
            "covered": int(self._lengths[tokens].sum()),
            "masked": int(masked.sum()),
        }
        stored: dict[str, bytes | np.ndarray] = (
            {"token_halves": _halved(tokens)} if self.halves else {"tokens": _bytes_of(tokens)}
        )
        if isinstance(rows, FullRows):
            stored["starts"] = _bytes_of(rows.starts[:, None])
            stored["segment_lengths"] = np.int32(tokens.shape[1]).tobytes()
            stored["record_ids"] = rows.record_id.encode()
        else:
            stored["starts"] = rows.starts.tobytes()
            stored["segment_lengths"] = rows.segment_lengths.tobytes()
            stored["record_ids"] = "\n".join(rows.record_ids).encode()
        if self.masks:
            stored["masked"] = masked
        return list(wire.examples(stored, len(tokens))), counts


class StoredRows:
    """The serialised rows of some shards by number; may be pickled and read from several threads.

    The data source of TFDS asks for chunks of one row each, whatever their size. For rows as short
    as ours they are slower to read than chunks of several, and take half as much disk again.
    """

    def __init__(self, paths: Sequence[str], lengths: Sequence[int]) -> None:
        self._paths = list(paths)
        self._ends = list(itertools.accumulate(lengths))
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        shard = bisect.bisect_right(self._ends, number)
        try:
            reader = self._readers.get(shard)
            if reader is None:  # two threads may open the same file; one of them is then forgotten
                reader = self._readers[shard] = array_record_module.ArrayRecordReader(
                    self._paths[shard],
                    options="readahead_buffer_size:0",
                    file_reader_buffer_size=1 << 15,
                )
            return reader.read([number - (self._ends[shard - 1] if shard else 0)])[0]
        except RuntimeError as error:
            raise unreadable(f"{self._paths[shard]}: row {number} of the corpus", error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_readers": {}}


@dataclass(frozen=True, slots=True)
class RowSource:
    """The rows of one split by number; may be pickled and read from several threads."""

    raw: Sequence[bytes] | StoredRows  # serialised examples
    tokenizer: Tokenizer
    soft_mask_weight: float = 1.0

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """tokens dtype[<= L], segment_lengths int32[S], starts int64[S], record_ids bytes.

        `starts` are offsets in the records: in bases, or of a codon stream in tokens. `record_ids`
        joins S ids by newlines. The arrays are read-only. Where the soft mask is stored, `weights`
        as well, float32[<= L]: 1, less for tokens with lower-case letters.
        """
        values = wire.taken_apart(self.raw[index])
        lengths = np.frombuffer(values["segment_lengths"], np.int32)
        tokens = np.empty(lengths.sum(), self.tokenizer.dtype)
        _, weights = self._read(values, tokens)
        tokens.flags.writeable = False
        return {
            "tokens": tokens,
            "segment_lengths": lengths,
            "starts": np.frombuffer(values["starts"], np.int64),
            "record_ids": values["record_ids"],
            **({} if weights is None else {"weights": weights}),
        }

    def segments(self, indices: Iterable[int]) -> Iterator[Segments]:
        """The tokens of rows, and how many of them are of each segment, one row after the other."""
        for index in indices:
            values = wire.taken_apart(self.raw[index])
            lengths = np.frombuffer(values["segment_lengths"], np.int32)
            tokens = np.empty(lengths.sum(), self.tokenizer.dtype)
            self._read(values, tokens)
            yield tokens, lengths

    def read(self, index: int, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """`segment_lengths` and, if there are, `weights`; the tokens go to the front of `tokens`.

        That is dtype[L]. What training reads, without what it does not need.
        """
        return self._read(wire.taken_apart(self.raw[index]), tokens)

    def _read(
        self, values: Mapping[str, bytes], tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        lengths = np.frombuffer(values["segment_lengths"], np.int32)
        size = int(lengths[0]) if len(lengths) == 1 else int(lengths.sum())
        if self.tokenizer.vocab_size <= NIBBLE_VOCABULARY:
            own = np.frombuffer(values["token_halves"], np.uint8)
            half = len(own)
            np.bitwise_and(own, _LOW, tokens[:half])
            np.right_shift(own[: size - half], _HIGH, tokens[half:size])
        else:
            tokens[:size] = np.frombuffer(values["tokens"], self.tokenizer.dtype)
        if "masked" not in values:
            return lengths, None
        lengths_of_tokens = self.tokenizer.token_lengths[tokens[:size]]
        share = np.frombuffer(values["masked"], np.uint8) / lengths_of_tokens
        return lengths, (1 - (1 - self.soft_mask_weight) * share).astype(np.float32)


def _halved(tokens: np.ndarray) -> np.ndarray:
    """uint8[R, ceil(L / 2)] of tokens below 16."""
    length = tokens.shape[1]
    half = -(-length // 2)
    together = tokens[:, :half].astype(np.uint8)
    together[:, : length - half] |= tokens[:, half:].astype(np.uint8, copy=False) << 4
    return together


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8)
