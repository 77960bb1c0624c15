"""Has a shuffled contig the same pairs of neighbours, in every order that has, equally often?"""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.shuffling import shuffle_dinucleotides

Shuffle = Callable[[bytes, np.random.Generator], bytes]


def pairs(bases: bytes) -> Counter:
    return Counter(itertools.pairwise(bases))


def faults(shuffle: Shuffle, bases: bytes, seed: int) -> list[str]:
    shuffled = shuffle(bases, np.random.default_rng(seed))
    found = []
    if pairs(shuffled) != pairs(bases):
        found.append("other pairs")
    if (shuffled[:1], shuffled[-1:]) != (bases[:1], bases[-1:]):
        found.append("other ends")
    return found


@settings(deadline=None)
@given(st.text("ACGTN", max_size=80).map(str.encode), st.integers(0, 5))
def test_the_pairs_of_neighbours_and_the_ends_stay(bases: bytes, seed: int) -> None:
    assert faults(shuffle_dinucleotides, bases, seed) == []


def test_planted_letters_shuffled_one_by_one_are_found() -> None:
    def single(bases: bytes, rng: np.random.Generator) -> bytes:
        return bytes(rng.permutation(list(bases)).tolist())

    assert faults(single, b"ACGTTGCAAGCTTGACCATG", 0)


def test_every_order_is_equally_likely() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(shuffle_dinucleotides(b"ACAGACATAG", rng) for _ in range(6_000))
    # All orders of these pairs, listed by walking all ways.
    orders: set[bytes] = set()

    def walk(path: bytes, left: Counter) -> None:
        if not +left:
            orders.add(path)
        for (a, b), count in left.items():
            if count and a == path[-1]:
                walk(path + bytes([b]), left - Counter({(a, b): 1}))

    walk(b"A", pairs(b"ACAGACATAG"))
    assert set(drawn) == orders
    expected = 6_000 / len(orders)
    assert all(abs(count - expected) < 6 * expected**0.5 for count in drawn.values())
