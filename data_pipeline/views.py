"""What does the classifier read of a piece of DNA? Its bases, its reading frames, or its make-up.

A view turns pieces into the rows of a batch. `bases` reads the tokens of a piece as it stands, so a
detector reads both strands and averages. `frames` reads the codons of the open stretches of all six
frames, in coding direction, and `composition` counts k-mers and what the open stretches say: the
same for both strands, so one pass covers them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from data_pipeline import composition, frames
from data_pipeline.errors import UserError
from data_pipeline.loader import Batch, layout, stack
from data_pipeline.tokenizers import Kmer, Tokenizer, reverse_complement

_ROW_MULTIPLE = 16


class View(Protocol):
    """What a row of the classifier holds."""

    @property
    def name(self) -> str: ...

    @property
    def strands(self) -> int:
        """How many rows a piece of DNA becomes: 2 where each strand is read by itself, else 1."""

    def row_length(self, bases: int) -> int:
        """What a row that takes a piece of up to `bases` costs, in tokens: one of a few lengths."""

    def read(self, pieces: Sequence[bytes], bases: int) -> list[Batch]:
        """For each strand read, one batch: row i is of pieces[i], none longer than `bases`.

        Rows do not depend on one another, and an empty piece is a row that holds nothing.
        """


class TokenView(View, Protocol):
    """A view whose rows are segments of tokens side by side."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Gives the ids their meaning."""

    def segments_batch(self, pieces: Sequence[bytes]) -> list[list[list[np.ndarray]]]:
        """Of each piece, for each strand read, the segments: token arrays, dtype[T].

        The segments of a strand are together not longer than the `row_length` of the piece.
        """

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        """The segments of one piece."""


def _laid_out(view: TokenView, pieces: Sequence[bytes], bases: int) -> list[Batch]:
    length, read = view.row_length(bases), view.segments_batch(pieces)
    return [
        stack([layout(strands[strand], length, view.tokenizer) for strands in read])
        for strand in range(view.strands)
    ]


@dataclass(frozen=True)
class Bases:
    """The piece as it stands, and its reverse complement."""

    tokenizer: Tokenizer
    name: ClassVar[str] = "bases"
    strands: ClassVar[int] = 2

    def row_length(self, bases: int) -> int:
        *shorter, per_token = np.unique(self.tokenizer.token_lengths).tolist()
        if max(shorter) > 1:  # learned tokens of any length: at worst each is a single letter
            return _rounded(bases)
        return _rounded(bases // per_token + per_token - 1)

    def segments_batch(self, pieces: Sequence[bytes]) -> list[list[list[np.ndarray]]]:
        # Ambiguous letters cost a token each; what does not fit the row is left out.
        return [
            [
                [self.tokenizer.encode(strand)[: self.row_length(len(strand))]]
                for strand in (piece, reverse_complement(piece))
            ]
            for piece in pieces
        ]

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        return self.segments_batch([bases])[0]

    def read(self, pieces: Sequence[bytes], bases: int) -> list[Batch]:
        return _laid_out(self, pieces, bases)


@dataclass(frozen=True)
class Frames:
    """The codons of the open stretches: each a segment, in order along the piece.

    Where they do not all fit the row, the longest are taken first. Codons have the same ids in the
    3-mer and in the codon tokenizer, so a model pre-trained on either reads them; with the latter a
    segment begins as its stretches do, with the token of a strand, always the forward one: every
    stretch is read in its own direction.
    """

    tokenizer: Tokenizer  # Kmer(3) or frames.Codon()
    name: ClassVar[str] = "frames"
    strands: ClassVar[int] = 1

    def row_length(self, bases: int) -> int:
        return _rounded(bases // 3 + bases // 24)

    def segments_batch(self, pieces: Sequence[bytes]) -> list[list[list[np.ndarray]]]:
        stretches = _stretches(self.tokenizer, pieces)
        if isinstance(self.tokenizer, frames.Codon):
            stream, _ = frames.codon_streams_batch(pieces, stretches)
            tokens = np.where(stream == frames.BACKWARD, np.uint8(frames.FORWARD), stream)
            lengths = (stretches.flat.stop - stretches.flat.start) // 3 + 1
        else:
            tokens, lengths, _ = frames.codon_tokens_batch(pieces, stretches)
        ends = lengths.cumsum()
        spans = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
        segments = [tokens[begin:end] for begin, end in spans]
        bounds = stretches.bounds.tolist()
        return [
            [_longest(segments[first:last], self.row_length(len(piece)))]
            for piece, first, last in zip(pieces, bounds[:-1], bounds[1:], strict=True)
        ]

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        return self.segments_batch([bases])[0]

    def read(self, pieces: Sequence[bytes], bases: int) -> list[Batch]:
        return _laid_out(self, pieces, bases)


@dataclass(frozen=True)
class Composition:
    """Of what a piece is made, in numbers: k-mers, and what its open stretches say."""

    name: ClassVar[str] = "composition"
    strands: ClassVar[int] = 1
    features: ClassVar[int] = len(composition.COMPOSITION_NAMES) + len(composition.KMER_NAMES)

    def row_length(self, bases: int) -> int:
        del bases
        return _ROW_MULTIPLE

    def read(self, pieces: Sequence[bytes], bases: int) -> list[Batch]:
        """`features` float32[B, F]: composition_features_batch, then kmer_features_batch."""
        del bases
        stretches = frames.open_stretches_batch(pieces)
        of_stretches = composition.composition_features_batch(pieces, stretches)
        of_kmers = composition.kmer_features_batch(pieces)
        return [{"features": np.concatenate([of_stretches, of_kmers], axis=1)}]


def _stretches(tokenizer: Tokenizer, pieces: Sequence[bytes]) -> frames.StretchesBatch:
    if not isinstance(tokenizer, frames.Codon):
        return frames.open_stretches_batch(pieces)
    return frames.open_stretches_batch(
        pieces, min_codons=tokenizer.min_codons, max_overlap=tokenizer.max_overlap
    )


def _longest(segments: list[np.ndarray], room: int) -> list[np.ndarray]:
    """The segments that fit into `room` tokens, taken from the longest down, in their order."""
    if sum(map(len, segments)) <= room:
        return segments
    kept = set()
    # Of equal lengths the codons decide, not the place, so that both strands keep the same ones.
    for index in sorted(
        range(len(segments)), key=lambda i: (-len(segments[i]), segments[i].tobytes())
    ):
        if len(segments[index]) <= room:
            room -= len(segments[index])
            kept.add(index)
    return [segment for index, segment in enumerate(segments) if index in kept]


def make_view(name: str, tokenizer: Tokenizer | None = None) -> View:
    """The view of that name, reading with `tokenizer`; UserError where the two do not fit."""
    if name == Composition.name:
        return Composition()
    if tokenizer is not None and name == Bases.name:
        return Bases(tokenizer)
    if tokenizer is not None and name == Frames.name:
        if tokenizer != Kmer(3) and not isinstance(tokenizer, frames.Codon):
            raise UserError(
                "the view `frames` reads codons, so it needs a model pre-trained with "
                "tokenizer.name codon, or kmer and tokenizer.k 3, "
                f"not {tokenizer.spec()}"
            )
        return Frames(tokenizer)
    known = (Bases.name, Frames.name, Composition.name)
    raise UserError(f"view {name!r} is not one of {', '.join(known)}")


def _rounded(tokens: int) -> int:
    return max(1, -(-tokens // _ROW_MULTIPLE)) * _ROW_MULTIPLE
