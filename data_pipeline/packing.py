"""How do sequences of any length fill rows of one length, with nothing lost and little padding?

Long sequences are cut into full rows as they come. What is left over, the tails and the sequences
shorter than a row, waits in a pool and is fitted together when the input ends or the pool is full.
What fits no hole whole is cut to fill it: first tails, cut off already, but not into segments
shorter than a sixteenth of a row; then sequences that would fit into a row of their own, not into
segments shorter than an eighth. So no row is left emptier than that for want of a fitting piece.
"""

import sys
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

POOL_TOKENS = 1 << 26
TAIL_CUT = 16  # a tail is cut only into segments of at least row_length / TAIL_CUT
WHOLE_CUT = 8  # and a sequence shorter than a row only into segments of row_length / WHOLE_CUT


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive tokens of one record; one that starts where the last ended goes on with it."""

    record_id: str
    start: int  # offset in the record, in bases (of a codon stream, in tokens)
    tokens: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """At most `row_length` tokens: S segments, one after the other, without padding."""

    tokens: np.ndarray  # dtype[<= L]
    segment_lengths: np.ndarray  # int32[S], tokens; their sum is len(tokens)
    record_ids: list[str]  # S
    starts: np.ndarray  # int64[S], offset of each segment in its record, as of a piece


@dataclass(frozen=True, slots=True, eq=False)
class FullRows:
    """R full rows of one record, one segment each."""

    record_id: str
    tokens: np.ndarray  # dtype[R, L]
    starts: np.ndarray  # int64[R], as of a piece


def pack(
    pieces: Iterable[Piece],
    row_length: int,
    token_lengths: np.ndarray,
    *,
    pool_tokens: int = POOL_TOKENS,
) -> Iterator[FullRows | Row]:
    """Rows of at most `row_length` tokens, the same ones for the same pieces.

    Full rows of a long record come many at once.

    `token_lengths` (int32[V]) says by how much each token moves `start`: by the bases it covers.
    Memory: one piece and a pool of about `pool_tokens` tokens at most. However a record is divided
    into pieces, its rows are the same, as long as the pieces come in order.

    Raises ValueError for a row length below 1.
    """
    if row_length < 1:
        raise ValueError(f"row_length is {row_length}, must be at least 1")
    pool: list[Piece] = []
    pooled = 0
    for segment in _segments(pieces, row_length, token_lengths):
        if isinstance(segment, FullRows):
            yield segment
            continue
        pool.append(segment)
        pooled += len(segment.tokens)
        if pooled >= pool_tokens:
            yield from _pack_pool(pool, row_length, token_lengths)
            pool, pooled = [], 0
    yield from _pack_pool(pool, row_length, token_lengths)


def _segments(
    pieces: Iterable[Piece], row_length: int, token_lengths: np.ndarray
) -> Iterator[FullRows | Piece]:
    """The pieces joined and cut again: for each record full rows, then what is left."""
    token_lengths = token_lengths.astype(np.min_scalar_type(token_lengths.max()))  # faster
    held: Piece | None = None  # less than a row, may go on in the next piece
    held_end = 0
    for piece in pieces:
        if not len(piece.tokens):
            continue
        if held is not None:
            if held.record_id == piece.record_id and held_end == piece.start:
                joined = np.concatenate([held.tokens, piece.tokens])
                piece = Piece(piece.record_id, held.start, joined)
            else:
                yield held
        n_rows = len(piece.tokens) // row_length
        start = piece.start
        if n_rows:
            rows = piece.tokens[: n_rows * row_length].reshape(n_rows, row_length)
            ends = start + token_lengths[rows].sum(axis=1, dtype=np.int64).cumsum()
            yield FullRows(piece.record_id, rows, np.concatenate([[start], ends[:-1]]))
            start = int(ends[-1])
        rest = piece.tokens[n_rows * row_length :].copy()  # a view would keep the whole piece alive
        held = Piece(piece.record_id, start, rest)
        held_end = start + int(token_lengths[rest].sum())
        if not len(rest):
            # The record may end here; an empty piece must not be yielded, and the next one may
            # still follow on, which it does all by itself.
            held = None
    if held is not None:
        yield held


def _pack_pool(pool: list[Piece], row_length: int, token_lengths: np.ndarray) -> Iterator[Row]:
    """Rows of pieces shorter than a row: one row at a time, always the longest piece that fits.

    Where none fits, the longest is cut to fill the hole, and its rest goes back to the pool.
    """
    pieces = list(pool)
    # Ascending by (length, place in the pool); the place makes the order total and fixed.
    tails = sorted((len(p.tokens), i) for i, p in enumerate(pool) if p.start > 0)
    whole = sorted((len(p.tokens), i) for i, p in enumerate(pool) if p.start == 0)
    cuttable = ((tails, max(row_length // TAIL_CUT, 1)), (whole, max(row_length // WHOLE_CUT, 1)))
    while tails or whole:
        members: list[Piece] = []
        room = row_length
        while found := _longest_that_fits(tails, whole, room):
            length, chosen = found
            members.append(pieces[chosen])
            room -= length
        for kind, least in cuttable:
            if room >= least and kind and kind[-1][0] >= room + least:
                length, chosen = kind.pop()
                head, pieces[chosen] = _cut(pieces[chosen], room, token_lengths)
                members.append(head)
                insort(tails, (length - room, chosen))
                break
        yield _row(members)


def _longest_that_fits(
    tails: list[tuple[int, int]], whole: list[tuple[int, int]], room: int
) -> tuple[int, int] | None:
    """Takes the longest piece of at most `room` tokens out of the two sorted lists."""
    end = (room, sys.maxsize)
    at_tail, at_whole = bisect_right(tails, end) - 1, bisect_right(whole, end) - 1
    if at_tail < 0 and at_whole < 0:
        return None
    if at_whole < 0 or (at_tail >= 0 and tails[at_tail][0] > whole[at_whole][0]):
        return tails.pop(at_tail)
    return whole.pop(at_whole)


def _cut(piece: Piece, at: int, token_lengths: np.ndarray) -> tuple[Piece, Piece]:
    middle = piece.start + int(token_lengths[piece.tokens[:at]].sum())
    return (
        Piece(piece.record_id, piece.start, piece.tokens[:at]),
        Piece(piece.record_id, middle, piece.tokens[at:]),
    )


def _row(segments: Sequence[Piece]) -> Row:
    return Row(
        tokens=np.concatenate([s.tokens for s in segments])
        if len(segments) > 1
        else segments[0].tokens,
        segment_lengths=np.array([len(s.tokens) for s in segments], np.int32),
        record_ids=[s.record_id for s in segments],
        starts=np.array([s.start for s in segments], np.int64),
    )
