"""What does the classifier read of a piece of DNA? Its bases as tokens, or its open reading frames.

A view turns bases into segments of tokens that go side by side into one row. `bases` reads the piece as it
stands, so a detector reads both strands and averages. `frames` reads the codons of the open stretches of
all six frames, in coding direction: the same for both strands, so one pass covers them.
"""

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

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        """For each strand read, the segments of tokens; together not longer than `row_length`."""


@dataclass(frozen=True)
class Bases:
    """The piece as it stands, and its reverse complement."""

    tokenizer: Tokenizer
    name: ClassVar[str] = "bases"
    strands: ClassVar[int] = 2

    def row_length(self, bases: int) -> int:
        per_token = int(self.tokenizer.token_lengths.max())
        return _rounded(bases // per_token + per_token - 1)

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        limit = self.row_length(len(bases))
        strands = (bases, reverse_complement(bases))
        # Ambiguous letters cost a token each; what does not fit the row is left out.
        return [[self.tokenizer.encode(strand)[:limit]] for strand in strands]


@dataclass(frozen=True)
class Frames:
    """The codons of the open stretches, each stretch a segment, longest first until the row is full.

    Codons have the ids of the 3-mer tokenizer, so a model pre-trained on 3-mers reads them.
    """

    tokenizer: ClassVar[Tokenizer] = Kmer(3)
    name: ClassVar[str] = "frames"
    strands: ClassVar[int] = 1

    def row_length(self, bases: int) -> int:
        return _rounded(bases // 3 + bases // 24)

    def segments(self, bases: bytes) -> list[list[np.ndarray]]:
        stretches = frames.open_stretches(bases)
        tokens, lengths, _ = frames.codon_tokens(bases, stretches)
        pieces = np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []
        room, kept = self.row_length(len(bases)), set()
        for index in np.argsort(-lengths, kind="stable"):
            if lengths[index] <= room:
                room -= int(lengths[index])
                kept.add(int(index))
        return [[piece for index, piece in enumerate(pieces) if index in kept]]


def make_view(name: str, tokenizer: Tokenizer) -> View:
    """The view of that name, reading with `tokenizer`; UserError where the two do not fit."""
    if name == Bases.name:
        return Bases(tokenizer)
    if name == Frames.name:
        if tokenizer != Frames.tokenizer:
            raise UserError(
                "the view `frames` reads codons, so it needs a model pre-trained with tokenizer.name kmer "
                f"and tokenizer.k 3, not {tokenizer.spec()}"
            )
        return Frames()
    raise UserError(f"view {name!r} is not one of {Bases.name}, {Frames.name}")


def _rounded(tokens: int) -> int:
    return max(1, -(-tokens // _ROW_MULTIPLE)) * _ROW_MULTIPLE
