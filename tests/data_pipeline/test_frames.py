"""Are the open stretches those a patient reader would find, on both strands, and read aright?"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import frames, six_frames
from data_pipeline.errors import UserError
from data_pipeline.frames import Codon, Stretches
from data_pipeline.tokenizers import Kmer, Tokenizer, reverse_complement

STOPS = {"TAA", "TAG", "TGA"}
SENSE = [codon for codon in six_frames.CODONS if codon not in STOPS]
# Few T's and many stops by turns, and runs of N, so that short contigs hold every case.
pieces = st.one_of(
    st.text(st.sampled_from("ACGT"), max_size=30),
    st.text(st.sampled_from("ACG"), max_size=40),
    st.text(st.sampled_from("ATG"), max_size=12),
    st.integers(1, 20).map("N".__mul__),
    st.sampled_from(["TAA", "CTAG", "TTAATTAATTAA", "tgaRYtca", "U"]),
)
contigs = st.lists(pieces, max_size=8).map("".join).map(str.encode)
options = st.tuples(st.integers(1, 12), st.sampled_from([0, 0.1, 0.3, 0.5, 1]))


def random_dna(rng: np.random.Generator, length: int, letters: str = "ACGT") -> bytes:
    return rng.choice(np.frombuffer(letters.encode(), np.uint8), length).tobytes()


def random_gene(rng: np.random.Generator, codons: int) -> bytes:
    return "".join(rng.choice(SENSE, codons)).encode()


def plain(bases: bytes) -> str:
    upper = bases.decode().upper().replace("U", "T")
    return "".join(letter if letter in "ACGT" else "N" for letter in upper)


Found = list[tuple[int, int, int, int]]  # start, stop, strand, frame


def found(stretches: Stretches) -> Found:
    columns = (stretches.start, stretches.stop, stretches.strand, stretches.frame)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def reference(bases: bytes, min_codons: int = 30, max_overlap: float = 0.3) -> Found:
    """Letter by letter, as the docstrings say."""
    alphabet = str.maketrans("ACGTN", "01234")
    candidates = []  # codons, bases ahead, letters, strand
    for strand, letters in ((1, plain(bases)), (-1, plain(reverse_complement(bases)))):
        for frame in range(3):
            codons = [letters[i : i + 3] for i in range(frame, len(letters) - 2, 3)]
            open_codons = [codon not in STOPS for codon in codons]
            for i in range(len(codons) - 4):
                if all("N" in codon for codon in codons[i : i + 5]):
                    open_codons[i : i + 5] = [False] * 5
            begin = 0
            for i, is_open in enumerate([*open_codons, False]):
                if not is_open:
                    if i > begin:
                        ahead = frame + 3 * begin
                        candidates.append((i - begin, ahead, letters.translate(alphabet), strand))
                    begin = i + 1
    candidates.sort(key=lambda c: (-c[0], *c[1:3]))
    candidates = [c for c in candidates if c[0] >= min_codons] or candidates[:1]
    covered: set[int] = set()
    accepted = []
    for codons, ahead, letters, strand in candidates:
        start = ahead if strand > 0 else len(letters) - ahead - 3 * codons
        places = set(range(start, start + 3 * codons))
        overlap = len(places & covered)
        if overlap == 0 or overlap < max_overlap * 3 * codons:
            covered |= places
            accepted.append((start, start + 3 * codons, strand, ahead % 3))
    return sorted(accepted)


def reference_tokens(bases: bytes, stretches: Found) -> list[list[int]]:
    order = {codon: 6 + place for place, codon in enumerate(six_frames.CODONS)}
    readings = []
    for start, stop, strand, _ in stretches:
        piece = bases[start:stop] if strand > 0 else reverse_complement(bases[start:stop])
        text = plain(piece)
        readings.append([order.get(text[i : i + 3], 1) for i in range(0, len(text), 3)])
    return readings


def segments(bases: bytes, stretches: Stretches) -> list[list[int]]:
    tokens, lengths, strands = frames.codon_tokens(bases, stretches)
    assert tokens.dtype == np.uint8
    assert lengths.dtype == np.int32
    assert strands.dtype == np.int8
    assert np.array_equal(strands, stretches.strand)
    assert lengths.sum() == len(tokens)
    return [part.tolist() for part in np.split(tokens, lengths.cumsum())[:-1]]


def check_reference(bases: bytes, min_codons: int, max_overlap: float) -> None:
    stretches = frames.open_stretches(bases, min_codons=min_codons, max_overlap=max_overlap)
    expected = reference(bases, min_codons, max_overlap)
    assert found(stretches) == expected
    assert segments(bases, stretches) == reference_tokens(bases, expected)


def check_strands(bases: bytes, min_codons: int, max_overlap: float) -> None:
    other = reverse_complement(bases)
    if plain(other) == plain(bases):
        return
    here, there = (
        frames.open_stretches(x, min_codons=min_codons, max_overlap=max_overlap)
        for x in (bases, other)
    )
    n = len(bases)
    assert found(here) == [(n - b, n - a, -s, f) for a, b, s, f in reversed(found(there))]
    assert segments(bases, here) == segments(other, there)[::-1]
    tokenizer = Codon(min_codons, max_overlap)
    stream = tokenizer.encode(bases)
    assert np.array_equal(tokenizer.reverse_complement(stream), tokenizer.encode(other))


def check_batch(batch: list[bytes], min_codons: int, max_overlap: float) -> None:
    together = frames.open_stretches_batch(batch, min_codons=min_codons, max_overlap=max_overlap)
    assert len(together) == len(batch)
    stream, bounds = frames.codon_streams_batch(batch, together)
    tokens = []
    for i, bases in enumerate(batch):
        alone = frames.open_stretches(bases, min_codons=min_codons, max_overlap=max_overlap)
        assert found(together[i]) == found(alone)
        tokens.append(frames.codon_tokens(bases, alone)[0])
        own = stream[bounds[i] : bounds[i + 1]]
        assert np.array_equal(own, frames.codon_stream(bases, alone))
        assert (own >= frames.FORWARD).sum() == len(alone)
    assert np.array_equal(frames.codon_tokens_batch(batch, together)[0], np.concatenate(tokens))


@given(contigs, options)
def test_as_a_patient_reader_finds_them(bases: bytes, how: tuple[int, float]) -> None:
    check_reference(bases, *how)


@given(contigs, options)
def test_the_other_strand_gives_the_same(bases: bytes, how: tuple[int, float]) -> None:
    check_strands(bases, *how)


@given(st.lists(contigs, min_size=1, max_size=6), options)
def test_a_batch_is_its_contigs(batch: list[bytes], how: tuple[int, float]) -> None:
    check_batch(batch, *how)


def typical(seed: int = 0) -> list[bytes]:
    """Contigs of many lengths and compositions, with and without N."""
    rng = np.random.default_rng(seed)
    batch = []
    for length in (90, 91, 92, 200, 300, 300, 500, 500, 1000, 1000, 2000):
        for letters in ("ACGT", "ACGGCT", "AATTCG", "ACGT" * 15 + "N", "ACGC" * 9 + "TN"):
            batch.append(random_dna(rng, length, letters))
    return batch


def check_typical(check: Callable[[bytes, int, float], None]) -> None:
    for bases in typical():
        check(bases, 30, 0.3)


def test_contigs_of_usual_lengths() -> None:
    check_typical(check_reference)
    check_typical(check_strands)
    check_batch(typical(), 30, 0.3)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frames.open_stretches_batch(typical())
    tokens = frames.codon_tokens_batch(typical(), whole)[0]
    monkeypatch.setattr(six_frames, "_BLOCK_BASES", 700)
    divided = frames.open_stretches_batch(typical())
    assert found(divided.flat) == found(whole.flat)
    assert np.array_equal(divided.bounds, whole.bounds)
    assert np.array_equal(frames.codon_tokens_batch(typical(), divided)[0], tokens)


@pytest.mark.parametrize("strand", [1, -1])
@pytest.mark.parametrize("ahead", [0, 1, 2, 300, 301, 302])
def test_genes_of_known_place(strand: int, ahead: int) -> None:
    rng = np.random.default_rng(ahead)
    gene = random_gene(rng, 150)
    # Stops in all six frames around the gene, so that nothing else is long.
    around = b"TTAATTAATTAACTAACTAACTAG" * 20
    left, right = around[-ahead:] if ahead else b"", around[:250]
    bases = left + (gene if strand > 0 else reverse_complement(gene)) + right
    stretches = frames.open_stretches(bases)
    longest = int(np.argmax(stretches.stop - stretches.start))
    start, stop = int(stretches.start[longest]), int(stretches.stop[longest])
    # Open codons just outside belong to the stretch as well.
    assert ahead - 15 <= start <= ahead
    assert ahead + 450 <= stop <= ahead + 465
    assert (start - ahead) % 3 == 0
    assert stretches.strand[longest] == strand
    own = segments(bases, stretches)[longest]
    text = Kmer(3).encode(gene).tolist()
    assert any(own[i : i + 150] == text for i in range(len(own) - 149))


def test_few_ambiguous_codons_do_not_break() -> None:
    rng = np.random.default_rng(1)
    left, right = random_gene(rng, 100), random_gene(rng, 100)
    for unknown, breaks in ((12, False), (15, True), (300, True)):
        stretches = frames.open_stretches(b"TAA" + left + b"N" * unknown + right + b"TAA")
        through = (stretches.start <= 3) & (stretches.stop >= 3 + 600 + unknown)
        assert through.any() != breaks


@pytest.mark.parametrize("bases", [b"", b"A", b"AC", b"TAA", b"TTA", b"N" * 200])
def test_contigs_without_a_stretch(bases: bytes) -> None:
    alone = frames.open_stretches(bases)
    assert len(alone) == (1 if bases in (b"TAA", b"TTA") else 0)  # open on one strand
    assert len(frames.codon_stream(bases, alone)) == 2 * len(alone)


def test_stops_in_every_frame() -> None:
    dense = b"TTAATTAATTAACTAACTAACTAG" * 40
    assert found(frames.open_stretches(dense)) == reference(dense)
    assert len(frames.open_stretches(dense)) == 1  # nothing is long, so the longest
    closed = b"TTAATTAATTAA"  # each codon of each frame is a stop on one strand or both
    assert found(frames.open_stretches(closed)) == reference(closed)


def test_empty_batch() -> None:
    none = frames.open_stretches_batch([])
    assert len(none) == 0
    assert len(none.flat) == 0
    tokens, lengths, strands = frames.codon_tokens_batch([], none)
    assert len(tokens) == len(lengths) == len(strands) == 0


def test_arrays_and_bytes_are_the_same() -> None:
    bases = typical()[20]
    letters = np.frombuffer(bases, np.uint8)
    assert found(frames.open_stretches(letters)) == found(frames.open_stretches(bases))
    assert found(frames.open_stretches(letters[::-1])) == reference(bases[::-1])
    with pytest.raises(ValueError, match="uint8"):
        frames.open_stretches(letters.astype(np.int32))
    with pytest.raises(ValueError, match="2 contigs"):
        frames.codon_tokens_batch([bases, bases], frames.open_stretches_batch([bases]))


def test_tokenizer_keeps_the_ids_of_3mers() -> None:
    tokenizer = Codon()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocab_size == 72
    assert len(tokenizer.token_bases) == len(tokenizer.token_lengths) == 72
    rng = np.random.default_rng(2)
    gene = b"TAA" + random_gene(rng, 100) + b"TAA"
    stream = tokenizer.encode(gene)
    assert stream.dtype == tokenizer.dtype
    at = stream.tolist().index(frames.FORWARD)
    assert np.array_equal(stream[at + 1 : at + 101], Kmer(3).encode(gene[3:-3]))
    assert tokenizer.decode(stream[at : at + 101]) == gene[3:-3]
    # Ids 2 to 5 decode to single letters, though no stream has them.
    assert [len(tokenizer.decode(np.array([i], np.uint8))) for i in range(72)] == (
        tokenizer.token_lengths.tolist()
    )
    assert tokenizer.token_bases[stream].sum() == 3 * (stream < frames.FORWARD).sum()


def test_tokenizer_spec_is_complete() -> None:
    tokenizer = Codon(40, 0.1)
    spec = dict(tokenizer.spec())
    assert spec.pop("name") == "codon"
    assert Codon(**spec) == tokenizer
    assert set(spec) == {field.name for field in dataclasses.fields(tokenizer)}
    with pytest.raises(UserError, match="min_codons is 0"):
        Codon(min_codons=0)
    with pytest.raises(UserError, match="max_overlap is 2"):
        Codon(max_overlap=2)


def test_the_rest_of_a_cut_stretch_stays_in_front() -> None:
    tokens = np.array([9, 9, 70, 10, 11, 71, 12], np.uint8)
    other = Codon().reverse_complement(tokens)
    assert other.tolist() == [9, 9, 70, 12, 71, 10, 11]
    assert np.array_equal(Codon().reverse_complement(other), tokens)


def without_stop(stop: str) -> bytes:
    table = bytearray(six_frames._IS_BREAK)
    table[six_frames.CODONS.index(stop)] = 0
    return bytes(table)


def blind_to_strand(block_of: Callable) -> Callable:
    def block(*arguments: object) -> object:
        made = block_of(*arguments)
        return dataclasses.replace(made, backward_first=np.zeros_like(made.backward_first))

    return block


def ranked_along_the_contig(candidates_of: Callable) -> Callable:
    def candidates(*arguments: object) -> object:
        made = candidates_of(*arguments)
        return dataclasses.replace(made, rank=(1 << 40) - (made.codons << 20) + made.laid)

    return candidates


FAULTS = {
    "TGA is no stop": (six_frames, "_IS_BREAK", lambda _: without_stop("TGA"), check_reference),
    "N breaks late": (six_frames, "BREAKING_RUN", lambda _: 6, check_reference),
    "N breaks early": (six_frames, "BREAKING_RUN", lambda _: 4, check_reference),
    "complement, not reversed": (
        six_frames,
        "REVERSE_COMPLEMENT",
        lambda table: bytes(63 - i for i in range(64)) + table[64:],
        check_reference,
    ),
    "overlaps do not count": (
        frames,
        "_greedy",
        lambda greedy: lambda length, start, codons, _: greedy(length, start, codons, 2),
        check_reference,
    ),
    "ties by strand of the file": (six_frames, "_block", blind_to_strand, check_strands),
    "ties by place in the file": (frames, "_candidates", ranked_along_the_contig, check_strands),
    "ids of codons shifted": (
        frames,
        "_TO_TOKEN",
        lambda table: bytes(min(i + 1, 255) for i in table),
        check_reference,
    ),
}


def crafted(check: Callable[[bytes, int, float], None]) -> None:
    """The usual contigs, and some made so that ties and runs of N decide."""
    check_typical(check)
    for n in (12, 13, 14, 15, 16):
        check(b"CCG" * 40 + b"N" * n + b"GCC" * 40, 10, 0.3)
    for repeat in (b"ACC", b"ACGGC", b"AACGC", b"CCA", b"GGT"):
        for length in (100, 101, 102, 199):
            check((repeat * 99)[:length], 30, 0.3)


def test_crafted_contigs() -> None:
    crafted(check_reference)
    crafted(check_strands)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, change, check = FAULTS[fault]
    monkeypatch.setattr(module, name, change(getattr(module, name)))
    with pytest.raises(AssertionError):
        crafted(check)


def test_contigs_that_run_together_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gap, a stretch runs on from one contig into the next."""
    batch = [bases[: len(bases) // 3 * 3] for bases in typical()]
    check_batch(batch, 30, 0.3)
    monkeypatch.setattr(six_frames, "_GAPS", (b"", bytes(2), bytes(1)))
    with pytest.raises((AssertionError, ValueError, IndexError)):
        check_batch(batch, 30, 0.3)
