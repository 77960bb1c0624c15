"""How are the codons of many contigs laid out, in all six frames at once?

Contigs are laid end to end with gaps between them, a codon is one byte, and a frame is a run of
bytes; so whatever is asked of every codon is one `bytes.translate`, and a reading, on either
strand, is one slice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from data_pipeline.tokenizers import A, N, Nucleotide

Bases: TypeAlias = bytes | np.ndarray  # ASCII letters; an array is uint8[n]

STOP_CODONS = ("TAA", "TAG", "TGA")
CODONS = tuple(a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT")
# A miscalled base or two cost one or two codons and leave the frame as it was. Thirteen unknown
# letters or more are the gaps of scaffolds and masked repeats: their length is often a guess, so
# the frame behind them is not the frame before them.
BREAKING_RUN = 5  # this many ambiguous codons in a row end a stretch

# The code of a codon: its place in CODONS, or flagged as holding an ambiguous letter, or as
# reaching into the gap behind a contig (which rules whatever else it holds).
AMBIGUOUS, GAP = 64, 128
_GAPS = (bytes(3), bytes(2), bytes(1))  # by length mod 3: every contig starts at a multiple of 3
_BLOCK_BASES = 1 << 17  # laid out at a time, so that the arrays stay near a processor's cache


def _letter_table(weight: int) -> bytes:
    """What a letter adds to the code of a codon in which it counts `weight`; for translate."""
    ids = Nucleotide().encode(bytes(range(256))).astype(int)
    codes = np.where(ids == N, AMBIGUOUS, (ids - A) * weight)
    codes[0] = GAP
    return codes.astype(np.uint8).tobytes()


def code_table(of_codon: Sequence[int], ambiguous: int, gap: int) -> bytes:
    """256 entries, one for each code of a codon; for `bytes.translate`."""
    return bytes([*of_codon, *[ambiguous] * (GAP - AMBIGUOUS), *[gap] * (256 - GAP)])


_FIRST, _SECOND, _THIRD = (_letter_table(weight) for weight in (16, 4, 1))
_COMPLEMENT = bytes.maketrans(bytes(range(4)), bytes(range(3, -1, -1)))  # of single letters
REVERSE_COMPLEMENT = code_table(
    [16 * (3 - c % 4) + 4 * (3 - c // 4 % 4) + 3 - c // 16 for c in range(64)], AMBIGUOUS, GAP
)
_IS_BREAK = code_table([codon in STOP_CODONS for codon in CODONS], ambiguous=0, gap=1)


@dataclass(frozen=True)
class Block:
    """Some contigs laid end to end, with gaps, and the codons of all six frames.

    There are Q columns of three bases. `frames` has the codes of 6 Q codons: those that begin at
    the first base of each column, at the second and at the third, and then all of them from the
    end to the beginning, reverse complemented: so every stretch, on either strand, is a slice, in
    its reading direction. A codon that reaches into a gap stands at the end of each contig in each
    frame.
    """

    first: int  # the first contig's place in the batch
    lengths: np.ndarray  # int64[B]: bases of each contig
    offsets: np.ndarray  # int64[B]: where it is laid, a multiple of three
    backward_first: np.ndarray  # bool[B]: the backward strand comes first in the alphabet
    by_position: np.ndarray  # uint8[3 Q]: the code of the codon that begins at each base
    frames: bytes  # [6 Q]

    @property
    def columns(self) -> int:
        return len(self.by_position) // 3


def blocks(contigs: Sequence[Bases]) -> Iterator[Block]:
    """The contigs in blocks of about _BLOCK_BASES bases; a contig is never divided."""
    first, total = 0, 0
    pieces: list[bytes] = []
    lengths: list[int] = []
    for contig in contigs:
        if isinstance(contig, np.ndarray):
            if contig.dtype != np.uint8 or contig.ndim != 1:
                raise ValueError(f"bases are uint8[n], not {contig.dtype}{list(contig.shape)}")
            contig = contig.tobytes()
        pieces += (contig, _GAPS[len(contig) % 3])
        lengths.append(len(contig))
        total += len(contig)
        if total >= _BLOCK_BASES:
            yield _block(first, b"".join(pieces), np.array(lengths))
            first, pieces, lengths, total = first + len(lengths), [], [], 0
    if lengths:
        yield _block(first, b"".join(pieces), np.array(lengths))


def _block(first: int, letters: bytes, lengths: np.ndarray) -> Block:
    padded = letters + _GAPS[0]
    one, two, three = (
        np.frombuffer(padded.translate(table), np.uint8) for table in (_FIRST, _SECOND, _THIRD)
    )
    by_position = one[:-3] | two[1:-2] | three[2:-1]
    forward = by_position.reshape(-1, 3).T.tobytes()
    laid = lengths + 3 - lengths % 3
    offsets = laid.cumsum() - laid
    codes = letters.translate(_THIRD)
    other_strand = codes.translate(_COMPLEMENT)[::-1]
    backward_first = [
        other_strand[len(codes) - at - length : len(codes) - at] < codes[at : at + length]
        for at, length in zip(offsets.tolist(), lengths.tolist(), strict=True)
    ]
    return Block(
        first=first,
        lengths=lengths,
        offsets=offsets,
        backward_first=np.array(backward_first),
        by_position=by_position,
        frames=forward + forward.translate(REVERSE_COMPLEMENT)[::-1],
    )


def find_breaks(block: Block) -> np.ndarray:
    """bool[6 Q]: codons that end a stretch: stops, those in a gap, and long ambiguous runs."""
    breaks = np.frombuffer(bytearray(block.frames.translate(_IS_BREAK)), bool)
    codes = np.frombuffer(block.frames, np.uint8)
    ambiguous = np.flatnonzero((codes >= AMBIGUOUS) & (codes < GAP))
    if len(ambiguous):
        run = np.concatenate([[0], (np.diff(ambiguous) > 1).cumsum()])
        breaks[ambiguous[np.bincount(run)[run] >= BREAKING_RUN]] = True
    return breaks
