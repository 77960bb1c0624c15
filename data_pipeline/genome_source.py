"""Which process are simulated genomes drawn from, and how are they drawn?

A source is a stationary hidden Markov process with the build of a small genome: gaps between genes,
genes on both strands, codons. A gap is a stretch, of geometric length, of a second-order Markov
chain. A gene is ATG, a geometric number of codons, and a stop codon; the codons are a second-order
Markov chain whose probabilities depend on the position in the codon and that makes no stop codon.
On the other strand lies the reverse complement of such a gene. The next gene lies on the strand of
the last with a given probability. The gap's chain is strand-symmetric, so the whole source is: a
sequence and its reverse complement have the same probability, and it does not matter which strand
is read.

What is hidden is only where in a gap or gene a base lies (28 states); given that, a base depends on
the two before it. So the forward algorithm gives the exact probability of any sequence in linear
time: -log2 P / length is the optimum for that very sequence, and the log-likelihood ratio of two
sources is the optimal classifier. Sequences start anywhere in a genome: the first state has its
stationary distribution.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_LETTERS = np.frombuffer(b"ACGT", np.uint8)
_START = 0b001110  # ATG; a codon is its three letters' codes, the first in the highest bits
STOPS = (0b110000, 0b110010, 0b111000)  # TAA, TAG, TGA
_WORDS = np.arange(64)
_LETTERS_OF = np.stack([_WORDS >> 4, _WORDS >> 2 & 3, _WORDS & 3], 1).astype(np.uint8)
_REVERSE = (3 - _LETTERS_OF[:, ::-1]) @ np.array([16, 4, 1])  # word -> its reverse complement

# The hidden states. A gap's first, second and later bases, after a gene of either strand. A gene's
# start codon, the first two bases after it (which see nothing, and one base, before them), the
# three positions of a codon, and the stop codon; in the order of reading, so that on "-" the stop
# codon comes first.
_GAP = {"+": 0, "-": 3}
_GENE = {"+": 6, "-": 17}
N_STATES = 28


@dataclass(frozen=True)
class Source:
    """A stationary, strand-symmetric source of genomes. Lengths are means.

    Words are three letters in a row, in the order AAA, AAC ... TTT. `gaps[64]` are the
    probabilities of words between genes, equal for reverse complements. `genes[3 * 64]` are those
    inside genes of words that end in the first, the second and the third position of a codon.
    """

    name: str
    gaps: tuple[float, ...]
    genes: tuple[float, ...]
    stops: tuple[float, float, float]  # usage of TAA, TAG, TGA
    gap_bases: float  # at least 1
    gene_codons: float  # between start and stop, at least 1
    same_strand: float  # probability that the next gene lies on the strand of the last

    def __post_init__(self) -> None:
        gaps, genes = np.reshape(self.gaps, (4, 4, 4)), np.reshape(self.genes, (3, 4, 4, 4))
        following = genes[[1, 2, 0]]
        if not (
            np.isclose(gaps.sum(), 1)
            and np.allclose(genes.sum((1, 2, 3)), 1)
            and np.isclose(sum(self.stops), 1)
            and np.allclose(gaps.sum(0), gaps.sum(2))
            and np.allclose(genes.sum(1), following.sum(3))
            and np.allclose(gaps.ravel(), gaps.ravel()[_REVERSE])
            and not genes[2].ravel()[list(STOPS)].any()
            and min(self.gene_codons, self.gap_bases) >= 1
            and 0 < self.same_strand < 1
        ):
            raise ValueError(f"not a stationary, strand-symmetric source: {self}")

    def spec(self) -> dict:
        """JSON-able; `Source.from_spec(spec)` is equal."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_spec(cls, spec: Mapping) -> "Source":
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()
        }
        return cls(**values)


def random_source(
    name: str,
    gap_weights: np.ndarray,
    gene_weights: np.ndarray,
    *,
    gap_bases: float,
    gene_codons: float,
    same_strand: float,
) -> Source:
    """A source from any positive weights float64[4, 4, 4] and [3, 4, 4, 4] (see `Source`).

    A gap's next letter c after a, b has probability about proportional to `gap_weights[a, b, c]`
    (made strand-symmetric); in position p of a codon, to that times `gene_weights[p, a, b, c]`.
    """
    table = gap_weights / gap_weights.sum(2, keepdims=True)
    words = (_pairs(table[None])[0][:, :, None] * table).ravel()
    # Both a chain and its reverse complement have consistent margins, and so has their mean.
    gaps = ((words + words[_REVERSE]) / 2).reshape(4, 4, 4)
    tables = gaps * gene_weights
    tables[2].reshape(64)[list(STOPS)] = 0
    tables /= tables.sum(3, keepdims=True)
    genes = _pairs(tables)[..., None] * tables
    return Source(
        name,
        tuple(gaps.ravel().tolist()),
        tuple(genes.ravel().tolist()),
        (0.5, 0.2, 0.3),
        gap_bases,
        gene_codons,
        same_strand,
    )


def _pairs(tables: np.ndarray) -> np.ndarray:
    """[P, 4, 4]: of a periodic chain, the stationary law of two letters before each position."""
    pairs = np.full((len(tables), 4, 4), 1 / 16)
    for _ in range(300):
        for position, table in enumerate(tables):
            pairs[(position + 1) % len(tables)] = np.einsum("ab,abc->bc", pairs[position], table)
    return pairs


@dataclass(frozen=True)
class Tables:
    """The process as arrays: S = 28 hidden states, 21 contexts (no, one or two letters known)."""

    start: np.ndarray  # [S], stationary
    step: np.ndarray  # [S, S], from row to column
    emit: np.ndarray  # [21, 4, S], probability of the next letter


@functools.lru_cache(maxsize=16)
def tables(source: Source) -> Tables:
    """The arrays of a source, worked out once."""
    step = np.zeros((N_STATES, N_STATES))
    emit = np.zeros((21, 4, N_STATES))
    leave_gap, leave_body = 1 / source.gap_bases, 1 / source.gene_codons
    gaps, genes = np.array(source.gaps), np.reshape(source.genes, (3, 64))
    start, stop = np.eye(64)[_START], np.bincount(STOPS, source.stops, 64)
    for strand, other in (("+", "-"), ("-", "+")):
        gap, gene = _GAP[strand], _GENE[strand]
        if strand == "-":
            # A word that ends in position p began in p - 2; read from its other end, it ends there,
            # and positions count the other way: 0 and 1 change places.
            start, stop, genes = stop[_REVERSE], start[_REVERSE], genes[[1, 0, 2]][:, _REVERSE]
        laws = (
            *((gaps, 0), (gaps, 1), (gaps, 2)),
            *((start, 0), (start, 1), (start, 2)),
            *((genes[2], 0), (genes[2], 1)),
            *((genes[0], 2), (genes[1], 2), (genes[2], 2)),
            *((stop, 0), (stop, 1), (stop, 2)),
        )
        places = [*range(gap, gap + 3), *range(gene, gene + 11)]
        for place, (words, letter) in zip(places, laws, strict=True):
            emit[:, :, place] = emission(words, letter)
        for place in range(3):
            step[gap + place, gap + min(place + 1, 2)] += 1 - leave_gap
            step[gap + place, gene] += leave_gap * source.same_strand
            step[gap + place, _GENE[other]] += leave_gap * (1 - source.same_strand)
        # Start codon 0 1 2, first two bases 3 4, codon positions 5 6 7, stop codon 8 9 10.
        for path in ((0, 1, 2, 3, 4, 7), (5, 6, 7), (8, 9, 10)):
            for here, there in itertools.pairwise(path):
                step[gene + here, gene + there] = 1
        step[gene + 7, gene + 5] = 1 - leave_body
        step[gene + 7, gene + 8] = leave_body
        step[gene + 10, gap] = 1
    # Stationary: start = start @ step, sum 1.
    system = np.vstack([step.T - np.eye(N_STATES), np.ones(N_STATES)])
    solution = np.linalg.lstsq(system, np.append(np.zeros(N_STATES), 1), rcond=None)[0]
    return Tables(np.maximum(solution, 0), step, emit)


def emission(words: np.ndarray, place: int) -> np.ndarray:
    """[21, 4]: probability of a word's letter at `place`, after no, one or two letters before it.

    Letters before the word tell nothing; letters of the word that are not known are summed over.
    """
    table = np.zeros((21, 4))
    contexts = (c for known in range(3) for c in itertools.product(range(4), repeat=known))
    for row, letters in enumerate(contexts):
        given = letters[max(len(letters) - place, 0) :]
        unknown = (*range(place - len(given)), *range(place + 1, 3))
        letter = words.reshape(4, 4, 4).sum(unknown)[given]
        table[row] = letter / letter.sum() if letter.any() else 0
    return table


def open_at(lengths: np.ndarray) -> list[int]:
    """How many of the lengths, which fall, reach beyond 0, 1, 2 ... the longest less 1."""
    steps = np.arange(lengths[0])
    return (len(lengths) - np.searchsorted(lengths[::-1], steps, side="right")).tolist()


def sample(source: Source, length: int, rng: np.random.Generator) -> bytes:
    """One sequence of the source, starting anywhere in a genome."""
    return sample_many(source, [length], rng)[0]


def sample_many(source: Source, lengths: Sequence[int], rng: np.random.Generator) -> list[bytes]:
    """Independent sequences of the given lengths: upper-case A C G T.

    Five to ten million bases a second for many sequences, or long ones; memory is about four bytes
    for each base, every sequence counted as long as the longest.
    """
    if not lengths:
        return []
    count, longest = len(lengths), max(lengths)

    def units(number: int) -> tuple[np.ndarray, np.ndarray]:
        """Gaps [count, number] and codons of genes; no longer than could matter."""
        gaps = rng.geometric(1 / source.gap_bases, (count, number))
        codons = rng.geometric(1 / source.gene_codons, (count, number))
        return np.minimum(gaps, longest + 1), np.minimum(codons, longest // 3 + 2)

    # A unit is a gap and the gene after it; `skip` bases of the first lie before the sequence.
    gaps, codons = units(1)
    skip = _skipped(source, gaps[:, 0], codons[:, 0], rng)
    while (missing := int(np.max(lengths + skip - (gaps + 3 * codons + 6).sum(1)))) > 0:
        more = units(int(missing / (source.gap_bases + 3 * source.gene_codons + 6)) + 8)
        gaps, codons = np.hstack([gaps, more[0]]), np.hstack([codons, more[1]])
    turns = rng.random(gaps.shape) >= source.same_strand
    turns[:, 0] = rng.random(count) < 0.5
    reverse = (np.cumsum(turns, 1) % 2).astype(bool)
    # Where each gap and gene begins, all sequences one after the other.
    ends = np.cumsum(np.stack([gaps, 3 * codons + 6], 2))
    begins = np.concatenate([[0], ends[:-1]]).reshape(*gaps.shape, 2)
    codes = np.empty(ends[-1], np.uint8)
    forward = np.zeros(gaps.size, bool)
    law = np.array([source.gaps])
    _write_chains(codes, law, begins[..., 0].ravel(), gaps.ravel(), forward, rng)
    _write_genes(codes, source, begins[..., 1].ravel(), codons.ravel(), reverse.ravel(), rng)
    letters = _LETTERS[codes]
    first = begins[:, 0, 0] + skip
    return [letters[at : at + n].tobytes() for at, n in zip(first, lengths, strict=True)]


def _skipped(
    source: Source, gaps: np.ndarray, codons: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """int64[count]: where in the first unit each sequence starts, to start anywhere in a genome.

    A random base lies in a part of the unit as often as the part is long on average, and, geometric
    lengths having no memory, what is left of a gap or of a gene's codons is as long as a whole one.
    """
    parts = np.array([source.gap_bases, 3.0, 3 * source.gene_codons, 3.0])  # gap start body stop
    part = rng.choice(4, len(gaps), p=parts / parts.sum())
    begins = np.stack([np.zeros_like(gaps), gaps, gaps + 3, gaps + 3 + 3 * codons])
    return begins[part, np.arange(len(gaps))] + (part > 0) * rng.integers(0, 3, len(gaps))


def _write_genes(
    codes: np.ndarray,
    source: Source,
    begins: np.ndarray,
    body: np.ndarray,
    reverse: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """All genes: start codon, body, stop codon, and where `reverse` the other way round."""
    ends = begins + 3 * body + 6
    starts = np.full(len(body), _START)
    stops = rng.choice(STOPS, len(body), p=source.stops)
    for at, words in (
        (begins, np.where(reverse, _REVERSE[stops], starts)),
        (ends - 3, np.where(reverse, _REVERSE[starts], stops)),
    ):
        for place in range(3):
            codes[at + place] = _LETTERS_OF[words, place]
    laws = np.reshape(source.genes, (3, 64))
    _write_chains(codes, laws, begins + 3, 3 * body, reverse, rng)


def _write_chains(
    codes: np.ndarray,
    laws: np.ndarray,
    begins: np.ndarray,
    lengths: np.ndarray,
    reverse: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Stretches of one periodic second-order chain, side by side: a letter of each at a time.

    `laws` [period, 64] are the words' probabilities by the position in which they end. Where
    `reverse`, the stretch is written as its reverse complement.
    """
    order = np.argsort(-lengths, kind="stable")
    lengths, reverse = lengths[order], reverse[order]
    at = begins[order] + np.where(reverse, lengths - 1, 0)
    stride, flip = np.where(reverse, -1, 1), np.where(reverse, 3, 0).astype(np.uint8)
    laws_of_steps = [(laws[-1], 0), (laws[-1], 1), *((words, 2) for words in laws)]
    tables = [np.cumsum(emission(*law), 1)[:, :3].T.copy() for law in laws_of_steps]
    context = np.zeros(len(lengths), np.uint8)
    for step, still in enumerate(open_at(lengths)):
        table = tables[step if step < 2 else 2 + step % len(laws)]
        context, draw = context[:still], rng.random(still)
        letter = np.zeros(still, np.uint8)
        for cumulative in table:
            letter += draw > cumulative[context]
        codes[at[:still]] = letter ^ flip[:still]
        at[:still] += stride[:still]
        # Contexts are numbered: none, 4 of one letter, 16 of two.
        context = letter + 1 if step == 0 else 5 + ((context - 1) % 4) * 4 + letter
