"""Is a sequence known again on either strand, however it is cut, and no other taken for it?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import duplicates
from data_pipeline.duplicates import StrandlessHash
from data_pipeline.errors import UserError
from data_pipeline.records import Collected, Measured, Records
from data_pipeline.tokenizers import reverse_complement

dna = st.text("ACGTRYSWKMBDHVNacgtn", max_size=50).map(str.encode)


def hashed(*blocks: bytes) -> tuple[int, ...]:
    value = StrandlessHash()
    for block in blocks:
        value.update(block)
    return value.value()


@given(dna, st.integers(0, 50), st.integers(0, 50))
def test_strand_case_and_cuts_do_not_matter(bases: bytes, one: int, other: int) -> None:
    first, second = sorted((one, other))
    value = hashed(bases)
    assert value == hashed(bases[:first], bases[first:second], bases[second:])
    assert value == hashed(reverse_complement(bases))
    assert value == hashed(bases.swapcase())


@given(dna, dna)
def test_other_sequences_differ(one: bytes, other: bytes) -> None:
    same = one.upper() in (other.upper(), reverse_complement(other).upper())
    assert (hashed(one) == hashed(other)) == same


def test_long_sequences_in_steps() -> None:
    rng = np.random.default_rng(0)
    bases = bytearray(rng.choice(np.frombuffer(b"ACGT", np.uint8), 3 * duplicates._STEP + 5))
    value = hashed(bytes(bases))
    assert value == hashed(reverse_complement(bytes(bases)))
    assert value == hashed(bytes(bases[:7]), bytes(bases[7:]))
    for place in (0, duplicates._STEP, len(bases) - 1):
        changed = bases.copy()
        changed[place] = ord("A") if changed[place] != ord("A") else ord("C")
        assert hashed(bytes(changed)) != value


def test_planted_fault_a_hash_without_the_other_strand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_COMPLEMENT_CODES", duplicates._CODES)
    assert hashed(b"AACCC") != hashed(b"GGGTT")


def records(*rows: tuple[str, str, str, bytes]) -> Records:
    """Of id, file, split and bases."""
    collected = Collected()
    for name, source, split, bases in rows:
        collected.add(Measured(name, len(bases), 0, 0, "", source, hashed(bases), split))
    return collected.records()


def test_what_two_splits_share_is_named_in_both() -> None:
    twice = ("a", "one.fa", "train", b"AC"), ("b", "one.fa", "train", b"AC")
    fine = records(*twice, ("c", "two.fa", "test", b"ACG"), ("d", "two.fa", "test", b"ACG"))
    duplicates.refuse_shared_ids(fine)
    duplicates.refuse_shared_sequences(fine)  # twice in one split is no leak
    same_id = records(*twice, ("b", "two.fa", "test", b"ACG"))
    with pytest.raises(UserError, match=r"two.fa: record b: .* in one.fa"):
        duplicates.refuse_shared_ids(same_id)
    same_bases = records(*twice, ("c", "three.fa", "test", b"GT"))
    with pytest.raises(
        UserError, match=r"three.fa: record c \(test\) .* record a \(train\) in one"
    ):
        duplicates.refuse_shared_sequences(same_bases)
