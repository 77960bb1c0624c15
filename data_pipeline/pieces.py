"""Which tokens of a record go into the rows: in which phase, how often, and with which soft mask?

Every record is tokenised from its first letter. Training records may be tokenised again from the
letters behind it (`phases`): a k-mer tokenizer then meets them in other phases, which a loader
cannot make of stored k-mers. A circular training record may go on with its own first letters, until
its last row is full (`wrap_circular`), so that the join is seen. Validation records come once and
as they are: its bits per base count every base once.

Records are read in blocks. Most tokenizers go on across a block's border as if it were none. The
codon tokenizer reads each block as a contig by itself: a stretch over the border becomes two, and
of overlapping stretches near it others may be taken. That is one place in 107,520 bases; so a
record of any length costs the memory of a block.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.packing import Piece
from data_pipeline.records import IdSet
from data_pipeline.survey import Stretch, chosen
from data_pipeline.tokenizers import Tokenizer

# Divisible by every k of the k-mer tokenizers, so that blocks keep the phase of the whole record.
BLOCK_BASES = 840 * 128
_LOWER_CASE = 0x20  # the bit in which the letter a differs from A


@dataclass(frozen=True)
class SplitPlan:
    """What the second pass writes into one split."""

    files: tuple[str, ...]
    records: tuple[int, ...]  # of each file, how many go in
    letters: tuple[tuple[int, ...], ...]  # of each phase and file, how many are tokenised
    ids: IdSet  # of those records; the others of the files are left out
    shards: int
    wrap_circular: bool = False

    @property
    def bases(self) -> int:
        """Of the records, each once."""
        return sum(self.letters[0])


def pieces(
    plan: SplitPlan,
    tokenizer: Tokenizer,
    row_length: int,
    counts: Counter[str],
    *,
    masks: bool = False,
    shards: range | None = None,
) -> Iterator[tuple[int, Piece]]:
    """The tokens of some consecutive `shards` of a split (all of them, if none are named).

    In blocks, each with the number of the shard it goes to; which tokens a shard has does not
    depend on what else is asked for. With `masks` they are `marked` with the soft mask. A piece
    starts at its offset in the record, in bases; of a tokenizer that is not `covering`, in tokens.
    `counts` grows by "letters_in", those of the records, "repeated", letters that come a second
    time, and "tokens_in".
    """
    shards = range(plan.shards) if shards is None else shards
    before, filled, at = -1, 0, 0
    head = b""
    for phase, file, shard, stretch in _numbered(plan, shards.stop, shards.start):
        first = stretch.start == phase
        if first:
            at = 0  # tokens of this record so far
            head = stretch.bases[: row_length * int(tokenizer.token_lengths.max())]
        if shard < shards.start:
            continue
        if not (first or tokenizer.covering) and before < 0:
            at = _tokens_before(file, stretch, tokenizer)
        if first or shard != before:  # a shard packs rows of its own
            filled = 0
        before = shard
        bases = stretch.bases
        tokens = tokenizer.encode(bases)
        if plan.wrap_circular and stretch.circular and stretch.last:
            bases, tokens = _wrapped(stretch, head, tokenizer, -filled % row_length, row_length)
        own = len(stretch.bases) if phase == 0 else 0
        counts.update(letters_in=own, repeated=len(bases) - own, tokens_in=len(tokens))
        start = stretch.start if tokenizer.covering else at
        filled += len(tokens)
        at += len(tokens)
        if masks:
            tokens = marked(tokens, bases, tokenizer)
        yield shard, Piece(stretch.record_id, start, tokens)


def _numbered(plan: SplitPlan, stop: int, start: int) -> Iterator[tuple[int, str, int, Stretch]]:
    """Phase, file, shard and letters, in order, up to shard `stop`; whole files before `start` are
    not opened."""
    total = sum(map(sum, plan.letters))
    position = 0
    for phase, of_files in enumerate(plan.letters):
        for file, records, letters in zip(plan.files, plan.records, of_files, strict=True):
            after = position + letters
            if letters and (after - 1) * plan.shards // total >= start:
                for stretch in chosen((file,), plan.ids, BLOCK_BASES, skip=phase, records=records):
                    shard = position * plan.shards // total
                    if shard >= stop:
                        return
                    yield phase, file, shard, stretch
                    position += len(stretch.bases)
            position = after


def _tokens_before(file: str, stretch: Stretch, tokenizer: Tokenizer) -> int:
    """Tokens of a record before some letters of it."""
    return sum(
        len(tokenizer.encode(other.bases))
        for other in chosen((file,), {stretch.record_id}, BLOCK_BASES)
        if other.start < stretch.start
    )


def _wrapped(
    stretch: Stretch, head: bytes, tokenizer: Tokenizer, room: int, row_length: int
) -> tuple[bytes, np.ndarray]:
    """The letters and tokens of the stretch and of as much of `head` as fills its last row.

    `room` is what is left of the row that the stretch begins in. The tokens run over the join.
    """
    tokens = tokenizer.encode(stretch.bases + head)
    ends = np.cumsum(tokenizer.token_lengths[tokens])
    own = int(np.searchsorted(ends, len(stretch.bases))) + 1  # tokens that hold the stretch
    tokens = tokens[: own + (room - own) % row_length]
    return (stretch.bases + head)[: ends[len(tokens) - 1]], tokens


def marked(tokens: np.ndarray, bases: bytes, tokenizer: Tokenizer) -> np.ndarray:
    """int32[T]: token + V x the number of its letters that are lower case in `bases`.

    So the mask goes through packing as part of the token.
    """
    ends = np.cumsum(tokenizer.token_lengths[tokens])
    lower = np.cumsum(np.frombuffer(bases, np.uint8) & _LOWER_CASE > 0, dtype=np.int32)
    masked = np.diff(lower[ends - 1], prepend=0)
    return (tokens + tokenizer.vocab_size * masked).astype(np.int32)


def steps(tokenizer: Tokenizer, masks: bool) -> np.ndarray:
    """int32[V], of `marked` tokens int32[V (k + 1)]: by how much a token moves `Piece.start`.

    By its letters (k those of the longest), or by 1 if the tokenizer is not `covering`.
    """
    if not tokenizer.covering:
        return np.ones(tokenizer.vocab_size, np.int32)
    return np.tile(tokenizer.token_lengths, int(tokenizer.token_lengths.max()) + 1 if masks else 1)


def unmarked(tokens: np.ndarray, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, dtype, and how many letters of each are soft-masked, uint8, of any shape."""
    masked, plain = np.divmod(tokens, tokenizer.vocab_size)
    return plain.astype(tokenizer.dtype), masked.astype(np.uint8)
