"""Does every epoch hold every row once, in an order that nothing but seed and epoch decide?"""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order import permuted, random, row_at, rows_at


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 30, 1000])
def test_every_epoch_is_another_permutation_of_all_rows(rows: int) -> None:
    epochs = [[row_at(e * rows + i, rows, seed=3) for i in range(rows)] for e in range(4)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    if rows > 6:
        assert all(a != b for a, b in itertools.combinations(epochs, 2))
        assert epochs[0] != [row_at(i, rows, seed=4) for i in range(rows)]
        assert epochs[0] != list(range(rows))


@pytest.mark.parametrize("rows", [1, 7, 5_000])
@pytest.mark.parametrize("first", [0, 4_090, 9_990])
def test_rows_at_consecutive_places_are_those_at_each(rows: int, first: int) -> None:
    """Over the ends of epochs, and of the places whose rows are found together."""
    for places in (range(first, first), range(first, first + 20)):
        assert rows_at(places, rows, seed=3) == [row_at(place, rows, seed=3) for place in places]


@given(st.integers(1, 5_000), st.integers(0, 2**32))
def test_a_permutation_has_every_number_once(count: int, seed: int) -> None:
    sent = permuted(np.arange(count), count, np.random.SeedSequence(seed))
    assert sorted(sent.tolist()) == list(range(count))
    some = np.random.default_rng(seed).integers(0, count, 7)
    assert np.array_equal(permuted(some, count, np.random.SeedSequence(seed)), sent[some])


def test_all_orders_of_a_few_rows_are_as_likely() -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(4_800):
        seen[tuple(permuted(np.arange(4), 4, np.random.SeedSequence(seed)).tolist())] += 1
    assert len(seen) == 24
    excess = sum((count - 200) ** 2 / 200 for count in seen.values())
    assert excess < 50, "chi-squared of 23 degrees of freedom: 1 in 1,000 is above 49.7"


def test_rows_far_apart_in_the_order_are_strangers() -> None:
    """Neighbours in an epoch's order lie as far apart as those drawn at random."""
    for count in (1_000, 4_097, 1 << 20):
        sent = permuted(np.arange(1_000), count, np.random.SeedSequence(1)).astype(np.int64)
        steps = np.abs(np.diff(sent)) / count
        assert abs(steps.mean() - 1 / 3) < 4 * np.sqrt(1 / 18 / 1_000)
        other = permuted(np.arange(1_000), count, np.random.SeedSequence(2)).astype(np.int64)
        assert abs(np.corrcoef(sent, other)[0, 1]) < 4 / np.sqrt(1_000)


def test_a_generator_depends_on_its_arguments_alone() -> None:
    draws = {
        numbers: random(*numbers).integers(0, 2**62)
        for numbers in itertools.product((0, 1, 2**31), repeat=3)
    }
    assert len(set(draws.values())) == len(draws)
    assert all(random(*n).integers(0, 2**62) == value for n, value in draws.items())
