"""How do DNA letters become token ids, and back? Nucleotides and k-mers.

`bpe.py` has the tokenizer that is learned, `frames.py` the one of open reading frames.

Ids shared by all tokenizers here: 0 padding, 1 N (every letter that is not A, C, G or T), 2 A, 3 C,
4 G, 5 T.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from data_pipeline.errors import UserError

PAD, N, A, C, G, T = range(6)
SINGLE_LETTERS = b"NACGT"  # the letters of ids 1 to 5
KMER_SIZES = range(2, 9)


def _byte_table(pairs: Mapping[bytes, int], default: int) -> bytes:
    """A 256-entry table for `bytes.translate`: each letter, in either case, to its value."""
    table = bytearray([default] * 256)
    for letters, value in pairs.items():
        for letter in letters.upper() + letters.lower():
            table[letter] = value
    return bytes(table)


_TO_TOKEN = _byte_table({b"A": A, b"C": C, b"G": G, b"TU": T}, default=N)
_TOKEN_TO_LETTER = bytes(1) + SINGLE_LETTERS + bytes(256 - 1 - len(SINGLE_LETTERS))
_TOKEN_COMPLEMENT = np.array([PAD, N, T, G, C, A], np.uint8)
_IUPAC = b"ACGTURYSWKMBDHVN"
_IUPAC_COMPLEMENT = b"TGCAAYRSWMKVHDBN"
_COMPLEMENT = bytes.maketrans(
    _IUPAC + _IUPAC.lower(), _IUPAC_COMPLEMENT + _IUPAC_COMPLEMENT.lower()
)


def reverse_complement(bases: bytes) -> bytes:
    """The other strand of `bases`, read in its own direction; all IUPAC letters, case kept."""
    return bases.translate(_COMPLEMENT)[::-1]


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokenizer offers; `spec()` is all it takes to make it again."""

    @property
    def name(self) -> str:
        """The name that stands in configs and specs."""

    @property
    def vocab_size(self) -> int:
        """V, the number of ids, padding and N included."""

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""

    @property
    def covering(self) -> bool:
        """Whether the tokens of a sequence decode to all of its letters, each once, in order."""

    @property
    def token_bases(self) -> np.ndarray:
        """int32[V]: bases a token stands for in the loss; 0 for padding and N."""

    @property
    def token_lengths(self) -> np.ndarray:
        """int32[V]: letters a token decodes to; 0 for padding, 1 for N."""

    def encode(self, bases: bytes) -> np.ndarray:
        """Letters to tokens, dtype[T]; lower case counts as upper, U as T, all else as N."""

    def decode(self, tokens: np.ndarray) -> bytes:
        """Tokens to letters ACGTN; padding vanishes. ValueError: an id out of range."""

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens that decode to the reverse complement of what `tokens`, [..., L], decode to."""

    def spec(self) -> dict[str, Any]:
        """JSON-able and complete: `from_spec(t.spec()) == t`."""


def _smallest_dtype(vocab_size: int) -> np.dtype:
    return np.min_scalar_type(vocab_size - 1)


def _check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ValueError(
            f"token ids run from {tokens.min()} to {tokens.max()}, the vocabulary from 0 to "
            f"{vocab_size - 1}"
        )


@dataclass(frozen=True)
class Nucleotide:
    """One token a base; vocabulary of 6."""

    name: ClassVar[str] = "nucleotide"
    covering: ClassVar[bool] = True
    vocab_size: ClassVar[int] = 6
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    @property
    def token_bases(self) -> np.ndarray:
        return np.array([0, 0, 1, 1, 1, 1], np.int32)

    @property
    def token_lengths(self) -> np.ndarray:
        return np.array([0, 1, 1, 1, 1, 1], np.int32)

    def encode(self, bases: bytes) -> np.ndarray:
        return np.frombuffer(bases.translate(_TO_TOKEN), np.uint8)

    def decode(self, tokens: np.ndarray) -> bytes:
        _check_ids(tokens, self.vocab_size)
        return tokens.astype(np.uint8).tobytes().translate(_TOKEN_TO_LETTER, delete=bytes([PAD]))

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        # Turning bits is ten times as fast as looking tokens up: it makes 5 of 2 and 4 of 3. What
        # it makes of padding and N, 7 and 6, is turned back.
        other = tokens ^ 7
        if other.size and other.max() > T:
            other ^= (other > T) * other.dtype.type(7)
        if other.dtype == np.uint8 and other.shape[-1] % 8 == 0:  # many rows: a third of the time
            return other.view(np.uint64)[..., ::-1].byteswap().view(np.uint8)
        return other[..., ::-1]

    def spec(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True)
class Kmer:
    """One token for k bases, not overlapping; ids from 6 on are all k-mers, A < C < G < T.

    A k-mer that holds an ambiguous letter, and the tail shorter than k, are written base by base
    with ids 1 to 5, so nothing is lost and the k-mers behind keep their phase. The reverse
    complement of a token stream maps token by token, hence starts with the tail: a valid stream,
    though in general not the one `encode` gives for the other strand, whose phase differs.
    """

    k: int
    name: ClassVar[str] = "kmer"
    covering: ClassVar[bool] = True
    first_kmer: ClassVar[int] = 6

    def __post_init__(self) -> None:
        if self.k not in KMER_SIZES:
            raise UserError(
                f"tokenizer kmer: k is {self.k!r}; choose a whole number from {KMER_SIZES[0]} to "
                f"{KMER_SIZES[-1]}"
            )

    @property
    def vocab_size(self) -> int:
        return self.first_kmer + 4**self.k

    @property
    def dtype(self) -> np.dtype:
        return _smallest_dtype(self.vocab_size)

    @property
    def token_bases(self) -> np.ndarray:
        bases = np.full(self.vocab_size, self.k, np.int32)
        bases[: self.first_kmer] = Nucleotide().token_bases
        return bases

    @property
    def token_lengths(self) -> np.ndarray:
        lengths = np.full(self.vocab_size, self.k, np.int32)
        lengths[: self.first_kmer] = Nucleotide().token_lengths
        return lengths

    def encode(self, bases: bytes) -> np.ndarray:
        k = self.k
        single = np.frombuffer(bases.translate(_TO_TOKEN), np.uint8)
        n_chunks, n_tail = divmod(len(single), k)
        chunks = single[: n_chunks * k].reshape(n_chunks, k)
        tail = single[n_chunks * k :]
        ids = np.full(n_chunks, self.first_kmer, np.int32)
        for place in range(k):
            # A to T are ids 2 to 5; with an N the number is meaningless and replaced below.
            ids += (chunks[:, place].astype(np.int32) - A) * 4 ** (k - 1 - place)
        ambiguous = (chunks == N).any(axis=1) if (single == N).any() else None
        if ambiguous is None:
            return np.concatenate([ids, tail]).astype(self.dtype)

        width = np.where(ambiguous, k, 1)
        end = np.cumsum(width)
        start = end - width
        tokens = np.empty((int(end[-1]) if n_chunks else 0) + n_tail, self.dtype)
        tokens[start[~ambiguous]] = ids[~ambiguous]
        tokens[start[ambiguous, None] + np.arange(k)] = chunks[ambiguous]
        tokens[len(tokens) - n_tail :] = tail
        return tokens

    def decode(self, tokens: np.ndarray) -> bytes:
        _check_ids(tokens, self.vocab_size)
        letters, kept = _kmer_letters(self.k)
        return letters[tokens][kept[tokens]].tobytes()

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        return _kmer_complement(self.k)[tokens[..., ::-1]].astype(tokens.dtype, copy=False)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "k": self.k}


@dataclass(frozen=True)
class OverlappingKmer:
    """One token for each base: the k-mer that begins there; ids are those of `Kmer`.

    The last k - 1 bases, and bases whose k-mer holds an ambiguous letter, are written as ids 1 to
    5. For classifiers only: a language model would be told k - 1 letters of every token by the one
    before.
    """

    k: int
    name: ClassVar[str] = "kmer"
    covering: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Kmer(self.k)  # checks k

    @property
    def vocab_size(self) -> int:
        return Kmer(self.k).vocab_size

    @property
    def dtype(self) -> np.dtype:
        return Kmer(self.k).dtype

    @property
    def token_bases(self) -> np.ndarray:
        return (np.arange(self.vocab_size) >= A).astype(np.int32)

    @property
    def token_lengths(self) -> np.ndarray:
        return (np.arange(self.vocab_size) >= N).astype(np.int32)

    def encode(self, bases: bytes) -> np.ndarray:
        single = np.frombuffer(bases.translate(_TO_TOKEN), np.uint8)
        tokens = single.astype(self.dtype)
        count = len(single) - self.k + 1
        if count > 0:
            windows = np.lib.stride_tricks.sliding_window_view(single, self.k)
            ids = (windows.astype(np.int32) - A) @ 4 ** np.arange(
                self.k - 1, -1, -1, dtype=np.int32
            )
            whole = (windows != N).all(axis=1)
            tokens[:count][whole] = (ids + Kmer.first_kmer)[whole]
        return tokens

    def decode(self, tokens: np.ndarray) -> bytes:
        _check_ids(tokens, self.vocab_size)
        return _kmer_letters(self.k)[0][tokens, 0].tobytes().replace(bytes(1), b"")

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        if tokens.ndim > 1:
            return np.stack([self.reverse_complement(own) for own in tokens])
        return self.encode(reverse_complement(self.decode(tokens))).astype(tokens.dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "k": self.k, "stride": 1}


def _kmer_digits(k: int) -> np.ndarray:
    """uint8[4^k, k]: the base codes 0 to 3 of every k-mer."""
    number = np.arange(4**k)[:, None]
    return (number // 4 ** np.arange(k - 1, -1, -1) % 4).astype(np.uint8)


@cache
def _kmer_letters(k: int) -> tuple[np.ndarray, np.ndarray]:
    """What each id decodes to: letters uint8[V, k] and which of them count, bool[V, k]."""
    letters = np.zeros((Kmer.first_kmer + 4**k, k), np.uint8)
    letters[N : Kmer.first_kmer, 0] = np.frombuffer(SINGLE_LETTERS, np.uint8)
    letters[Kmer.first_kmer :] = np.frombuffer(b"ACGT", np.uint8)[_kmer_digits(k)]
    return letters, letters > 0


@cache
def _kmer_complement(k: int) -> np.ndarray:
    """int32[V]: the id of each token's reverse complement."""
    complement_digits = 3 - _kmer_digits(k)[:, ::-1].astype(np.int32)
    kmers = Kmer.first_kmer + complement_digits @ 4 ** np.arange(k - 1, -1, -1, dtype=np.int32)
    return np.concatenate([_TOKEN_COMPLEMENT.astype(np.int32), kmers])


def _kmer(k: int, stride: int = 0) -> Tokenizer:
    if stride not in (0, 1, k):
        raise UserError(f"tokenizer kmer: stride is {stride!r}; choose 1 (overlapping) or {k!r}")
    return OverlappingKmer(k) if stride == 1 else Kmer(k)


def _bpe(**spec: Any) -> Tokenizer:
    from data_pipeline import bpe  # it imports this module

    return bpe.from_spec(spec)


def _codon(**spec: Any) -> Tokenizer:
    from data_pipeline import frames  # it imports this module

    return frames.Codon(**spec)


_TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {
    Nucleotide.name: Nucleotide,
    Kmer.name: _kmer,
    "bpe": _bpe,
    "codon": _codon,
}
_SPEC_KEYS: dict[str, set[str]] = {
    Nucleotide.name: set(),
    Kmer.name: {"k"},
    "bpe": {"vocab_size", "sha256", "merges"},
    "codon": set(),
}
_OPTIONAL_KEYS: dict[str, set[str]] = {
    Kmer.name: {"stride"},
    "codon": {"min_codons", "max_overlap"},
}


def from_spec(spec: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `spec` describes: {"name": "nucleotide"}, {"name": "kmer", "k": 4}, ...

    Raises:
      UserError: an unknown name, a missing or unknown key, a k out of range, damaged merges.
    """
    options = dict(spec)
    name = options.pop("name", None)
    if name not in _TOKENIZERS:
        raise UserError(f"unknown tokenizer {name!r}; choose from {', '.join(_TOKENIZERS)}")
    if set(options) - _OPTIONAL_KEYS.get(name, set()) != _SPEC_KEYS[name]:
        wanted = ", ".join(["name", *sorted(_SPEC_KEYS[name])])
        given = ", ".join(["name", *sorted(map(str, options))])
        raise UserError(f"tokenizer {name} is described by the keys {wanted}; given: {given}")
    return _TOKENIZERS[name](**options)
