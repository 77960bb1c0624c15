"""Do windows cover a sequence, alike on both strands, and are they padded to few lengths?"""

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.tokenizers import Nucleotide
from data_pipeline.views import Bases
from dnallm_jax.scoring.batches import longest_row, row_lengths, window_sizes
from dnallm_jax.scoring.scorer import windows

Cut = Callable[[int, int], list[tuple[int, int]]]


def faults_of_windows(cut: Cut, length: int, window: int, overlap: int = 0) -> list[str]:
    """What is wrong with the windows of a sequence."""
    spans = cut(length, window)
    found = []
    covered = np.zeros(length, int)
    for start, stop in spans:
        covered[max(start, 0) : stop] += 1
    if any(start < 0 or stop > length or stop - start > window for start, stop in spans):
        found.append("outside or too long")
    if not covered.all():
        found.append("bases left out")
    if len({stop - start for start, stop in spans}) > 1:
        found.append("of different length")
    if spans != sorted((length - stop, length - start) for start, stop in spans):
        found.append("elsewhere on the other strand")
    # All may be one base shorter, for symmetry.
    least = -(-(length - overlap) // max(window - overlap - 1, 1))
    if len(spans) > max(least, 1):
        found.append("more than needed")
    if any(second[0] > first[1] - overlap + 1 for first, second in itertools.pairwise(spans)):
        found.append("share too little")
    return found


@given(st.integers(1, 5_000), st.integers(60, 3_000))
def test_windows_cover_a_sequence_evenly_and_alike_on_both_strands(
    length: int, window: int
) -> None:
    assert faults_of_windows(windows, length, window) == []


@given(st.integers(1, 5_000), st.integers(60, 3_000), st.floats(0, 0.9))
def test_windows_that_overlap_do_so_everywhere(length: int, window: int, share: float) -> None:
    overlap = int(share * window)
    cut = functools.partial(windows, overlap=overlap)
    assert faults_of_windows(cut, length, window, overlap) == []
    # The planted fault: windows that need not overlap.
    assert "share too little" in faults_of_windows(windows, 1_000, 250, 50)


@pytest.mark.parametrize("window", [1, 2, 3, 10, 11])
def test_windows_of_all_short_sequences(window: int) -> None:
    for length in range(120):
        assert faults_of_windows(windows, length, window) == []
    assert windows(0, window) == []


def rounded(length: int, window: int, overlap: int = 0) -> list[tuple[int, int]]:
    """A planted fault: the middle one of three windows half a base off."""
    starts = np.round(np.linspace(0, length - window, -(-length // window))).astype(int)
    return [(int(start), int(start) + window) for start in starts]


def strided(length: int, window: int) -> list[tuple[int, int]]:
    """A planted fault: the rest of the sequence is left out."""
    return [(start, start + window) for start in range(0, length - window + 1, window)]


def test_the_check_of_windows_sees_planted_faults() -> None:
    assert faults_of_windows(rounded, 701, 300) == ["elsewhere on the other strand"]
    assert "bases left out" in faults_of_windows(strided, 701, 300)


@given(st.integers(1, 10_000))
def test_windows_are_padded_to_few_lengths(window: int) -> None:
    sizes = window_sizes(window)
    assert sizes[-1] == window
    assert sizes == sorted(set(sizes))
    assert len(sizes) <= 14
    # What a window is padded with is at most half as long as itself, but for the shortest.
    assert all(1.5 * small >= large for small, large in itertools.pairwise(sizes))


@given(st.integers(1, 10_000))
def test_segments_are_padded_to_few_lengths(longest: int) -> None:
    lengths = row_lengths(longest)
    assert lengths[-1] == longest
    assert lengths == sorted(set(lengths))
    assert len(lengths) <= 34
    assert all(large - small <= max(16, small / 4) for small, large in itertools.pairwise(lengths))


def test_long_rows_are_whole_blocks_of_the_kernel_of_gpus() -> None:
    view = Bases(Nucleotide())
    lengths = {window: view.row_length(window) for window in (100, 200, 300, 960, 1000)}
    assert lengths == {100: 112, 200: 208, 300: 304, 960: 960, 1000: 1008}
    on_gpus = {window: longest_row(view, window, "gpu") for window in lengths}
    assert on_gpus == {100: 112, 200: 208, 300: 320, 960: 960, 1000: 1024}
    for platform in ("cpu", "tpu"):
        assert {window: longest_row(view, window, platform) for window in lengths} == lengths
