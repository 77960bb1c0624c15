"""Are the features those counted by hand, the same on both strands, alone and in a batch?"""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import composition, frames
from data_pipeline.composition import COMPOSITION_NAMES, KMER_NAMES
from data_pipeline.tokenizers import reverse_complement

# The standard code as the textbooks print it, T first.
TEXTBOOK = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
AMINO_ACID = {
    a + b + c: TEXTBOOK[16 * i + 4 * j + k]
    for i, a in enumerate("TCAG")
    for j, b in enumerate("TCAG")
    for k, c in enumerate("TCAG")
}
pieces = st.one_of(
    st.text(st.sampled_from("ACGT"), max_size=40),
    st.text(st.sampled_from("ACG"), max_size=60),
    st.integers(1, 18).map("N".__mul__),
)
contigs = st.lists(pieces, max_size=6).map("".join).map(str.encode)
Features = Callable[[list[bytes]], np.ndarray]


def of_stretches(batch: list[bytes]) -> np.ndarray:
    stretches = frames.open_stretches_batch(batch, min_codons=5)
    return composition.composition_features_batch(batch, stretches)


def shares(prefix: str, counts: Counter[str]) -> dict[str, float]:
    return {prefix + name: count / counts.total() for name, count in counts.items()}


def reference_composition(bases: bytes) -> dict[str, float]:
    """The features that are not zero."""
    stretches = frames.open_stretches(bases, min_codons=5)
    codons: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    covered: set[int] = set()
    lengths = []
    for start, stop, strand in zip(
        stretches.start.tolist(), stretches.stop.tolist(), stretches.strand.tolist(), strict=True
    ):
        piece = bases[start:stop] if strand > 0 else reverse_complement(bases[start:stop])
        read = [piece[i : i + 3].decode() for i in range(0, len(piece), 3)]
        codons.update(codon for codon in read if "N" not in codon)
        protein = "".join(AMINO_ACID.get(codon, "?") for codon in read)
        pairs.update(a + b for a, b in pairwise(protein) if "?" not in a + b)
        covered.update(range(start, stop))
        lengths.append(len(read))
    if not lengths:
        return {}
    return {
        **shares("codon_", codons),
        **shares("pair_", pairs),
        "share_covered": len(covered) / len(bases),
        "log_longest": math.log1p(max(lengths)),
        "log_mean": math.log1p(sum(lengths) / len(lengths)),
        "stretches_per_kb": 1000 * len(lengths) / len(bases),
    }


def reference_kmers(bases: bytes) -> dict[str, float]:
    features = {"log_length": math.log(len(bases))} if len(bases) > 1 else {}
    for k in (3, 4, 6):
        kmers = [bases[i : i + k] for i in range(len(bases) - k + 1)]
        canonical = (min(x, reverse_complement(x)).decode() for x in kmers if b"N" not in x)
        features |= shares("kmer_", Counter(canonical))
    return features


ROOMS: dict[str, tuple[Features, tuple[str, ...], Callable[[bytes], dict[str, float]]]] = {
    "stretches": (of_stretches, COMPOSITION_NAMES, reference_composition),
    "kmers": (composition.kmer_features_batch, KMER_NAMES, reference_kmers),
}
room = pytest.mark.parametrize("room", ROOMS)


def check_reference(room: str, batch: list[bytes]) -> None:
    features_of, names, reference = ROOMS[room]
    features = features_of(batch)
    assert features.shape == (len(batch), len(names))
    assert features.dtype == np.float32
    for bases, row in zip(batch, features, strict=True):
        expected = reference(bases)
        here = {names[i]: row[i].item() for i in np.flatnonzero(row)}
        assert here == pytest.approx(expected, rel=1e-6)


def check_strands(room: str, batch: list[bytes]) -> None:
    features_of, _, _ = ROOMS[room]
    assert np.array_equal(features_of(batch), features_of([*map(reverse_complement, batch)]))


@room
@given(st.lists(contigs, max_size=4))
def test_as_counted_by_hand(room: str, batch: list[bytes]) -> None:
    check_reference(room, batch)


@room
@given(contigs)
def test_both_strands_are_equal(room: str, bases: bytes) -> None:
    check_strands(room, [bases])


def random_batch() -> list[bytes]:
    rng = np.random.default_rng(3)
    letters = [np.frombuffer(x, np.uint8) for x in (b"ACGT", b"ACGCGT", b"ACGT" * 20 + b"N")]
    batch = [rng.choice(x, n).tobytes() for x in letters for n in (0, 2, 3, 300, 301, 302, 3000)]
    return [batch[i] for i in rng.permutation(len(batch))]


@room
def test_contigs_of_usual_lengths(room: str) -> None:
    batch = random_batch()
    check_reference(room, batch)
    check_strands(room, batch)


def test_one_contig_is_a_batch_of_one() -> None:
    bases = max(random_batch(), key=len)
    stretches = frames.open_stretches(bases)
    together = composition.composition_features_batch(
        [b"", bases], frames.open_stretches_batch([b"", bases])
    )
    assert np.array_equal(composition.composition_features(bases, stretches), together[1])
    assert not together[0].any()
    kmers = composition.kmer_features_batch([b"", bases])
    assert np.array_equal(composition.kmer_features(bases), kmers[1])


def test_names_are_unique_and_complete() -> None:
    assert len(set(COMPOSITION_NAMES)) == len(COMPOSITION_NAMES) == 64 + 400 + 4
    assert len(set(KMER_NAMES)) == len(KMER_NAMES) == 32 + 136 + 2080 + 1


def test_lower_case_and_arrays_count() -> None:
    batch = random_batch()
    arrays = [np.frombuffer(bases.lower().replace(b"t", b"u"), np.uint8) for bases in batch]
    assert np.array_equal(
        composition.kmer_features_batch(arrays), composition.kmer_features_batch(batch)
    )


def shifted(table: bytes) -> bytes:
    return table[1:] + table[:1]


FAULTS = {
    "another genetic code": ("_TO_AMINO_ACID", shifted, "stretches", check_reference),
    "codons shifted": ("_TO_CODON", shifted, "stretches", check_reference),
    "pairs reach into the next stretch": (
        "_GAP_CODE",
        lambda _: bytes([0]),  # an AAA
        "stretches",
        check_reference,
    ),
    "ambiguous k-mers count": (
        "_PLACES",
        lambda tables: tuple(np.minimum(table, table.max() - 1) for table in tables),
        "kmers",
        check_reference,
    ),
    "k-mers not canonical": (
        "_PLACES",
        lambda tables: (np.minimum(np.arange(1 << 16, dtype=np.uint16) >> 8, 32), *tables[1:]),
        "kmers",
        check_strands,
    ),
    "overlaps covered twice": (
        "np.roll",
        lambda roll: lambda values, by: np.zeros_like(values),
        "stretches",
        check_reference,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, change, room, check = FAULTS[fault]
    place, attribute = (np, "roll") if name == "np.roll" else (composition, name)
    monkeypatch.setattr(place, attribute, change(getattr(place, attribute)))
    with pytest.raises(AssertionError):
        check(room, random_batch())
