"""What does the classifier read of a piece of DNA? Its bases as tokens, or its open reading frames.

A view turns bases into segments of tokens that go side by side into one row. `bases` reads the
piece as it stands, so a detector reads both strands and averages. `frames` reads the codons of the
open stretches of all six frames, in coding direction: the same for both strands, so one pass covers
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from data_pipeline import frames
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import Kmer, Tokenizer, reverse_complement

_ROW_MULTIPLE = 16


class View(Protocol):
    """What a row of the classifier holds."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Gives the ids their meaning."""

    @property
    def strands(self) -> int:
        """How many rows a piece of DNA becomes: 2 where each strand is read by itself, else 1."""

    def row_length(self, bases: int) -> int:
        """Tokens of a row that takes a piece of up to `bases` (few shapes: a multiple of 16)."""

    def segments_batch(self, pieces: Sequence[bytes]) -> list[list[list[np.ndarray]]]:
        """Of each piece, for each strand read, the segments: token arrays, dtype[T].

        The segments of a strand are together not longer than the `row_length` of the piece.
        """

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        """The segments of one piece."""


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


@dataclass(frozen=True)
class Frames:
    """The codons of the open stretches: each a segment, in order along the piece.

    Where they do not all fit the row, the longest are taken first. Codons have the ids of the 3-mer
    tokenizer, so a model pre-trained on 3-mers reads them.
    """

    tokenizer: ClassVar[Tokenizer] = Kmer(3)
    name: ClassVar[str] = "frames"
    strands: ClassVar[int] = 1

    def row_length(self, bases: int) -> int:
        return _rounded(bases // 3 + bases // 24)

    def segments_batch(self, pieces: Sequence[bytes]) -> list[list[list[np.ndarray]]]:
        stretches = frames.open_stretches_batch(pieces)
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


def make_view(name: str, tokenizer: Tokenizer) -> View:
    """The view of that name, reading with `tokenizer`; UserError where the two do not fit."""
    if name == Bases.name:
        return Bases(tokenizer)
    if name == Frames.name:
        if tokenizer != Frames.tokenizer:
            raise UserError(
                "the view `frames` reads codons, so it needs a model pre-trained with "
                f"tokenizer.name kmer and tokenizer.k 3, not {tokenizer.spec()}"
            )
        return Frames()
    raise UserError(f"view {name!r} is not one of {Bases.name}, {Frames.name}")


def _rounded(tokens: int) -> int:
    return max(1, -(-tokens // _ROW_MULTIPLE)) * _ROW_MULTIPLE
