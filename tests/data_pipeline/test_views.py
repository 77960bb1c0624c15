"""Does a view fit its row, and is the frames' reading the same for both strands?"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline import frames, views
from data_pipeline.bpe import Bpe
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import Kmer, Nucleotide, OverlappingKmer, reverse_complement
from data_pipeline.views import Bases, Composition, Frames, TokenView, make_view

CODONS = Frames(frames.Codon())
VIEWS: list[TokenView] = [Bases(Nucleotide()), Bases(Kmer(3)), Frames(Kmer(3)), CODONS]
# Few T's leave stretches open, so that they overlap and fill the row; stops and N's end them.
pieces = st.one_of(
    st.text(st.sampled_from("ACGT"), max_size=60),
    st.text(st.sampled_from("ACG"), max_size=300),
    st.integers(1, 40).map("N".__mul__),
    st.sampled_from(["TAA", "CTAG", "TTAATTAATTAA", "acgtRYKM"]),
)
contigs = st.lists(pieces, max_size=6).map("".join).map(str.encode)


def random_dna(rng: np.random.Generator, length: int, letters: str = "ACGT") -> bytes:
    return rng.choice(np.frombuffer(letters.encode(), np.uint8), length).tobytes()


def plain(segments: list[list[np.ndarray]]) -> list[list[bytes]]:
    return [[segment.tobytes() for segment in strand] for strand in segments]


@pytest.mark.parametrize("view", VIEWS)
@settings(deadline=None)
@given(contigs)
@example(b"")
@example(b"A")
@example(b"N" * 100)
def test_a_piece_fits_its_row(view: TokenView, piece: bytes) -> None:
    strands = view.segments(piece)
    assert len(strands) == view.strands
    for strand in strands:
        assert sum(map(len, strand)) <= view.row_length(len(piece))
        for segment in strand:
            assert segment.dtype == view.tokenizer.dtype
            assert segment.size == 0 or segment.max() < view.tokenizer.vocab_size


@pytest.mark.parametrize("view", VIEWS)
def test_few_row_lengths_that_never_shrink(view: TokenView) -> None:
    lengths = [view.row_length(bases) for bases in range(3000)]
    assert lengths == sorted(lengths)
    assert all(length % 16 == 0 and length > 0 for length in lengths)


@pytest.mark.parametrize("view", VIEWS)
@settings(deadline=None)
@given(st.lists(contigs, max_size=5))
def test_a_batch_reads_each_piece_as_if_alone(view: TokenView, batch: list[bytes]) -> None:
    read = [plain(strands) for strands in view.segments_batch(batch)]
    assert read == [plain(view.segments(piece)) for piece in batch]


@pytest.mark.parametrize("k", [1, 3, 6])
@settings(deadline=None)
@given(st.text(st.sampled_from("ACGT"), max_size=200).map(str.encode))
def test_bases_reads_all_of_a_piece_and_of_its_other_strand(k: int, piece: bytes) -> None:
    view = Bases(Nucleotide() if k == 1 else Kmer(k))
    (forward,), (backward,) = view.segments(piece)
    assert view.tokenizer.decode(forward) == piece
    assert view.tokenizer.decode(backward) == reverse_complement(piece)
    assert plain(view.segments(reverse_complement(piece))) == plain([[backward], [forward]])


def test_tokens_of_any_length_have_room_for_single_letters() -> None:
    learned = Bpe((("A", "C"), ("AC", "AC"), ("G", "T"), ("GT", "GT")))
    assert set(learned.token_lengths.tolist()) == {0, 1, 2, 4}
    assert Bases(learned).row_length(300) == 304 == Bases(Nucleotide()).row_length(300)
    assert Bases(OverlappingKmer(4)).row_length(300) == 304
    assert Bases(Kmer(4)).row_length(300) == 80


def test_bases_leaves_out_what_does_not_fit() -> None:
    view, piece = Bases(Kmer(3)), b"NAC" * 100 + b"ACG" * 100
    (forward,), (backward,) = view.segments(piece)
    assert len(forward) == len(backward) == view.row_length(600) == 208
    assert view.tokenizer.decode(forward) == piece[:208]
    assert view.tokenizer.decode(backward) == reverse_complement(piece)[: 300 + 108]


def codons_of(piece: bytes) -> Counter[bytes]:
    """What Frames reads: each segment's codons, in no order."""
    (strand,) = Frames(Kmer(3)).segments(piece)
    return Counter(segment.tobytes() for segment in strand)


Reader = Callable[[bytes], Counter[bytes]]


def read_otherwise(reader: Reader) -> int:
    """Of 60 pieces, how many are read otherwise from the other strand.

    Each has more open stretches than fit into 150 tokens, of three lengths: ties have to be broken.
    """
    rng = np.random.default_rng(1)
    stop = b"TTAATTAATTAA"  # in all six frames
    different = 0
    for _ in range(60):
        genes = [random_dna(rng, 3 * int(rng.choice([31, 40, 60])), "ACG") for _ in range(9)]
        piece = stop.join(genes)
        different += reader(piece) != reader(reverse_complement(piece))
    return different


def test_frames_reads_the_same_from_both_strands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frames, "row_length", lambda self, bases: 150)
    assert read_otherwise(codons_of) == 0
    rng = np.random.default_rng(2)
    for length in (1, 20, 300, 5000):
        piece = random_dna(rng, length)
        assert codons_of(piece) == codons_of(reverse_complement(piece))


def test_planted_ties_broken_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_come(segments: list[np.ndarray], room: int) -> list[np.ndarray]:
        kept = set()
        for index in sorted(range(len(segments)), key=lambda i: -len(segments[i])):
            if len(segments[index]) <= room:
                room -= len(segments[index])
                kept.add(index)
        return [segment for index, segment in enumerate(segments) if index in kept]

    monkeypatch.setattr(Frames, "row_length", lambda self, bases: 150)
    monkeypatch.setattr(views, "_longest", first_come)
    assert read_otherwise(codons_of) > 0


@settings(deadline=None)
@given(contigs)
def test_frames_reads_the_open_stretches_in_order(piece: bytes) -> None:
    stretches = frames.open_stretches(piece)
    tokens, lengths, _ = frames.codon_tokens(piece, stretches)
    whole = [part.tobytes() for part in np.split(tokens, lengths.cumsum()[:-1])]
    (read,) = plain(Frames(Kmer(3)).segments(piece))
    if lengths.sum() <= Frames(Kmer(3)).row_length(len(piece)):
        assert read == (whole if len(lengths) else [])
        return
    remaining = iter(whole)
    assert all(segment in remaining for segment in read), "in order along the piece"
    room = Frames(Kmer(3)).row_length(len(piece)) - sum(map(len, read))
    assert all(len(segment) > room for segment in Counter(whole) - Counter(read))


def test_a_piece_without_an_open_codon_is_an_empty_row() -> None:
    assert Frames(Kmer(3)).segments_batch([b"", b"AC", b"TAATTAATTAA"[:2], b"N" * 99]) == [[[]]] * 4
    assert Frames(Kmer(3)).segments_batch([]) == []


def test_a_view_by_name() -> None:
    assert make_view("bases", Kmer(4)) == Bases(Kmer(4))
    assert make_view("frames", Kmer(3)) == Frames(Kmer(3))
    assert make_view("frames", frames.Codon()) == Frames(frames.Codon())
    assert make_view("composition") == Composition()
    with pytest.raises(UserError) as raised:
        make_view("frames", Kmer(4))
    assert str(raised.value) == (
        "the view `frames` reads codons, so it needs a model pre-trained with tokenizer.name "
        "codon, or kmer and tokenizer.k 3, not {'name': 'kmer', 'k': 4}"
    )
    with pytest.raises(UserError) as raised:
        make_view("codons", Kmer(3))
    assert str(raised.value) == "view 'codons' is not one of bases, frames, composition"


@settings(deadline=None)
@given(contigs)
@example(b"")
@example(b"acgtRYKMacgtacgt" * 8)
def test_composition_reads_the_same_from_both_strands(piece: bytes) -> None:
    (forward,) = Composition().read([piece], len(piece))
    (backward,) = Composition().read([reverse_complement(piece)], len(piece))
    assert forward["features"].shape == (1, Composition.features)
    assert np.isfinite(forward["features"]).all()
    assert (forward["features"] >= 0).all()
    np.testing.assert_allclose(forward["features"], backward["features"], atol=1e-6)


def test_a_stretch_begins_with_a_strand_for_a_model_of_codons() -> None:
    piece = random_dna(np.random.default_rng(3), 900)
    (plainly,) = Frames(Kmer(3)).segments(piece)
    (led,) = CODONS.segments(piece)
    assert len(plainly) == len(led) > 1
    for segment, codons in zip(led, plainly, strict=True):
        assert segment[0] == frames.FORWARD
        np.testing.assert_array_equal(segment[1:], codons)
