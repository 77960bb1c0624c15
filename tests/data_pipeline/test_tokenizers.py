"""Does every tokenizer give back what it was given, on both strands?"""

import dataclasses
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import tokenizers
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import Kmer, Nucleotide, Tokenizer, from_spec, reverse_complement

ALL = [Nucleotide(), *(Kmer(k) for k in tokenizers.KMER_SIZES)]
IUPAC = "ACGTURYSWKMBDHVN"
dna = st.text(st.sampled_from(IUPAC + IUPAC.lower() + "ACGTACGTACGT" * 4), max_size=60).map(
    str.encode
)
both = pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: f"{t.name}{getattr(t, 'k', '')}")


def plain(bases: bytes) -> bytes:
    """The reference: upper case, U as T, everything that is not ACGT as N."""
    upper = bases.decode().upper().replace("U", "T")
    return "".join(letter if letter in "ACGT" else "N" for letter in upper).encode()


def check_round_trip(tokenizer: Tokenizer, bases: bytes) -> None:
    tokens = tokenizer.encode(bases)
    assert tokens.dtype == tokenizer.dtype
    assert tokenizer.decode(tokens) == plain(bases)
    assert tokenizer.token_lengths[tokens].sum() == len(bases)
    ambiguous = sum(letter == ord("N") for letter in plain(bases))
    assert tokenizer.token_bases[tokens].sum() == len(bases) - ambiguous


def check_strands(tokenizer: Tokenizer, bases: bytes) -> None:
    tokens = tokenizer.encode(bases)
    other = tokenizer.reverse_complement(tokens)
    assert other.dtype == tokens.dtype
    assert tokenizer.decode(other) == plain(reverse_complement(bases))
    assert np.array_equal(tokenizer.reverse_complement(other), tokens)


@both
@given(dna)
def test_decode_gives_back_the_letters(tokenizer: Tokenizer, bases: bytes) -> None:
    check_round_trip(tokenizer, bases)


@both
@given(dna)
def test_reverse_complement_of_tokens_is_that_of_letters(
    tokenizer: Tokenizer, bases: bytes
) -> None:
    check_strands(tokenizer, bases)


SPECS = [
    *(tokenizer.spec() for tokenizer in ALL),
    {"name": "kmer", "k": 3, "stride": 1},
    {"name": "codon"},
]


@pytest.mark.parametrize("length", [24, 29])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "".join(map(str, spec.values())))
def test_rows_are_turned_together_as_one_by_one(spec: dict, length: int) -> None:
    tokenizer = from_spec(spec)
    bases = np.random.default_rng(0).choice(list(b"ACGTN"), 4_000).astype(np.uint8).tobytes()
    rows = tokenizer.encode(bases)[: 4 * length].reshape(4, length)
    together = tokenizer.reverse_complement(rows)
    assert together.dtype == rows.dtype
    assert np.array_equal(together, [tokenizer.reverse_complement(row) for row in rows])
    assert not np.array_equal(together, rows)


@given(dna)
def test_nucleotides_commute_with_the_strand(bases: bytes) -> None:
    tokenizer = Nucleotide()
    assert np.array_equal(
        tokenizer.encode(reverse_complement(bases)),
        tokenizer.reverse_complement(tokenizer.encode(bases)),
    )


@given(dna, st.integers(0, 8))
def test_kmers_as_written_out_by_hand(bases: bytes, chunks: int) -> None:
    k = 3
    order = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    text = plain(bases).decode()
    expected = []
    for start in range(0, len(text), k):
        chunk = text[start : start + k]
        if len(chunk) == k and "N" not in chunk:
            expected.append(6 + order.index(chunk))
        else:
            expected.extend(1 + "NACGT".index(letter) for letter in chunk)
    assert Kmer(k).encode(bases).tolist() == expected
    # Cut at a multiple of k, the parts' tokens join to the tokens of the whole.
    parts = [Kmer(k).encode(part) for part in (bases[: chunks * k], bases[chunks * k :])]
    assert np.concatenate(parts).tolist() == expected


def test_known_ids() -> None:
    assert Nucleotide().encode(b"NACGTuacgtRy-*").tolist() == [
        1,
        2,
        3,
        4,
        5,
        5,
        2,
        3,
        4,
        5,
        1,
        1,
        1,
        1,
    ]
    assert Kmer(2).encode(b"AAACTTA").tolist() == [6, 7, 21, 2]
    assert Kmer(2).encode(b"ANAATT").tolist() == [2, 1, 6, 21]
    assert Kmer(4).vocab_size == 262
    assert [t.dtype for t in (Kmer(3), Kmer(4), Kmer(7), Kmer(8))] == [
        np.uint8,
        np.uint16,
        np.uint16,
        np.uint32,
    ]
    assert Nucleotide().decode(np.array([2, 0, 3, 0])) == b"AC"  # padding vanishes
    assert Kmer(2).decode(np.array([0, 6, 0, 2])) == b"AAA"


def test_reverse_complement_of_letters() -> None:
    assert reverse_complement(b"AacgTRYSWKMBDHVN") == b"NBDHVKMWSRYAcgtT"
    assert reverse_complement(b"U") == b"A"


@both
def test_spec_is_complete_and_tokenizers_travel(tokenizer: Tokenizer) -> None:
    assert from_spec(tokenizer.spec()) == tokenizer
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.token_bases.dtype == tokenizer.token_lengths.dtype == np.int32
    assert len(tokenizer.token_bases) == len(tokenizer.token_lengths) == tokenizer.vocab_size


@both
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (tokenizer.vocab_size, -1):
        with pytest.raises(ValueError, match="vocabulary"):
            tokenizer.decode(np.array([2, wrong]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "codons"}, "choose from nucleotide, kmer, bpe, codon"),
        ({}, "unknown tokenizer None"),
        ({"name": "kmer"}, "keys name, k; given: name"),
        ({"name": "kmer", "k": 9}, "from 2 to 8"),
        ({"name": "kmer", "k": "6"}, "from 2 to 8"),
        ({"name": "nucleotide", "k": 3}, "given: name, k"),
    ],
)
def test_a_wrong_spec_names_the_choices(spec: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_spec(spec)


@dataclasses.dataclass(frozen=True)
class DropsAmbiguity(Kmer):
    """Planted fault: ambiguous k-mers are thrown away."""

    def encode(self, bases: bytes) -> np.ndarray:
        tokens = super().encode(bases)
        return tokens[tokens != tokenizers.N]


@dataclasses.dataclass(frozen=True)
class ForgetsToReverse(Kmer):
    """Planted fault: tokens are complemented in place, not reversed."""

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        return super().reverse_complement(tokens)[::-1]


@pytest.mark.parametrize(
    ("check", "tokenizer", "bases"),
    [
        (check_round_trip, DropsAmbiguity(3), b"ACGNCGTTA"),
        (check_strands, ForgetsToReverse(3), b"ACGTTTA"),
    ],
)
def test_planted_faults_are_caught(
    check: Callable[[Tokenizer, bytes], None], tokenizer: Tokenizer, bases: bytes
) -> None:
    with pytest.raises(AssertionError):
        check(tokenizer, bases)


@given(st.integers(2, 5), st.text(alphabet="ACGTacgtNRU", max_size=80))
def test_overlapping_kmers(k: int, text: str) -> None:
    tokenizer, bases = from_spec({"name": "kmer", "k": k, "stride": 1}), text.encode()
    assert from_spec(tokenizer.spec()) == tokenizer
    tokens = tokenizer.encode(bases)
    plain = Nucleotide().decode(Nucleotide().encode(bases))
    assert tokenizer.decode(tokens) == plain
    assert len(tokens) == len(bases) == tokenizer.token_lengths[tokens].sum()
    other = tokenizer.reverse_complement(tokens)
    np.testing.assert_array_equal(other, tokenizer.encode(reverse_complement(bases)))
    for at in range(len(bases) - k + 1):
        word = plain[at : at + k]
        expected = Nucleotide().encode(word[:1]) if b"N" in word else Kmer(k).encode(word)
        assert tokens[at] == expected[0]


def test_a_stride_between_one_and_k_is_refused() -> None:
    assert from_spec({"name": "kmer", "k": 4, "stride": 4}) == Kmer(4)
    with pytest.raises(UserError, match="stride is 2; choose 1"):
        from_spec({"name": "kmer", "k": 4, "stride": 2})
