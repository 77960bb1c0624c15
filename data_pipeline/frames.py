"""Where are the open reading frames of a contig, and what do they say?

A stretch is a run of codons without a stop codon in one of the six frames, read on from stop to
stop (or to the contig's end) without asking for a start codon, so that a gene cut off by the
contig's end is seen as well as a whole one. The stop codons are TAA, TAG and TGA, those of the
standard code and of the bacterial one (NCBI tables 1 and 11). Where TGA is read as tryptophan
(tables 2 to 5, 9, 10, 21, 25: mitochondria, mycoplasmas, some phages) or TAA and TAG as glutamine
(tables 6 and 15: ciliates, some phages) a gene comes out in pieces.

All work is done on many contigs at once; the functions of one contig are batches of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.six_frames import CODONS, GAP, Bases, Block, blocks, code_table, find_breaks
from data_pipeline.tokenizers import Kmer, N

FIRST_CODON = Kmer.first_kmer  # ids of codons are those of the 3-mers: AAA 6 to TTT 69
FORWARD, BACKWARD = FIRST_CODON + 64, FIRST_CODON + 65  # strand tokens: 70 and 71
VOCAB_SIZE = BACKWARD + 1
MIN_CODONS = 30
MAX_OVERLAP = 0.3
_TO_TOKEN = code_table(range(FIRST_CODON, FIRST_CODON + 64), ambiguous=N, gap=BACKWARD)
_TO_TOKEN = _TO_TOKEN[:GAP] + bytes([FORWARD]) + _TO_TOKEN[GAP + 1 :]
_ZERO = np.zeros(1, np.int64)
_LEADS = {1: bytes([GAP]), -1: bytes([GAP + 1])}  # what becomes a strand token
_TOKEN_LETTERS = (b"", b"NNN", b"A", b"C", b"G", b"T", *map(str.encode, CODONS), b"", b"")


@dataclass(frozen=True)
class Stretches:
    """Open stretches; positions are bases of the contig, 0-based, `stop` exclusive."""

    start: np.ndarray  # int32[S]
    stop: np.ndarray  # int32[S]
    strand: np.ndarray  # int8[S]: +1 or -1
    frame: np.ndarray  # int8[S]: bases before the stretch in its reading direction, modulo 3

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class StretchesBatch:
    """The stretches of B contigs, one contig after the other."""

    flat: Stretches
    bounds: np.ndarray  # int64[B + 1]: contig i has those from bounds[i] up to bounds[i + 1]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, contig: int) -> Stretches:
        return _part(self.flat, self.bounds[contig], self.bounds[contig + 1])


def open_stretches_batch(
    contigs: Sequence[Bases], *, min_codons: int = MIN_CODONS, max_overlap: float = MAX_OVERLAP
) -> StretchesBatch:
    """The open stretches of every contig, in order along it.

    In each contig the stretches of at least `min_codons` codons, in all six frames, are taken
    greedily from the longest down; one is accepted if fewer than `max_overlap` of its bases (or
    none) are covered by those accepted before. A contig without a stretch of that length gives its
    longest one, so only a contig without any open codon gives none. A codon with an ambiguous
    letter counts as open, but BREAKING_RUN of them in a row end a stretch.

    The other strand of a contig gives the same stretches, mirrored: equal lengths are ranked by
    the distance from the contig's end at which reading begins, and then by the strand whose letters
    come first in the alphabet. (The one exception: a contig that is its own reverse complement.)

    Raises:
      ValueError: min_codons below 1, max_overlap outside 0 to 1, or an array that is not uint8[n].
    """
    _check_options(min_codons, max_overlap)
    parts, counts = [], [_ZERO]
    for block in blocks(contigs):
        stretches, per_contig = _accepted(block, min_codons, max_overlap)
        parts.append(stretches)
        counts.append(per_contig)
    bounds = np.concatenate(counts).cumsum()
    if len(parts) == 1:
        return StretchesBatch(parts[0], bounds)
    none = Stretches(*(np.zeros(0, dtype) for dtype in (np.int32, np.int32, np.int8, np.int8)))
    columns = zip(*(vars(part).values() for part in [none, *parts]), strict=True)
    return StretchesBatch(Stretches(*map(np.concatenate, columns)), bounds)


def open_stretches(
    bases: Bases, *, min_codons: int = MIN_CODONS, max_overlap: float = MAX_OVERLAP
) -> Stretches:
    """The open stretches of one contig; see `open_stretches_batch`."""
    return open_stretches_batch([bases], min_codons=min_codons, max_overlap=max_overlap).flat


def codon_streams_batch(
    contigs: Sequence[Bases], stretches: StretchesBatch
) -> tuple[np.ndarray, np.ndarray]:
    """The codon streams of the contigs, one after the other: uint8[T], and bounds int64[B + 1].

    Each stretch is a strand token (70 forward, 71 backward) and its codons as in
    `codon_tokens_batch`; contig i has stream[bounds[i] : bounds[i + 1]], empty without a stretch.
    """
    leads = [_LEADS[strand] for strand in stretches.flat.strand.tolist()]
    parts, first = [], 0
    for _, codes in readings(contigs, stretches):
        pairs = zip(leads[first : first + len(codes)], codes, strict=True)
        parts.append(b"".join([part for pair in pairs for part in pair]).translate(_TO_TOKEN))
        first += len(codes)
    tokens = (stretches.flat.stop - stretches.flat.start) // 3 + 1
    ends = np.concatenate([np.zeros(1, np.int64), tokens.cumsum(dtype=np.int64)])
    return np.frombuffer(b"".join(parts), np.uint8), ends[stretches.bounds]


def codon_stream(bases: Bases, stretches: Stretches) -> np.ndarray:
    """uint8[T]: the codon stream of one contig; see `codon_streams_batch`."""
    return codon_streams_batch([bases], alone(stretches))[0]


def codon_tokens_batch(
    contigs: Sequence[Bases], stretches: StretchesBatch
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stretches read in coding direction: tokens uint8[T], segment_lengths and strands [S].

    Tokens are codons, 6 (AAA) to 69 (TTT) as in the 3-mer tokenizer, or 1 for a codon with an
    ambiguous letter. segment_lengths, int32, says how many each stretch has, strands, int8, which
    way it runs; both are in the order of `stretches.flat`.
    """
    flat = stretches.flat
    stream, _ = codon_streams_batch(contigs, stretches)
    return stream[stream < FORWARD], (flat.stop - flat.start) // 3, flat.strand


def codon_tokens(bases: Bases, stretches: Stretches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stretches of one contig as codons; see `codon_tokens_batch`."""
    return codon_tokens_batch([bases], alone(stretches))


@dataclass(frozen=True)
class Codon:
    """A tokenizer of what the open stretches say: 64 codons (ids 6 to 69) and two strand tokens.

    Id 1 is a codon with an ambiguous letter; ids 2 to 5, single bases elsewhere, do not occur, so
    that a codon has the id it has as a 3-mer. 70 leads a stretch of the forward strand, 71 one of
    the backward strand. What lies between the stretches is left out and overlaps are read twice,
    so `decode` gives the letters of the stretches, not those of the contig.
    """

    min_codons: int = MIN_CODONS
    max_overlap: float = MAX_OVERLAP
    name: ClassVar[str] = "codon"
    covering: ClassVar[bool] = False
    vocab_size: ClassVar[int] = VOCAB_SIZE
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    def __post_init__(self) -> None:
        try:
            _check_options(self.min_codons, self.max_overlap)
        except ValueError as error:
            raise UserError(f"tokenizer codon: {error}") from error

    @property
    def token_bases(self) -> np.ndarray:
        return np.concatenate([Kmer(3).token_bases, np.zeros(2, np.int32)])

    @property
    def token_lengths(self) -> np.ndarray:
        lengths = np.concatenate([Kmer(3).token_lengths, np.zeros(2, np.int32)])
        lengths[N] = 3
        return lengths

    def encode(self, bases: bytes) -> np.ndarray:
        stretches = open_stretches(bases, min_codons=self.min_codons, max_overlap=self.max_overlap)
        return codon_stream(bases, stretches)

    def decode(self, tokens: np.ndarray) -> bytes:
        """The letters of the stretches, each in its reading direction, end to end."""
        return b"".join([_TOKEN_LETTERS[token] for token in tokens.tolist()])

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The stream of the contig's other strand: stretches in reverse order, strands flipped.

        Codons are read in coding direction on either strand and stay as they are. Tokens before
        the first strand token, the rest of a stretch that was cut, stay in front.
        """
        if tokens.ndim > 1:
            return np.stack([self.reverse_complement(own) for own in tokens])
        cut, *stretches = np.split(tokens, np.flatnonzero(tokens >= FORWARD))
        other = np.concatenate([cut, *stretches[::-1]])
        return np.where(other >= FORWARD, FORWARD + BACKWARD - other, other).astype(tokens.dtype)

    def spec(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "min_codons": self.min_codons,
            "max_overlap": self.max_overlap,
        }


def _check_options(min_codons: int, max_overlap: float) -> None:
    if min_codons < 1:
        raise ValueError(f"min_codons is {min_codons}; it must be 1 or more")
    if not 0 <= max_overlap <= 1:
        raise ValueError(f"max_overlap is {max_overlap}; it must lie between 0 and 1")


@dataclass(frozen=True)
class _Candidates:
    """Stretches of a block's contigs that may be accepted, in no order; all int64[S]."""

    contig: np.ndarray  # its place in the block
    laid: np.ndarray  # where in the block its first base is laid, in the order of the contig
    codons: np.ndarray
    backward: np.ndarray  # 1 on the backward strand, else 0
    ahead: np.ndarray  # bases of the contig before it, in its reading direction
    rank: np.ndarray  # the lowest is taken first


def _accepted(block: Block, min_codons: int, max_overlap: float) -> tuple[Stretches, np.ndarray]:
    """The stretches of a block's contigs, in order, and how many each contig has."""
    breaks = np.flatnonzero(find_breaks(block))
    begin = np.concatenate([_ZERO, breaks + 1])
    codons = np.append(breaks, len(block.frames)) - begin
    is_long = codons >= min_codons
    found = _candidates(block, begin[is_long], codons[is_long])
    without = np.bincount(found.contig, minlength=len(block.lengths)) == 0
    if without.any():
        is_short = (codons > 0) & ~is_long
        short = _candidates(block, begin[is_short], codons[is_short])
        found = _with_longest(found, short, without)

    order = found.rank.argsort()
    order = order[
        _greedy(len(block.by_position), found.laid[order], found.codons[order], max_overlap)
    ]
    order = order[found.laid[order].argsort()]
    contig = found.contig[order]
    start = found.laid[order] - block.offsets[contig]
    stretches = Stretches(
        start=start.astype(np.int32),
        stop=(start + 3 * found.codons[order]).astype(np.int32),
        strand=(1 - 2 * found.backward[order]).astype(np.int8),
        frame=(found.ahead[order] % 3).astype(np.int8),
    )
    return stretches, np.bincount(contig, minlength=len(block.lengths))


def _candidates(block: Block, begin: np.ndarray, codons: np.ndarray) -> _Candidates:
    """The stretches that begin at `begin` in `block.frames` and have so many `codons`."""
    backward = begin >= len(block.frames) // 2
    lowest = np.where(backward, len(block.frames) - begin - codons, begin)
    frame = lowest // block.columns
    laid = 3 * (lowest - frame * block.columns) + frame
    contig = block.offsets.searchsorted(laid, side="right") - 1
    start = laid - block.offsets[contig]
    ahead = np.where(backward, block.lengths[contig] - start - 3 * codons, start)
    # Longest first; then the one whose reading begins nearer to its contig's end; then by strand.
    # Lengths and distances are below 2^31, so the three fit one integer.
    against = backward ^ block.backward_first[contig]
    rank = (((1 << 29) - codons) << 32) + (ahead << 1) + against
    return _Candidates(contig, laid, codons, backward.astype(np.int64), ahead, rank)


def _with_longest(found: _Candidates, others: _Candidates, wanted: np.ndarray) -> _Candidates:
    """`found`, and of the others the one of lowest rank in each contig that is `wanted`."""
    order = np.lexsort((others.rank, others.contig))
    contig = others.contig[order]
    order = order[(np.diff(contig, prepend=-1) > 0) & wanted[contig]]
    pairs = zip(vars(found).values(), vars(others).values(), strict=True)
    return _Candidates(*(np.concatenate([have, more[order]]) for have, more in pairs))


def _greedy(length: int, start: np.ndarray, codons: np.ndarray, max_overlap: float) -> list[int]:
    """Places of the intervals in [0, length) that are accepted, each judged by those before it."""
    bases = 3 * codons
    may_overlap = np.maximum(np.ceil(max_overlap * bases) - 1, 0)
    covered = bytearray(length)
    ones = b"\1" * int(bases.max(initial=0))
    kept = []
    intervals = zip(start.tolist(), bases.tolist(), may_overlap.tolist(), strict=True)
    for place, (begin, width, limit) in enumerate(intervals):
        if covered.count(1, begin, begin + width) <= limit:
            covered[begin : begin + width] = ones[:width]
            kept.append(place)
    return kept


def readings(
    contigs: Sequence[Bases], stretches: StretchesBatch
) -> Iterator[tuple[Block, list[bytes]]]:
    """Block by block, the codes of the codons of every stretch, in its reading direction."""
    if len(contigs) != len(stretches):
        raise ValueError(f"{len(contigs)} contigs, but the stretches of {len(stretches)}")
    for block in blocks(contigs):
        bounds = stretches.bounds[block.first : block.first + len(block.lengths) + 1]
        part = _part(stretches.flat, bounds[0], bounds[-1])
        offset = np.repeat(block.offsets, np.diff(bounds))
        codons = (part.stop - part.start) // 3
        column, frame = np.divmod(offset + part.start, 3)
        lowest = frame * block.columns + column
        begin = np.where(part.strand < 0, len(block.frames) - lowest - codons, lowest)
        ends = zip(begin.tolist(), (begin + codons).tolist(), strict=True)
        yield block, [block.frames[begin:end] for begin, end in ends]


def _part(stretches: Stretches, first: int, last: int) -> Stretches:
    return Stretches(**{name: values[first:last] for name, values in vars(stretches).items()})


def alone(stretches: Stretches) -> StretchesBatch:
    """A batch of one contig."""
    return StretchesBatch(stretches, np.array([0, len(stretches)]))
