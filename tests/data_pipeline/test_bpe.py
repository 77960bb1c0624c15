"""Are learned tokens exact on both strands, and is a corpus of them whole?"""

import json
import pathlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import bpe, corpus, loader
from data_pipeline.bpe import Bpe
from data_pipeline.corpus import CorpusOptions, build_corpus, open_corpus
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import Nucleotide, Tokenizer, from_spec, reverse_complement

BPE = Bpe((("A", "C"), ("AC", "G"), ("T", "T"), ("ACG", "TT")))


def test_decoding_needs_no_package() -> None:
    assert BPE.tokens[:10] == ["", "N", "A", "C", "G", "T", "AC", "ACG", "TT", "ACGTT"]
    assert BPE.tokens[10:] == ["GT", "CGT", "AA", "AACGT"]
    assert from_spec(json.loads(json.dumps(BPE.spec()))) == BPE
    assert BPE.decode(np.array([0, 9, 1, 2])) == b"ACGTTNA"
    np.testing.assert_array_equal(BPE.reverse_complement(np.array([9, 1, 2])), [5, 1, 13])
    with pytest.raises(ValueError, match="0 to 13"):
        BPE.decode(np.array([14]))


def test_damaged_merges_are_refused() -> None:
    spec = BPE.spec()
    spec["merges"][0] = "A G"
    with pytest.raises(UserError, match="do not match their sha256"):
        from_spec(spec)
    with pytest.raises(UserError, match="described by the keys name, merges"):
        from_spec({"name": "bpe", "vocab_size": 100})


@pytest.mark.parametrize("vocab_size", [15, 1 << 16, 100.5, None])
def test_sizes_out_of_range(vocab_size: object) -> None:
    with pytest.raises(UserError, match="from 16 to 65535"):
        bpe.check_request({"name": "bpe", "vocab_size": vocab_size})


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"install requirements-bpe.txt"):
        bpe.check_request({"name": "bpe", "vocab_size": 100})


# --- with the package -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: requirements-bpe.txt")


@pytest.fixture(scope="module")
def genome() -> bytes:
    """Words drawn unevenly, so that there is something to learn."""
    rng = np.random.default_rng(0)
    drawn = [bytes(rng.choice(list(b"ACGT"), size).tolist()) for size in rng.integers(2, 9, 50)]
    return b"".join(drawn[int(50 * rng.random() ** 3)] for _ in range(5_000))


@pytest.fixture(scope="module")
def learned(library: None, genome: bytes) -> Bpe:
    return bpe.train([genome], len(genome), 128)


def check_exact(tokenizer: Tokenizer, bases: bytes) -> None:
    tokens = tokenizer.encode(bases)
    plain = Nucleotide().decode(Nucleotide().encode(bases))
    assert tokens.dtype == tokenizer.dtype
    assert tokenizer.decode(tokens) == plain
    assert tokenizer.token_lengths[tokens].sum() == len(bases)
    assert tokenizer.token_bases[tokens].sum() == len(bases) - plain.count(b"N")
    assert tokenizer.decode(tokenizer.reverse_complement(tokens)) == reverse_complement(plain)


@given(st.text(alphabet="ACGTacgtNRU", max_size=300))
def test_exact(learned: Bpe, text: str) -> None:
    check_exact(learned, text.encode())


def test_planted_fault_in_the_strand(learned: Bpe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bpe, "reverse_complement", lambda self, tokens: tokens[::-1])
    with pytest.raises(AssertionError):
        check_exact(learned, b"ACCGT")


def test_learning(learned: Bpe, genome: bytes) -> None:
    assert 100 < learned.vocab_size <= 128
    assert len(set(learned.tokens)) == learned.vocab_size
    assert learned.token_lengths.max() <= bpe.LONGEST_TOKEN
    assert len(learned.encode(genome)) < 0.5 * len(genome)
    assert bpe.train([genome], len(genome), 128) == learned
    cut = [genome[at : at + 10 * bpe.WORD] for at in range(0, len(genome), 10 * bpe.WORD)]
    np.testing.assert_array_equal(
        np.concatenate([learned.encode(part) for part in cut]), learned.encode(genome)
    )
    assert from_spec(json.loads(json.dumps(learned.spec()))) == learned


def test_corpus(
    library: None, genome: bytes, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MARKOV_ORDERS", range(2))
    path, other = tmp_path / "x.fa", tmp_path / "y.fa"
    path.write_text(f">a\n{genome[:9_000].decode()}NNacgt\n>b\n{genome[9_000:15_000].decode()}\n")
    other.write_text(f">v\n{''.join(np.random.default_rng(2).choice(list('ACGT'), 3_000))}\n")
    options = CorpusOptions(
        (str(path),),
        (str(other),),
        tokenizer={"name": "bpe", "vocab_size": 64},
        row_length=64,
        soft_mask_weight=0.5,
    )
    found = build_corpus(options, str(tmp_path / "d"))
    source, tokenizer = found.source("train"), found.tokenizer
    parts: dict[str, dict[int, bytes]] = {"a": {}, "b": {}}
    arrange = loader.Layout(tokenizer, 64)
    for index in range(len(source)):
        row = source[index]
        segments = np.split(row["tokens"], np.cumsum(row["segment_lengths"])[:-1])
        ids = row["record_ids"].decode().split("\n")
        for record_id, start, tokens in zip(ids, row["starts"], segments, strict=True):
            parts[record_id][int(start)] = tokenizer.decode(tokens)
        batch = arrange([(source, index, False), (source, index, True)])
        assert (batch["segment_ids"] > 0).sum(axis=1).tolist() == [len(row["tokens"])] * 2
    joined = {name: b"".join(own[start] for start in sorted(own)) for name, own in parts.items()}
    assert joined == {"a": genome[:9_000] + b"NNACGT", "b": genome[9_000:15_000]}
    stored = json.loads(pathlib.Path(found.folder, "tokenizer.json").read_text())
    assert len(stored["model"]["vocab"]) == tokenizer.vocab_size == found.manifest["vocab_size"]
    assert open_corpus(str(tmp_path / "d")).tokenizer == tokenizer
    assert build_corpus(options, str(tmp_path / "d")).fingerprint == found.fingerprint
