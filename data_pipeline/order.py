"""Which row comes at a place of the endless stream of epochs, and on which strand?

Both are functions of the place and a seed. They are found for some thousand places at once, which
takes a tenth of a microsecond a place.
"""

import functools

import numpy as np

_TOGETHER = 4_096  # places whose rows and strands are found at once
_ROUNDS = 8
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def row_at(place: int, rows: int, seed: int) -> int:
    """The row at a place of the endless stream; every epoch is another permutation of all rows."""
    return rows_at(range(place, place + 1), rows, seed)[0]


def rows_at(places: range, rows: int, seed: int) -> list[int]:
    """The rows at consecutive places."""
    found: list[int] = []
    while len(found) < len(places):
        epoch, within = divmod(places[len(found)], rows)
        block, within = divmod(within, _TOGETHER)
        left = len(places) - len(found)
        found += _order(rows, seed, epoch, block)[within : within + left]
    return found


@functools.lru_cache(maxsize=16)
def _order(rows: int, seed: int, epoch: int, block: int) -> list[int]:
    """The rows at some consecutive places of an epoch."""
    first = block * _TOGETHER
    places = np.arange(first, min(first + _TOGETHER, rows), dtype=np.uint64)
    return permuted(places, rows, np.random.SeedSequence([seed, epoch])).tolist()


def permuted(numbers: np.ndarray, count: int, seed: np.random.SeedSequence) -> np.ndarray:
    """uint64[n]: where a permutation of 0 .. count - 1 sends some numbers, all at once.

    A Feistel network on as many bits as count - 1 has, walked on from until it comes below `count`
    (Black and Rogaway 2002). Its memory is that of the numbers, however large the count.
    """
    bits = max(count - 1, 1).bit_length()
    low = np.uint64(bits // 2)
    masks = (np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << bits // 2) - 1))
    keys = seed.generate_state(_ROUNDS, np.uint64)
    found = np.empty(len(numbers), np.uint64)
    walking, at = np.arange(len(numbers)), numbers.astype(np.uint64)
    while len(walking):
        halves = [at >> low, at & masks[1]]
        for number, key in enumerate(keys):
            this, other = number % 2, 1 - number % 2
            mixed = (halves[other] ^ key) * _FACTOR
            mixed ^= mixed >> np.uint64(32)
            mixed *= _FACTOR
            halves[this] ^= mixed >> np.uint64(32) & masks[this]
        at = halves[0] << low | halves[1]
        inside = at < count
        found[walking[inside]] = at[inside]
        walking, at = walking[~inside], at[~inside]
    return found


def flipped(place: int, seed: int) -> bool:
    """Whether the row at a place is read on its other strand: drawn for that place alone."""
    block, within = divmod(place, _TOGETHER)
    return _flips(seed, block)[within]


@functools.lru_cache(maxsize=16)
def _flips(seed: int, block: int) -> list[bool]:
    return random(seed, 1, block).integers(2, size=_TOGETHER).astype(bool).tolist()


def random(seed: int, *numbers: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments; give as many for the same purpose.

    (NumPy takes (1,) and (1, 0) for the same seed.)
    """
    return np.random.default_rng(np.random.SeedSequence([seed, *numbers]))
