"""Of what is a contig made, in numbers? What its open stretches say, and its k-mers.

Every feature is the same for a contig and for its other strand.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline.frames import Stretches, StretchesBatch, alone, readings
from data_pipeline.six_frames import (
    AMBIGUOUS,
    CODONS,
    GAP,
    Bases,
    blocks,
    code_table,
)

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
_STANDARD_CODE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"  # of CODONS
_NO_AMINO_ACID = len(AMINO_ACIDS)
_SYMBOLS = _NO_AMINO_ACID + 1
_GAP_CODE = bytes([GAP])
_TO_AMINO_ACID = code_table(
    [AMINO_ACIDS.find(letter) % _SYMBOLS for letter in _STANDARD_CODE],
    ambiguous=_NO_AMINO_ACID,
    gap=_NO_AMINO_ACID,
)
_TO_CODON = code_table(range(64), ambiguous=AMBIGUOUS, gap=AMBIGUOUS)

COMPOSITION_NAMES = (
    *(f"codon_{codon}" for codon in CODONS),
    *(f"pair_{a}{b}" for a in AMINO_ACIDS for b in AMINO_ACIDS),
    "share_covered",
    "log_longest",
    "log_mean",
    "stretches_per_kb",
)
KMER_SIZES = (3, 4, 6)


def _canonical(k: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint16[4^k]: the place of each k-mer among the canonical ones, and the names of these.

    Canonical is the one of a k-mer and its reverse complement that comes first in the alphabet.
    """
    kmer = np.arange(4**k)
    digits = kmer[:, None] // 4 ** np.arange(k) % 4  # the last letter first
    other = (3 - digits) @ 4 ** np.arange(k - 1, -1, -1)
    canonical, place = np.unique(np.minimum(kmer, other), return_inverse=True)
    letters = np.array(list("ACGT"))[digits[canonical, ::-1]]
    return place.astype(np.uint16), tuple(map("".join, letters))


def _places_of_pairs(k: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `_canonical`, indexed by the codes of the first and the last codon of a k-mer.

    The index is 256 x first + last. A k-mer with an ambiguous letter, or one that reaches into a
    gap, has the place after the last.
    """
    canonical, names = _canonical(k)
    places = np.full((256, 256), len(names), np.uint16)
    new = 4 ** (k - 3)  # what the last codon adds to the first
    first, last = np.arange(64)[:, None], np.arange(64)
    places[:64, :64] = canonical[first * new + last % new]
    return places.ravel(), names


_PLACES, _NAMES = zip(*(_places_of_pairs(k) for k in KMER_SIZES), strict=True)
KMER_NAMES = (*(f"kmer_{name}" for names in _NAMES for name in names), "log_length")


def composition_features_batch(contigs: Sequence[Bases], stretches: StretchesBatch) -> np.ndarray:
    """float32[B, 468]: what the open stretches of each contig say; columns in COMPOSITION_NAMES.

    - the share of each codon among those read (64; stop codons are always zero),
    - the share of each pair of amino acids (standard code) among the neighbours read (400),
    - the share of the contig's bases that lie in a stretch,
    - ln(1 + codons) of the longest stretch and of the mean length; stretches per 1,000 bases.

    A codon with an ambiguous letter is not counted, nor are its neighbours' pairs with it. Where
    there is nothing to count the shares are zero. Stretches are in the order along the contig that
    `open_stretches_batch` gives.
    """
    features = np.zeros((len(contigs), len(COMPOSITION_NAMES)), np.float32)
    for block, codes in readings(contigs, stretches):
        n = len(block.lengths)
        rows = slice(block.first, block.first + n)
        bounds = stretches.bounds[block.first : block.first + n + 1]
        start = stretches.flat.start[bounds[0] : bounds[-1]]
        stop = stretches.flat.stop[bounds[0] : bounds[-1]]
        contig = np.repeat(np.arange(n), np.diff(bounds))
        codons = (stop - start) // 3
        # A gap behind each stretch: no pair reaches into the next one.
        text = b"".join([part for code in codes for part in (code, _GAP_CODE)])
        row = np.repeat(contig, codons + 1)
        codon = np.frombuffer(text.translate(_TO_CODON), np.uint8)
        amino_acid = np.frombuffer(text.translate(_TO_AMINO_ACID), np.uint8)
        pair = amino_acid[:-1] * np.uint16(_SYMBOLS) + amino_acid[1:]
        pairs = _counts(row[:-1], pair, n, _SYMBOLS**2).reshape(n, _SYMBOLS, _SYMBOLS)
        features[rows, :64] = _shares(_counts(row, codon, n, 65)[:, :64])
        features[rows, 64:464] = _shares(pairs[:, :-1, :-1].reshape(n, 400))
        features[rows, 464:] = _extent(contig, start, stop, block.lengths)
    return features


def composition_features(bases: Bases, stretches: Stretches) -> np.ndarray:
    """float32[468]: what the open stretches of a contig say; see `composition_features_batch`."""
    return composition_features_batch([bases], alone(stretches))[0]


def kmer_features_batch(contigs: Sequence[Bases]) -> np.ndarray:
    """float32[B, 2249]: canonical 3-, 4- and 6-mers of each contig; columns in KMER_NAMES.

    A k-mer is counted together with its reverse complement (32, 136 and 2,080 of them), as its
    share of all k-mers of that size without an ambiguous letter; the last column is the natural
    logarithm of the contig's length in bases (0 for an empty one).
    """
    features = np.zeros((len(contigs), len(KMER_NAMES)), np.float32)
    for block in blocks(contigs):
        n = len(block.lengths)
        laid = np.diff(block.offsets, append=len(block.by_position))
        row = np.repeat(np.arange(n), laid)
        column = 0
        for k, places, names in zip(KMER_SIZES, _PLACES, _NAMES, strict=True):
            last = len(row) - k + 3
            pair = block.by_position[:last] * np.uint16(256) + block.by_position[k - 3 :]
            counts = _counts(row[:last], places[pair], n, len(names) + 1)[:, :-1]
            features[block.first : block.first + n, column : column + len(names)] = _shares(counts)
            column += len(names)
        features[block.first : block.first + n, -1] = np.log(np.maximum(block.lengths, 1))
    return features


def kmer_features(bases: Bases) -> np.ndarray:
    """float32[2249]: canonical 3-, 4- and 6-mers of a contig; see `kmer_features_batch`."""
    return kmer_features_batch([bases])[0]


def _counts(row: np.ndarray, column: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """int64[rows, columns]: how often each pair of row and column occurs."""
    return np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; a row of zeros stays."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _extent(
    contig: np.ndarray, start: np.ndarray, stop: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """float64[B, 4]: share covered, ln(1 + codons) of longest and mean, number per kb."""
    before = np.where(np.diff(contig, prepend=-1) > 0, 0, np.roll(stop, 1))
    covered, codons = np.zeros((2, len(lengths)), np.int64)
    np.add.at(covered, contig, stop - np.maximum(start, before))
    np.add.at(codons, contig, (stop - start) // 3)
    longest = np.zeros(len(lengths), np.int64)
    np.maximum.at(longest, contig, (stop - start) // 3)
    number = np.bincount(contig, minlength=len(lengths))
    bases = np.maximum(lengths, 1)
    columns = (
        covered / bases,
        np.log1p(longest),
        np.log1p(codons / np.maximum(number, 1)),
        1000 * number / bases,
    )
    return np.stack(columns, axis=1)
