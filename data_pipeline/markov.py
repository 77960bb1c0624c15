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

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline import kmers, word_counts
from data_pipeline.word_counts import WordCounts

MAX_ORDER = 12
STRENGTHS = 4.0 ** np.arange(-2, 14)
SMOOTHING = "hierarchical Dirichlet, each strength picked when scoring, at 4 bits"
NEAR_COPY_DROP = 0.02  # bits per base at high orders that natural strangers do not save
_BITS_PER_CHOICE = np.log2(len(STRENGTHS))
_BATCH = 1 << 22  # letters counted at once
_DENSE = 1 << 18  # words of one length, up to which all of them are scored
_SAMPLE = 1 << 18  # distinct words on which the strengths of high orders are picked


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
    """Counts of the words of k = max(orders) + 1 letters.

    Where they are many, 268 MB at order 12; scoring takes 210 MB beside them.
    """

    orders: tuple[int, ...]
    both_strands: bool
    words: WordCounts

    @property
    def counted(self) -> int:
        """Bases counted, each strand by itself."""
        return self.words.total

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
    """Counts of all segments, each uint8[n] of 0..3, above that ambiguous (`kmers.base_codes`).

    `both_strands` counts the reverse complement of every word as well. Orders are 0..12. Memory
    does not grow with the segments.
    """
    orders = tuple(sorted(set(orders)))
    if not orders or orders[0] < 0 or orders[-1] > MAX_ORDER:
        raise ValueError(f"orders must be in 0..{MAX_ORDER}, not {orders}")
    k = orders[-1] + 1
    strands = (kmers.kmers(batch, k)[: 1 + both_strands] for batch in _batches(segments, k))
    words = word_counts.count(itertools.chain.from_iterable(strands), 4**k)
    return MarkovCounts(orders, both_strands, words)


def code_lengths(
    counted: WordCounts, scored: WordCounts, max_order: int, symbols: int = 4, choices: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """By order from 0 to `max_order`: bits that all scored words take, and the strengths picked.

    Both count words of max_order + 1 letters of `symbols`. A last letter is one of `choices`, all
    as likely below order 0. Results are float64.
    """
    sizes = [symbols ** (order + 1) for order in range(max_order + 1)]
    counts = [_Table(ends, symbols) for ends in _of_all_lengths(counted, sizes)]
    dense = sum(size <= _DENSE for size in sizes)
    goals = _of_all_lengths(scored.ends(sizes[dense - 1]), sizes[:dense])
    bits, strengths = np.zeros(len(sizes)), np.zeros(len(sizes))
    below = np.full(1, 1 / choices)  # of every word, p of its last letter
    for order, goal in enumerate(goals):
        words = np.arange(sizes[order])
        strengths[order], bits[order], below = _picked(
            counts[order].asked(words), goal.of(words), below[words % len(below)]
        )
    if dense < len(sizes):  # too many words, most of which do not occur
        words, times = _sample(scored)
        p = below[words % len(below)]
        for order in range(dense, len(sizes)):
            strengths[order], _, p = _picked(counts[order].asked(words), times, p)
        for words, times in scored.occurring():
            p = below[words % len(below)]
            for order in range(dense, len(sizes)):
                p = _smoothed(counts[order].asked(words), p, strengths[order])
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
    """Counts of the words of one length, which are a context and a letter of `symbols`."""

    words: WordCounts
    symbols: int

    def asked(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often the words, or the ends of longer words, occur, and how often their contexts."""
        words = words % self.words.size
        return self.words.of(words), self.words.of_starts(words // self.symbols, self.symbols)


def _smoothed(
    asked: tuple[np.ndarray, np.ndarray], below: np.ndarray, strength: float
) -> np.ndarray:
    """float64: p_k of each word's last letter after the letters before it, given p_{k-1}."""
    words, contexts = asked
    return (words + strength * below) / (contexts + strength)


def _picked(
    asked: tuple[np.ndarray, np.ndarray], goal: np.ndarray, below: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """The strength that gives words, each of them so often, the shortest code; its bits and p_k."""
    tried = [_smoothed(asked, below, a) for a in STRENGTHS]
    lengths = [-(goal * np.log2(p)).sum() for p in tried]
    pick = int(np.argmin(lengths))
    return STRENGTHS[pick], lengths[pick], tried[pick]


def _of_all_lengths(words: WordCounts, sizes: Sequence[int]) -> list[WordCounts]:
    """Counts of the 1, 2 ... letters that the words end in: those below each of the sizes."""
    counts = [words]
    for size in reversed(sizes[:-1]):
        counts.append(counts[-1].ends(size))
    return counts[::-1]


def _sample(counts: WordCounts) -> tuple[np.ndarray, np.ndarray]:
    """About _SAMPLE words that occur, evenly spread, and how often each does."""
    # An odd step, since an even one would meet only some of the last letters.
    step = -(-counts.distinct // _SAMPLE) | 1
    found = [(words[::step], times[::step]) for words, times in counts.occurring()]
    words, times = zip(*found, strict=True)
    return np.concatenate(words), np.concatenate(times)
