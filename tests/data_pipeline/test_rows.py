"""Does a stored row come back as it went in?"""

import numpy as np
import pytest

from data_pipeline import rows
from data_pipeline.packing import FullRows, Row
from data_pipeline.pieces import marked
from data_pipeline.rows import RowFormat, RowSource
from data_pipeline.tokenizers import Kmer, Nucleotide, Tokenizer

TOKENIZERS = [Nucleotide(), Kmer(2), Kmer(6)]


def read(form: RowFormat, packed: FullRows | Row, weight: float = 1.0) -> list[dict]:
    stored, counts = form.serialised(packed)
    assert counts["rows"] == len(stored)
    source = RowSource(stored, form.tokenizer, weight)
    return [source[number] for number in range(len(source))]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: f"{t.name}{t.vocab_size}")
@pytest.mark.parametrize("length", [1, 7, 8])
def test_full_rows_come_back(tokenizer: Tokenizer, length: int) -> None:
    rng = np.random.default_rng(length)
    tokens = rng.integers(1, tokenizer.vocab_size, (3, length)).astype(tokenizer.dtype)
    packed = FullRows("id é", tokens, np.array([5, 1 << 40, 7]))
    for row, own, start in zip(
        read(RowFormat(tokenizer, length, False), packed), tokens, packed.starts, strict=True
    ):
        assert row["tokens"].dtype == tokenizer.dtype
        assert not row["tokens"].flags.writeable
        np.testing.assert_array_equal(row["tokens"], own)
        assert row["segment_lengths"].tolist() == [length]
        assert row["starts"].tolist() == [start]
        assert row["record_ids"].decode() == "id é"


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: f"{t.name}{t.vocab_size}")
def test_a_row_of_segments_comes_back(tokenizer: Tokenizer, masks: bool) -> None:
    bases = [b"ACgtNNACCGTAcccgtaa", b"tt", b"CCGGTTAAN"]
    segments = [tokenizer.encode(own) for own in bases]
    kept = [marked(s, own, tokenizer) for s, own in zip(segments, bases, strict=True)]
    packed = Row(
        tokens=np.concatenate(kept if masks else segments),
        segment_lengths=np.array([len(segment) for segment in segments], np.int32),
        record_ids=["a", "b", "a"],
        starts=np.array([0, 3, 1 << 33]),
    )
    (row,) = read(RowFormat(tokenizer, 64, masks), packed, 0.5)
    np.testing.assert_array_equal(row["tokens"], np.concatenate(segments))
    np.testing.assert_array_equal(row["segment_lengths"], packed.segment_lengths)
    np.testing.assert_array_equal(row["starts"], packed.starts)
    assert row["record_ids"] == b"a\nb\na"
    assert ("weights" in row) == masks
    if masks:
        lower = np.frombuffer(b"".join(bases), np.uint8) > ord("Z")
        lengths = tokenizer.token_lengths[row["tokens"]]
        share = np.add.reduceat(lower, np.cumsum(lengths) - lengths) / lengths
        np.testing.assert_allclose(row["weights"], 1 - share / 2)


def test_planted_fault_halves_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    halved = rows._halved
    monkeypatch.setattr(rows, "_halved", lambda tokens: halved(tokens) >> 4 | halved(tokens) << 4)
    with pytest.raises(AssertionError):
        test_full_rows_come_back(Nucleotide(), 8)
    with pytest.raises(AssertionError):
        test_full_rows_come_back(Nucleotide(), 7)


def test_rows_share_a_chunk_of_about_one_size() -> None:
    assert RowFormat(Nucleotide(), 1_024, False).together == 8
    assert RowFormat(Nucleotide(), 8_192, False).together == 1
    assert RowFormat(Nucleotide(), 1 << 20, False).together == 1
    assert RowFormat(Kmer(6), 512, False).together == 4
    assert RowFormat(Kmer(3), 2, False).together == rows.MOST_TOGETHER
