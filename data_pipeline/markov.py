"""How many bits per base does an order-k Markov model need? What a language model must beat.

Order k predicts a base from the k before it. What is counted, and what is scored, are the bases
whose `max_order` predecessors are all in the same segment and unambiguous: the same bases for every
order, so that the orders compare. (The first letters of a segment are thus left to nobody;
`Score.scored` says how many bases remain.)

Smoothing: each order leans on the one below it,

    p_k(x | c) = (n(c x) + a_k p_{k-1}(x | c without its first letter)) / (n(c) + a_k),

the hierarchical Dirichlet language model (MacKay and Peto 1995), down to p = 1/4 below order 0. The
strength a_k is one of 16 powers of four, picked on the very segments that are scored, and the 4
bits that telling which costs are added to the code length of every order. So an order that the
counts cannot carry gets a large a_k and costs nothing, instead of blowing up; and if the scored
bases are copies of the counted ones, a small a_k shows it as a drop at high orders.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline import kmers

MAX_ORDER = 12
STRENGTHS = 4.0 ** np.arange(-2, 14)
SMOOTHING = "hierarchical Dirichlet, each strength picked when scoring, at 4 bits"
NEAR_COPY_DROP = 0.02  # bits per base at high orders that natural strangers do not save
_BITS_PER_CHOICE = np.log2(len(STRENGTHS))
_BATCH = 1 << 22  # letters counted at once
_DENSE = 1 << 18  # words of one length, up to which all of them are scored
_SAMPLE = 1 << 18  # distinct longer words on which the strengths are picked
_BLOCK = 1 << 20  # words scored at once


@dataclass(frozen=True)
class Score:
    """Bits per base of every order, and what they were measured on."""

    bits: Mapping[int, float]  # order -> bits per base
    strengths: Mapping[int, float]  # order -> a_k
    scored: int  # bases

    def summary(self) -> dict:
        """JSON-able."""
        return {
            "bits_per_base": {str(order): bits for order, bits in self.bits.items()},
            "strengths": {str(order): a for order, a in self.strengths.items()},
            "scored_bases": self.scored,
        }


@dataclass(frozen=True)
class MarkovCounts:
    """Counts of the words of k = max(orders) + 1 letters: `words`, int32[4^k], updated in place.

    268 MB at order 12; scoring holds a second such array, and 290 MB for its tables.
    """

    orders: tuple[int, ...]
    both_strands: bool
    words: np.ndarray

    def add(self, segments: Iterable[np.ndarray]) -> None:
        """Counts more segments, each uint8[n] of 0..3, 255 for ambiguous (`kmers.base_codes`)."""
        k = max(self.orders) + 1
        for batch in _batches(segments, k):
            for strand in kmers.kmers(batch, k)[: 2 if self.both_strands else 1]:
                # Of whole-size indices and numbers of its own type this is one plain loop.
                np.add.at(self.words, strand.astype(np.intp), np.int32(1))

    @property
    def counted(self) -> int:
        """Bases counted, each strand by itself."""
        return int(self.words.sum(dtype=np.int64))

    def bits_per_base(self, segments: Iterable[np.ndarray]) -> dict[int, float]:
        """By order, bits per base of the segments, as given (one strand); nan if none is scored."""
        return dict(self.score(segments).bits)

    def score(self, segments: Iterable[np.ndarray]) -> Score:
        """As `bits_per_base`, with the strengths picked and the number of bases scored."""
        target = fit(segments, self.orders)
        scored = target.counted
        if scored == 0:
            return Score(dict.fromkeys(self.orders, float("nan")), {}, 0)
        bits, strengths = code_lengths(self.words, target.words, max(self.orders))
        return Score(
            {order: float(bits[order] / scored) for order in self.orders},
            {order: float(a) for order, a in enumerate(strengths)},
            scored,
        )

    def summary(self) -> dict:
        """JSON-able: what was counted, and how the scores are smoothed."""
        return {
            "orders": list(self.orders),
            "both_strands": self.both_strands,
            "counted_bases": self.counted,
            "smoothing": SMOOTHING,
        }


def fit(
    segments: Iterable[np.ndarray],
    orders: Sequence[int] = range(MAX_ORDER + 1),
    both_strands: bool = False,
) -> MarkovCounts:
    """Counts of all segments; `add` more to them at will. Memory does not grow with the segments.

    `both_strands` counts the reverse complement of every word as well. Orders are 0..12.
    """
    orders = tuple(sorted(set(orders)))
    if not orders or orders[0] < 0 or orders[-1] > MAX_ORDER:
        raise ValueError(f"orders must be in 0..{MAX_ORDER}, not {orders}")
    counts = MarkovCounts(orders, both_strands, np.zeros(4 ** (orders[-1] + 1), np.int32))
    counts.add(segments)
    return counts


def code_lengths(
    counted: np.ndarray, scored: np.ndarray, max_order: int, symbols: int = 4, choices: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """By order from 0 to `max_order`: bits that all scored words take, and the strengths picked.

    The arrays, int32[symbols^(max_order + 1)], count words of max_order + 1 letters of `symbols`.
    A last letter is one of `choices`, all as likely below order 0. Results are float64.
    """
    tables = _tables(counted, max_order, symbols)
    goals = _of_all_lengths(scored, max_order, symbols)
    bits, strengths = np.zeros(len(tables)), np.zeros(len(tables))
    below = np.full(1, 1 / choices)  # of every word, p of its last letter
    dense = 0
    while dense < len(tables) and len(goals[dense]) <= _DENSE:
        tried = [tables[dense].all_smoothed(below, a) for a in STRENGTHS]
        lengths = [-(goals[dense] * np.log2(p)).sum() for p in tried]
        pick = int(np.argmin(lengths))
        bits[dense], strengths[dense], below = lengths[pick], STRENGTHS[pick], tried[pick]
        dense += 1
    if dense < len(tables):  # too many words, most of which do not occur
        strengths[dense:] = _strengths(tables[dense:], *_sample(scored), below)
        for at in range(0, len(scored), _BLOCK):
            block = scored[at : at + _BLOCK]
            words = np.flatnonzero(block) + at
            times, p = block[words - at], below[words % len(below)]
            for order in range(dense, len(tables)):
                p = tables[order].smoothed(words, p, strengths[order])
                bits[order] -= (times * np.log2(p)).sum()  # BLAS's threads only wait
    return bits + _BITS_PER_CHOICE * np.arange(1, len(bits) + 1), strengths


def drop_at_high_orders(bits: Mapping[int, float], below: int = 11) -> float:
    """Bits per base that the orders from `below` on save over the best lower one, or 0.

    Natural sequences gain next to nothing there, as contexts hardly recur: a drop above
    NEAR_COPY_DROP says that the scored sequences hold near-copies of the counted ones.
    """
    low = [b for order, b in bits.items() if order < below]
    high = [b for order, b in bits.items() if order >= below]
    return max(min(low) - min(high), 0.0) if low and high else 0.0


def _batches(segments: Iterable[np.ndarray], k: int) -> Iterator[np.ndarray]:
    """Batches of about one size: segments joined by an ambiguous letter, which no word crosses.

    Segments without a word of k letters are left out; long ones are cut, no word lost or repeated.
    """
    separator = np.full(1, kmers.AMBIGUOUS, np.uint8)
    held: list[np.ndarray] = []
    size = 0
    for segment in segments:
        for piece in kmers.pieces(segment, k, _BATCH):
            held += [piece, separator]
            size += len(piece) + 1
            if size >= _BATCH:
                yield np.concatenate(held)
                held, size = [], 0
    if held:
        yield np.concatenate(held)


@dataclass(frozen=True)
class _Table:
    """Counts of the words of one length, and of the contexts that are all but their last letter."""

    words: np.ndarray  # [symbols^(order + 1)]
    contexts: np.ndarray  # [symbols^order]

    def smoothed(self, words: np.ndarray, below: np.ndarray, strength: float) -> np.ndarray:
        """float64: p_k of each word's last letter after the letters before it, given p_{k-1}.

        The words may be longer: their ends count.
        """
        index = words % len(self.words)
        context = index // (len(self.words) // len(self.contexts))
        return (self.words[index] + strength * below) / (self.contexts[context] + strength)

    def all_smoothed(self, below: np.ndarray, strength: float) -> np.ndarray:
        """The same for all words, given p_{k-1} for all words one letter shorter."""
        symbols = len(self.words) // len(self.contexts)
        over = (self.words.reshape(-1, len(below)) + strength * below).reshape(-1, symbols)
        return (over / (self.contexts + strength)[:, None]).ravel()


def _tables(words: np.ndarray, order: int, symbols: int) -> list[_Table]:
    """Counts of the words of 1, 2 ... order + 1 letters that the counted words end in."""
    return [
        # einsum adds a few neighbours five times as fast as sum does
        _Table(t, np.einsum("ij->i", t.reshape(-1, symbols)))
        for t in _of_all_lengths(words, order, symbols)
    ]


def _of_all_lengths(words: np.ndarray, order: int, symbols: int) -> list[np.ndarray]:
    """Counts of the 1, 2 ... order + 1 letters that the words of order + 1 letters end in."""
    counts = [words]
    for _ in range(order):
        counts.append(counts[-1].reshape(symbols, -1).sum(0, dtype=np.int64))
    return counts[::-1]


def _sample(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About _SAMPLE words that occur, evenly spread, and how often each does."""
    # An odd step, since an even one would meet only some of the last letters.
    step = -(-int(np.count_nonzero(words)) // _SAMPLE) | 1
    found = [
        np.flatnonzero(words[at : at + _BLOCK])[::step] + at for at in range(0, len(words), _BLOCK)
    ]
    sample = np.concatenate(found)
    return sample, words[sample]


def _strengths(
    tables: list[_Table], words: np.ndarray, counts: np.ndarray, below: np.ndarray
) -> np.ndarray:
    """float64 by table: the strength that gives the sample the shortest code; p before, `below`."""
    best = []
    p = below[words % len(below)]
    for table in tables:
        tried = [table.smoothed(words, p, a) for a in STRENGTHS]
        pick = int(np.argmax([(counts * np.log2(t)).sum() for t in tried]))
        best.append(STRENGTHS[pick])
        p = tried[pick]
    return np.array(best)
