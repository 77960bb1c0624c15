"""Does the same id, or the same sequence, occur in two splits?"""

from collections.abc import Iterator

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.records import Measured, Records
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


def refuse_shared_ids(records: Records) -> None:
    """Raises UserError when an id occurs in two splits."""
    for first, record in _shared(records, records.column("id")):
        if first.id == record.id:
            raise UserError(
                f"{record.source}: record {record.id}: the id is also that of a record in "
                f"{first.source}; ids must be unique over all splits, so rename one or leave it out"
            )


def refuse_shared_sequences(records: Records) -> None:
    """Raises UserError when a sequence, or its reverse complement, occurs in two splits."""
    some = records.column("hash0").astype(np.uint64) << np.uint64(32) | records.column("hash1")
    for first, record in _shared(records, some):
        if first.sequence == record.sequence:
            raise UserError(
                f"{record.source}: record {record.id} ({record.split}) is the same sequence or "
                f"reverse complement as record {first.id} ({first.split}) in {first.source}; "
                "leave one of them out"
            )


def refuse_shared_clusters(records: Records) -> None:
    """Raises UserError when a named cluster of relatives lies in two splits."""
    for first, record in _shared(records, records.column("cluster")):
        if record.cluster != "-":
            raise UserError(
                f"{record.source}: record {record.id} ({record.split}) is of cluster "
                f"{record.cluster}, as record {first.id} ({first.split}) in {first.source} is; "
                "relatives belong on one side, so leave one of them out"
            )


def _shared(records: Records, keys: np.ndarray) -> Iterator[tuple[Measured, Measured]]:
    """Records of equal key in different splits: the first of that key, and a later one."""
    if len(records.names["split"]) < 2:
        return
    order = keys.argsort(kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
    firsts = np.repeat(order[begins], np.diff(begins, append=len(order)))
    split = records.column("split")
    for place in np.flatnonzero(split[order] != split[firsts]).tolist():
        yield records[int(firsts[place])], records[int(order[place])]
