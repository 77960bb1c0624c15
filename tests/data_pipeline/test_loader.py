"""Is batch i the same for any number of processes and any start, and does an epoch hold all?"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.loader import (
    Batch,
    CorpusBatches,
    Layout,
    evenly,
    in_order,
    layout,
    stream,
)
from data_pipeline.order import row_at
from data_pipeline.tokenizers import Kmer, Nucleotide, Tokenizer, reverse_complement
from tests.data_pipeline.given_rows import GivenRows

LENGTH, ROWS = 24, 30


class Rows(GivenRows):
    """Rows as the corpus gives them: random segments, some with an N, all of them different."""

    def __init__(self, tokenizer: Tokenizer, rows: int = ROWS, length: int = LENGTH) -> None:
        rng = np.random.default_rng(0)
        self.pieces: list[list[bytes]] = []
        self.tokenizer = tokenizer
        for _ in range(rows):
            room, pieces = length, []
            while room > 4:
                bases = rng.choice(np.frombuffer(b"ACGTACGTN", np.uint8), rng.integers(1, room))
                if len(tokens := tokenizer.encode(bases.tobytes())) <= room:
                    pieces.append(bases.tobytes())
                    room -= len(tokens)
            self.pieces.append(pieces)
        super().__init__([self._stored(index) for index in range(rows)])

    def _stored(self, index: int) -> Mapping[str, Any]:
        segments = [self.tokenizer.encode(piece) for piece in self.pieces[index]]
        ids = [f"record{index}", *(f"r{index}.{n}" for n in range(1, len(segments)))]
        return {
            "tokens": np.concatenate(segments),
            "segment_lengths": np.array([len(s) for s in segments], np.int32),
            "record_ids": "\n".join(ids).encode(),
        }


def batches_of(rows: Rows, **options: Any) -> CorpusBatches:
    return CorpusBatches(
        rows, rows.tokenizer, LENGTH, **{"batch_rows": 8, "seed": 5, "both_strands": True} | options
    )


def read(row: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> list[bytes]:
    """The letters of each segment of one row of a batch."""
    last = int(row["segment_ids"].max())
    return [tokenizer.decode(row["tokens"][row["segment_ids"] == n]) for n in range(1, last + 1)]


def rows_of(batch: Batch) -> list[Batch]:
    return [{key: value[j] for key, value in batch.items()} for j in range(len(batch["tokens"]))]


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        x.dtype == b[key].dtype and np.array_equal(x, b[key]) for key, x in a.items()
    )


def joined(parts: list[Batch]) -> Batch:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


# Processes


def unequal(make: Callable[..., Callable[[int], Batch]], numbers: list[int]) -> list[str]:
    """Where the parts of 2 or 4 processes, put together, are not the batch of one."""
    whole = make(process=0, processes=1)
    found = []
    for processes, number in itertools.product((2, 4), numbers):
        parts = [make(process=p, processes=processes)(number) for p in range(processes)]
        if not same(joined(parts), whole(number)):
            found.append(f"batch {number} of {processes} processes")
    return found


def test_a_global_batch_is_the_same_for_any_number_of_processes() -> None:
    rows = Rows(Nucleotide())
    assert unequal(lambda **split: batches_of(rows, **split), [0, 1, 3, 4, 17, 10**9]) == []


def test_planted_rows_drawn_by_each_process_for_itself() -> None:
    rows = Rows(Nucleotide())

    def own_seed(process: int, processes: int) -> CorpusBatches:
        return batches_of(rows, process=process, processes=processes, seed=5 + process)

    def own_rows(process: int, processes: int) -> CorpusBatches:
        return batches_of(rows, batch_rows=8 // processes)

    assert len(unequal(own_seed, [0, 1])) == 4
    assert len(unequal(own_rows, [0, 1])) == 4


def test_rows_that_do_not_divide_over_processes_are_an_error() -> None:
    with pytest.raises(ValueError, match="9 rows do not divide over 2 processes"):
        batches_of(Rows(Nucleotide()), batch_rows=9, processes=2)


@pytest.mark.parametrize("start", [0, 1, 5, 123_456])
def test_a_stream_may_start_anywhere(start: int) -> None:
    batches = batches_of(Rows(Nucleotide()))
    read = list(itertools.islice(stream(batches, start=start), 6))
    assert all(same(batch, batches(start + i)) for i, batch in enumerate(read))
    assert not same(read[0], read[1])


def test_the_batches_of_an_epoch_hold_every_row_once() -> None:
    rows = Rows(Nucleotide(), rows=32)
    batches = batches_of(rows, both_strands=False)
    seen = [read(row, rows.tokenizer) for number in range(4) for row in rows_of(batches(number))]
    assert sorted(seen) == sorted(rows.pieces)
    assert seen != rows.pieces


def test_records_and_rows_of_batches() -> None:
    rows = Rows(Nucleotide())
    batches = batches_of(rows)
    for number in (0, 3, 4):
        indices = [row_at(number * 8 + j, ROWS, seed=5) for j in range(8)]
        expected = [i for index in indices for i in rows[index]["record_ids"].decode().split("\n")]
        assert batches.record_ids(number) == list(dict.fromkeys(expected))
        part = batches_of(rows, process=1, processes=2)
        assert part.record_ids(number) == batches.record_ids(number)
    first = {row_at(place, ROWS, seed=5) for place in range(16)}
    assert batches.rows_seen(2).tolist() == sorted(first)
    assert len(batches.rows_seen(3)) == 24
    assert batches.rows_seen(4).tolist() == list(range(ROWS)) == batches.rows_seen(99).tolist()


# Strands


@pytest.mark.parametrize("tokenizer", [Nucleotide(), Kmer(3)])
def test_a_row_is_read_on_either_strand_by_its_key(tokenizer: Tokenizer) -> None:
    rows = Rows(tokenizer)
    batches = batches_of(rows)
    flipped = []
    for number in range(12):
        for j, row in enumerate(rows_of(batches(number))):
            pieces = rows.pieces[row_at(8 * number + j, ROWS, seed=5)]
            other = [reverse_complement(piece) for piece in reversed(pieces)]
            letters = read(row, tokenizer)
            assert letters in (pieces, other)
            flipped.append(letters != pieces)
    assert 30 < sum(flipped) < 66, "about half of 96"
    again = [read(row, tokenizer) for row in rows_of(batches(11))]
    assert again == [read(row, tokenizer) for row in rows_of(batches_of(rows)(11))]


def test_a_row_is_read_on_both_strands_over_the_epochs() -> None:
    rows = Rows(Nucleotide(), rows=8)
    batches = batches_of(rows)
    seen = {tuple(read(row, Nucleotide())) for n in range(12) for row in rows_of(batches(n))}
    assert len(seen) == 16


def test_one_strand_only_where_asked() -> None:
    rows = Rows(Nucleotide())
    for row in rows_of(batches_of(rows, both_strands=False)(3)):
        assert read(row, Nucleotide()) in rows.pieces


# Layout


def faults_of(batch: Batch, tokenizer: Tokenizer) -> list[str]:
    """What is wrong with the arrays of a batch, by the definition of a batch."""
    faults = []
    types = {"tokens": np.int32, "segment_ids": np.int32, "positions": np.int32}
    for key, dtype in {**types, "weights": np.float32}.items():
        if batch[key].dtype != dtype or batch[key].shape != batch["tokens"].shape:
            faults.append(f"{key}: {batch[key].dtype}{batch[key].shape}")
    counted = (batch["segment_ids"] > 0) & (tokenizer.token_bases[batch["tokens"]] > 0)
    if not np.array_equal(batch["weights"], counted.astype(np.float32)):
        faults.append("weights: 1 for bases, 0 for padding and N")
    if (batch["tokens"][batch["segment_ids"] == 0] != 0).any():
        faults.append("padding")
    for row in rows_of(batch):
        ids = row["segment_ids"][row["segment_ids"] > 0]
        if (np.diff(ids, prepend=0) > 1).any() or (np.diff(ids, prepend=0) < 0).any():
            faults.append("segment ids")
        for n in np.unique(ids):
            inside = row["positions"][row["segment_ids"] == n]
            if not np.array_equal(inside, np.arange(len(inside))):
                faults.append("positions")
    return faults


@pytest.mark.parametrize("tokenizer", [Nucleotide(), Kmer(3)])
def test_weights_positions_and_segments(tokenizer: Tokenizer) -> None:
    rows = Rows(tokenizer)
    batch = joined([batches_of(rows)(number) for number in range(6)])
    assert faults_of(batch, tokenizer) == []
    ambiguous = batch["tokens"] == 1
    assert ambiguous.any()
    assert not batch["weights"][ambiguous].any()
    assert batch["weights"].any(axis=1).all()


@pytest.mark.parametrize("key", ["tokens", "segment_ids", "positions", "weights"])
def test_planted_faults_in_a_batch_are_found(key: str) -> None:
    batch = batches_of(Rows(Nucleotide()))(0)
    shifted = {**batch, key: np.roll(batch[key], 1, axis=1)}
    assert faults_of(shifted, Nucleotide())
    assert faults_of({**batch, key: batch[key].astype(np.int64)}, Nucleotide())


@pytest.mark.parametrize("tokenizer", [Nucleotide(), Kmer(3)])
def test_stored_rows_are_laid_out_as_their_segments_are(tokenizer: Tokenizer) -> None:
    """Full rows of one segment, which share arrays, beside others and none."""
    whole = tokenizer.encode(b"ACGTTGCAAC" * LENGTH)[:LENGTH]
    rows = Rows(tokenizer, rows=4)
    stored = GivenRows(
        [*rows.rows, {"tokens": whole, "segment_lengths": np.array([LENGTH], np.int32)}]
    )
    segments = [*([tokenizer.encode(p) for p in own] for own in rows.pieces), [whole]]
    arrange = Layout(tokenizer, LENGTH)
    for numbers in ([4], [4, 4], [0, 4, None, 1], [None], [4, 2]):
        for flip in (False, True):
            batch = arrange([None if n is None else (stored, n, flip) for n in numbers])
            for number, row in zip(numbers, rows_of(batch), strict=True):
                own = [] if number is None else segments[number]
                if flip:
                    own = [tokenizer.reverse_complement(segment) for segment in own[::-1]]
                assert same(row, layout(own, LENGTH, tokenizer)), (numbers, number, flip)


def test_an_empty_row_and_a_row_too_long() -> None:
    row = layout([], 5, Nucleotide())
    assert all(not value.any() and len(value) == 5 for value in row.values())
    with pytest.raises(ValueError, match="broadcast"):
        layout([np.ones(3, np.uint8), np.ones(3, np.uint8)], 5, Nucleotide())


# In order


@pytest.mark.parametrize("limit", [30, 13, 8, 1, 99])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_in_order_the_uneven_end_is_filled_with_rows_of_no_weight(
    limit: int, processes: int
) -> None:
    rows, tokenizer = Rows(Nucleotide()), Nucleotide()
    parts = [
        list(
            in_order(
                rows,
                tokenizer,
                LENGTH,
                batch_rows=8,
                numbers=evenly(ROWS, limit).tolist(),
                process=process,
                processes=processes,
            )
        )
        for process in range(processes)
    ]
    batches = [joined(list(same_batch)) for same_batch in zip(*parts, strict=True)]
    assert all(batch["tokens"].shape == (8, LENGTH) for batch in batches)
    assert len(batches) == -(-min(limit, ROWS) // 8)
    together = joined(batches)
    assert faults_of(together, tokenizer) == []
    letters = [read(row, tokenizer) for row in rows_of(together)]
    chosen = evenly(ROWS, limit)
    assert letters[: min(limit, ROWS)] == [rows.pieces[number] for number in chosen]
    padding = together["weights"][min(limit, ROWS) :]
    assert not padding.any()
    assert not together["segment_ids"][min(limit, ROWS) :].any()


@given(st.integers(1, 1000), st.integers(1, 1200))
def test_rows_at_even_distances_reach_over_all(total: int, rows: int) -> None:
    numbers = evenly(total, rows)
    assert len(numbers) == min(total, rows)
    assert numbers[0] == 0
    assert numbers[-1] >= total - -(-total // len(numbers))
    assert set(np.diff(numbers)) <= {total // len(numbers), total // len(numbers) + 1}
