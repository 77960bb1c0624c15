"""Does the same id, or the same sequence, occur where it may occur only once?"""

from dataclasses import dataclass, field

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.tokenizers import reverse_complement

_STEP = 1 << 17  # letters hashed at once
_PRIMES = (2**31 - 1, 2**31 - 19, 2**31 - 61)
_BASE = 1_000_003
_LETTERS = b"ACGTRYSWKMBDHVN"
_CODES = bytes(
    _LETTERS.find(bytes([letter]).upper().replace(b"U", b"T")) + 1 for letter in range(256)
)
# By letter, the code of its complement.
_COMPLEMENT_CODES = reverse_complement(bytes(range(256)))[::-1].translate(_CODES)


class StrandlessHash:
    """A 93-bit hash of a sequence given block by block, equal for its reverse complement.

    The polynomial hash sum(x_i b^i) mod p, for three primes p, of both strands at once; the smaller
    one counts. Case does not matter. Made for distinguishing, not against malice.
    """

    def __init__(self) -> None:
        self.length = 0
        self._forward = [0] * len(_PRIMES)
        self._backward = [0] * len(_PRIMES)

    def update(self, bases: bytes) -> None:
        """Goes on with the next letters."""
        for start in range(0, len(bases), _STEP):
            step = bases[start : start + _STEP]
            size = len(step)
            # Exact in float64: a sum of 2^17 products below 2^4 2^31. And BLAS does the sum.
            forward = _numbers(step, _CODES) @ _POWERS[:size]
            backward = _numbers(step, _COMPLEMENT_CODES) @ _BACKWARD_POWERS[_STEP - size :]
            for i, prime in enumerate(_PRIMES):
                here, there = int(forward[i]), int(backward[i])
                self._forward[i] = (
                    self._forward[i] + here * pow(_BASE, self.length, prime)
                ) % prime
                self._backward[i] = (self._backward[i] * pow(_BASE, size, prime) + there) % prime
            self.length += size

    def value(self) -> tuple[int, ...]:
        """The hash of all letters so far, preceded by their number."""
        return (self.length, *min(self._forward, self._backward))


def _numbers(letters: bytes, codes: bytes) -> np.ndarray:
    return np.frombuffer(letters.translate(codes), np.uint8).astype(np.float64)


def _powers() -> np.ndarray:
    """float64[_STEP, 3]: b^i mod p."""
    powers = np.ones((_STEP, len(_PRIMES)), np.int64)
    done = 1
    while done < _STEP:  # doubling: b^(i + done) = b^i b^done
        for i, prime in enumerate(_PRIMES):
            factor = pow(_BASE, done, prime)
            powers[done : 2 * done, i] = powers[:done, i] * factor % prime
        done *= 2
    return powers.astype(np.float64)


_POWERS = _powers()
_BACKWARD_POWERS = _POWERS[::-1].copy()  # so that the other strand need not be turned round


@dataclass
class SeenRecords:
    """Every record met so far, by id and by sequence; memory about 500 bytes a record."""

    _sources: dict[str, str] = field(default_factory=dict)  # id -> file
    _first: dict[tuple[int, ...], tuple[str, str]] = field(default_factory=dict)  # -> id, split

    def add_id(self, record_id: str, source: str) -> None:
        """Raises UserError when the id was met before, in this file or another."""
        first = self._sources.setdefault(record_id, source)
        if first != source:
            raise UserError(
                f"{source}: record {record_id}: the id is also that of a record in {first}; ids "
                "must be unique over all splits, so rename one or leave it out"
            )

    def add_sequence(self, record_id: str, split: str, sequence: tuple[int, ...]) -> None:
        """Raises UserError when the sequence, or its reverse complement, is in another split."""
        first_id, first_split = self._first.setdefault(sequence, (record_id, split))
        if first_split != split:
            raise UserError(
                f"{self._sources[record_id]}: record {record_id} ({split}) is the same sequence or "
                f"reverse complement as record {first_id} ({first_split}) in "
                f"{self._sources[first_id]}; leave one of them out"
            )
