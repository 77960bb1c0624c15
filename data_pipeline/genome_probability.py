"""How probable is a sequence under a source, and so, what is the best that a model can do?

Everything here is the forward algorithm on the 28 hidden states of `genome_source.Tables`.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline import kmers
from data_pipeline.genome_source import N_STATES, Source, Tables, open_at, sample_many, tables

_RESCALE = 16  # steps of the filter between two normalisations
_LANES = 512  # sequences filtered side by side; with more, BLAS starts threads that slow it down


def log2_probability(source: Source, sequences: Sequence[bytes], given: int = 0) -> np.ndarray:
    """float64, one for each sequence: log2 of its probability after its first `given` bases.

    Exact (the forward algorithm, scaled). Empty sequences have 0. Raises ValueError for letters
    other than A C G T. Five to ten million bases a second for a hundred sequences or more.
    """
    result = np.zeros(len(sequences))
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    for at in range(0, len(order), _LANES):
        lanes = order[at : at + _LANES]
        result[lanes] = _filtered(tables(source), [sequences[i] for i in lanes], given)
    return result


def _filtered(law: Tables, sequences: Sequence[bytes], given: int) -> np.ndarray:
    """log2 probabilities of sequences that come in order of falling length."""
    lengths = np.array([len(s) for s in sequences])
    total = np.zeros(len(sequences))
    if lengths[0] <= given:
        return total
    symbols = _symbols(sequences)
    emit = law.emit.reshape(84, N_STATES)
    forward = np.tile(law.start, (len(sequences), 1))
    for at, still in enumerate(open_at(lengths)):
        if at % _RESCALE == 0 or at == given or still < len(forward):
            scale = forward.sum(1)
            total[: len(forward)] += np.log2(scale)
            forward = forward[:still] / scale[:still, None]
        if at == given:
            total[:] = 0
        if at:
            forward = forward @ law.step
        forward *= emit[symbols[at, :still]]
    total[: len(forward)] += np.log2(forward.sum(1))
    return total


def _symbols(sequences: Sequence[bytes]) -> np.ndarray:
    """uint8[longest, number]: 4 * context + letter, the contexts numbered as in `Tables`."""
    codes = np.zeros((len(sequences), max(map(len, sequences))), np.uint8)
    for row, bases in zip(codes, sequences, strict=True):
        row[: len(bases)] = kmers.base_codes(bases)
    if codes.max(initial=0) > 3:
        raise ValueError("a simulated sequence holds A, C, G and T only")
    codes = np.ascontiguousarray(codes.T)
    symbols = codes.copy()
    symbols[1:2] += 4 * (1 + codes[:1])
    symbols[2:] += 4 * (5 + 4 * codes[:-2] + codes[1:-1])
    return symbols


def entropy_rate(
    source: Source, *, lanes: int = 256, bases: int = 4096, warm_up: int = 512, seed: int = 0
) -> tuple[float, float]:
    """(bits per base, standard error): the source's entropy rate.

    The rate of a hidden Markov process has no closed form. It is the mean entropy of the next
    letter given all before it, averaged here over `lanes` sequences sampled from the source,
    `bases` letters each after a warm-up that leaves the unknown start no weight (below 1e-4 bits).
    """
    law = tables(source)
    rng = np.random.default_rng(seed)
    symbols = _symbols(sample_many(source, [warm_up + bases] * lanes, rng))
    forward = np.tile(law.start, (lanes, 1))
    entropies = np.zeros(lanes)
    for at, symbol in enumerate(symbols):
        if at:
            forward = forward @ law.step
        if at >= warm_up:
            letters = (law.emit[symbol >> 2] @ forward[:, :, None])[:, :, 0]
            entropies -= (letters * np.log2(letters + 1e-300)).sum(1)
        forward *= law.emit[symbol >> 2, symbol & 3]
        forward /= forward.sum(1, keepdims=True)
    entropies /= bases
    return float(entropies.mean()), float(entropies.std(ddof=1) / np.sqrt(lanes))


def bayes_llr(virus: Source, host: Source, sequences: Sequence[bytes]) -> np.ndarray:
    """float64[len(sequences)]: ln P(sequence | virus) - ln P(sequence | host).

    No classifier ranks sequences of these two sources better; its sigmoid is the exact probability
    of "virus" where both are equally frequent.
    """
    bits = log2_probability(virus, sequences) - log2_probability(host, sequences)
    return bits * np.log(2)


def optimal_bits_per_base(
    sources: Sequence[Source], sequences: Sequence[bytes], row_length: int = 0, given: int = 0
) -> float:
    """Bits per base of the best model that must read each row of the sequences by itself.

    The sources are equally frequent, and the model is not told which one a row is from. Rows are
    consecutive pieces of `row_length` bases (0: whole sequences), of which the first `given` are
    not predicted, as a language model without a start token leaves the first.
    """
    rows = [
        bases[at : at + (row_length or len(bases))]
        for bases in sequences
        for at in range(0, len(bases), row_length or len(bases))
    ]
    bits = log2_mixture(sources, [row[:given] for row in rows]) - log2_mixture(sources, rows)
    return float(bits.sum() / sum(max(len(row) - given, 0) for row in rows))


def log2_mixture(sources: Sequence[Source], sequences: Sequence[bytes]) -> np.ndarray:
    """float64, one for each sequence: log2 of its probability if any source is equally likely."""
    parts = [log2_probability(source, sequences) - np.log2(len(sources)) for source in sources]
    return np.logaddexp2.reduce(parts)
