"""How are the k-mers of a sequence read into integers, millions a second, in plain numpy?

A base is two bits: A 0, C 1, G 2, T 3; every other letter is AMBIGUOUS and spoils the k-mers it
lies in. A k-mer is one integer, its first letter in the highest bits.
"""

import numpy as np

AMBIGUOUS = 255
MAX_K = 31  # 62 bits

_CODE_OF_LETTER = np.full(256, AMBIGUOUS, np.uint8)
for _letters, _code in ((b"Aa", 0), (b"Cc", 1), (b"Gg", 2), (b"TtUu", 3)):
    _CODE_OF_LETTER[list(_letters)] = _code


def base_codes(bases: bytes) -> np.ndarray:
    """uint8[n]: A 0, C 1, G 2, T (or U) 3 in either case, 255 for any other letter."""
    return _CODE_OF_LETTER[np.frombuffer(bases, np.uint8)]


def kmers(codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every k-mer without an ambiguous letter of one sequence, as (forward, reverse complement).

    `codes` is uint8[n] with 0..3 or 255. Both results have the same length, at most n - k + 1, in
    order of position; their dtype is the smallest unsigned one with 2 k bits. Working memory is
    about 10 n times the size of that dtype, so long sequences are best given in pieces (see
    `pieces`).
    """
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k must be 1..{MAX_K}, not {k}")
    if len(codes) < k:
        empty = np.zeros(0, _dtype(k))
        return empty, empty
    clean = codes & 3
    forward = _packed(clean, k, first_letter_high=True)
    backward = _packed(3 - clean, k, first_letter_high=False)
    ambiguous = codes > 3
    if ambiguous.any():
        whole = ~_any_of(ambiguous, k)
        forward, backward = forward[whole], backward[whole]
    return forward, backward


def pieces(codes: np.ndarray, k: int, size: int = 1 << 17) -> list[np.ndarray]:
    """Views of one sequence whose k-mers, put one after the other, are those of the whole.

    The size keeps the work of `kmers` near a processor's cache, where it is nearly twice as fast.
    """
    return [codes[at : at + size + k - 1] for at in range(0, max(len(codes) - k + 1, 0), size)]


def _any_of(flags: np.ndarray, k: int) -> np.ndarray:
    """bool[n - k + 1]: of every window of k, whether a flag is set in it."""
    width = 1
    while 2 * width <= k:
        flags, width = flags[:-width] | flags[width:], 2 * width
    return flags[: len(flags) - (k - width)] | flags[k - width :]


def _dtype(k: int) -> type[np.unsignedinteger]:
    return next(
        kind
        for bits, kind in ((8, np.uint8), (16, np.uint16), (32, np.uint32), (64, np.uint64))
        if 2 * k <= bits
    )


def _packed(codes: np.ndarray, k: int, *, first_letter_high: bool) -> np.ndarray:
    """Integers of all windows of k letters, joined from windows of 1, 2, 4, 8... letters."""
    power, width = codes, 1  # the windows of `width` letters, for each binary digit of k
    while not k & width:
        power, width = _joined(power, width, power, width, first_letter_high), 2 * width
    result, length = power, width
    while length < k:
        power, width = _joined(power, width, power, width, first_letter_high), 2 * width
        if k & width:
            result = _joined(power, width, result, length, first_letter_high)
            length += width
    return result


def _joined(
    left: np.ndarray, m: int, right: np.ndarray, n: int, first_letter_high: bool
) -> np.ndarray:
    """Windows of m + n letters: m letters from `left`, then n letters from `right`."""
    dtype = _dtype(m + n)
    count = min(len(left), len(right) - m)
    left, right = left[:count].astype(dtype), right[m : m + count].astype(dtype)
    if first_letter_high:
        left <<= dtype(2 * n)
    else:
        right <<= dtype(2 * m)
    left |= right
    return left
