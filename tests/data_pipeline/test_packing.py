"""Is every base in exactly one place, and are the rows full?"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import packing
from data_pipeline.packing import FullRows, Piece, Row
from data_pipeline.tokenizers import Kmer, Nucleotide, Tokenizer

TOKENIZERS = [Nucleotide(), Kmer(3)]
sequences = st.lists(st.text("ACGTN", max_size=120).map(str.encode), min_size=0, max_size=12).map(
    lambda texts: {f"r{i}": text for i, text in enumerate(texts)}
)


def pack(*args: Any, **options: Any) -> Iterator[Row]:
    """What `packing.pack` gives, full rows one by one."""
    for rows in packing.pack(*args, **options):
        if isinstance(rows, Row):
            yield rows
            continue
        assert isinstance(rows, FullRows)
        assert len(rows.tokens) == len(rows.starts) > 0
        for tokens, start in zip(rows.tokens, rows.starts, strict=True):
            lengths = np.array([len(tokens)], np.int32)
            yield Row(tokens, lengths, [rows.record_id], np.array([start]))


def pieces(records: dict[str, bytes], tokenizer: Tokenizer, step: int = 0) -> Iterator[Piece]:
    """Every record in one piece, or in pieces of `step` bases."""
    for record_id, bases in records.items():
        for start in range(0, len(bases), step or len(bases) or 1):
            part = bases[start : start + (step or len(bases))]
            yield Piece(record_id, start, tokenizer.encode(part))


def reassemble(rows: Iterable[Row], tokenizer: Tokenizer) -> dict[str, bytes]:
    """The records, put together again by ids and starts; AssertionError at a gap or overlap."""
    found: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for row in rows:
        assert row.segment_lengths.dtype == np.int32
        assert row.starts.dtype == np.int64
        assert row.tokens.dtype == tokenizer.dtype
        assert len(row.segment_lengths) == len(row.record_ids) == len(row.starts) > 0
        assert row.segment_lengths.min() > 0
        assert row.segment_lengths.sum() == len(row.tokens)
        segments = np.split(row.tokens, np.cumsum(row.segment_lengths)[:-1])
        for record_id, start, segment in zip(row.record_ids, row.starts, segments, strict=True):
            found[record_id].append((int(start), tokenizer.decode(segment)))
    records = {}
    for record_id, parts in found.items():
        records[record_id] = b""
        for start, bases in sorted(parts):
            assert start == len(records[record_id]), f"gap or overlap in {record_id} at {start}"
            records[record_id] += bases
    return records


def check_nothing_lost_or_repeated(
    records: dict[str, bytes], rows: list[Row], row_length: int, tokenizer: Tokenizer
) -> None:
    assert all(len(row.tokens) <= row_length for row in rows)
    assert reassemble(rows, tokenizer) == {i: bases for i, bases in records.items() if bases}


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.name)
@settings(max_examples=200)
@given(sequences, st.integers(1, 40), st.sampled_from([1, 30, 1 << 20]))
def test_rows_hold_the_input_exactly_once(
    tokenizer: Tokenizer, records: dict[str, bytes], row_length: int, pool_tokens: int
) -> None:
    rows = list(
        pack(
            pieces(records, tokenizer),
            row_length,
            tokenizer.token_lengths,
            pool_tokens=pool_tokens,
        )
    )
    check_nothing_lost_or_repeated(records, rows, row_length, tokenizer)


@given(sequences, st.integers(1, 40), st.integers(1, 20))
def test_how_records_are_divided_into_pieces_does_not_matter(
    records: dict[str, bytes], row_length: int, chunks: int
) -> None:
    tokenizer = Kmer(3)
    whole = pack(pieces(records, tokenizer), row_length, tokenizer.token_lengths)
    parts = pack(
        pieces(records, tokenizer, step=tokenizer.k * chunks), row_length, tokenizer.token_lengths
    )
    for one, other in zip(whole, parts, strict=True):
        assert one.record_ids == other.record_ids
        assert np.array_equal(one.tokens, other.tokens)
        assert np.array_equal(one.starts, other.starts)
        assert np.array_equal(one.segment_lengths, other.segment_lengths)


def drop_a_segment(rows: list[Row]) -> list[Row]:
    return rows[1:]


def repeat_a_row(rows: list[Row]) -> list[Row]:
    return [*rows, rows[0]]


def shift_a_start(rows: list[Row]) -> list[Row]:
    return [dataclasses.replace(rows[0], starts=rows[0].starts + 1), *rows[1:]]


def overfill(rows: list[Row]) -> list[Row]:
    first, second = rows[:2]
    return [
        Row(
            np.concatenate([first.tokens, second.tokens]),
            np.concatenate([first.segment_lengths, second.segment_lengths]),
            first.record_ids + second.record_ids,
            np.concatenate([first.starts, second.starts]),
        ),
        *rows[2:],
    ]


@pytest.mark.parametrize("fault", [drop_a_segment, repeat_a_row, shift_a_start, overfill])
def test_planted_faults_are_caught(fault) -> None:
    tokenizer = Nucleotide()
    records = {"a": b"ACGT" * 10, "b": b"GGC", "c": b"TTTTA"}
    rows = list(pack(pieces(records, tokenizer), 16, tokenizer.token_lengths))
    check_nothing_lost_or_repeated(records, rows, 16, tokenizer)
    with pytest.raises(AssertionError):
        check_nothing_lost_or_repeated(records, fault(rows), 16, tokenizer)


def test_rows_written_out() -> None:
    """Two full rows as they come; then the pool, longest first, each hole filled if it can be."""
    records = {"long": b"A" * 20, "short": b"CCC", "other": b"GGGGG"}
    rows = pack(pieces(records, Nucleotide()), 8, Nucleotide().token_lengths)
    assert [
        (Nucleotide().decode(r.tokens), r.record_ids, r.starts.tolist(), r.segment_lengths.tolist())
        for r in rows
    ] == [
        (b"AAAAAAAA", ["long"], [0], [8]),
        (b"AAAAAAAA", ["long"], [8], [8]),
        (b"GGGGGCCC", ["other", "short"], [0, 0], [5, 3]),
        (b"AAAA", ["long"], [16], [4]),
    ]


def test_holes_are_filled_by_tails_before_short_sequences() -> None:
    """All pieces are 5 long, rows 8: the holes of 3 are filled by cutting, tails first."""
    records = {"x": b"A" * 13, "y": b"C" * 5, "z": b"G" * 5}
    rows = list(pack(pieces(records, Nucleotide()), 8, Nucleotide().token_lengths))
    check_nothing_lost_or_repeated(records, rows, 8, Nucleotide())
    assert [len(row.tokens) for row in rows] == [8, 8, 7]
    assert [row.record_ids for row in rows] == [["x"], ["z", "x"], ["y", "x"]]


def test_segments_are_not_cut_too_small() -> None:
    rng = np.random.default_rng(0)
    records = {f"r{i}": b"A" * int(n) for i, n in enumerate(rng.integers(70, 1_000, 400))}
    rows = list(pack(pieces(records, Nucleotide()), 512, Nucleotide().token_lengths))
    check_nothing_lost_or_repeated(records, rows, 512, Nucleotide())
    tails = {len(bases) % 512 for bases in records.values()}
    cut = {n for row in rows for n in row.segment_lengths.tolist()} - tails
    assert min(cut) >= 512 // 16


@pytest.mark.parametrize("mean", [80, 150, 600, 3_000, 30_000])
@pytest.mark.parametrize("row_length", [512, 4_096])
def test_fill(mean: int, row_length: int) -> None:
    """At least 99 % on sequences of any length, once there are some hundred rows of them."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(rng.exponential(mean, 1_000_000 // mean).astype(int), 1)
    everything = np.zeros(lengths.max(), np.uint8)
    rows = pack(
        (Piece(str(i), 0, everything[:n]) for i, n in enumerate(lengths.tolist())),
        row_length,
        np.ones(6, np.int32),
    )
    filled = [len(row.tokens) for row in rows]
    assert sum(filled) == lengths.sum()
    assert sum(filled) / (len(filled) * row_length) >= 0.99


def test_row_length_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        list(pack([], 0, Nucleotide().token_lengths))
