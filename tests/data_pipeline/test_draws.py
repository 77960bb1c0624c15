"""Are the counts and shares that a dry run prints those of the windows that are then drawn?"""

from collections import Counter

import numpy as np
import pytest

from data_pipeline import draws
from data_pipeline.cutting import WindowBatches, table
from tests.data_pipeline.windows import usual_records, windows_of


def counted(batches: WindowBatches, number_of_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each record its share of the windows in so many batches, and its bases in one of them."""
    records = usual_records()
    drawn, read = Counter[int](), Counter[int]()
    for number in range(number_of_batches):
        lengths = batches.lengths(number)
        rows = len(batches(number)["labels"])
        for j in range(rows):
            record, window = batches.draw(number, j, batches._length(number, j, lengths))
            drawn[record] += 1
            read[record] += len(window)
    total = sum(drawn.values())
    return (
        np.array([drawn[n] / total for n in range(len(records))]),
        np.array([read[n] / number_of_batches for n in range(len(records))]),
    )


@pytest.mark.parametrize(
    "changed", [{}, {"length_weights": (1.0, 4.0)}, {"min_length": 30, "balance_key": "id"}]
)
def test_records_are_drawn_as_often_as_said(changed: dict) -> None:
    batches = windows_of(**changed)
    said, found = draws._drawn(batches, len(usual_records())), counted(batches, 250)
    assert said[0].sum() == pytest.approx(1)
    np.testing.assert_allclose(found[0], said[0], atol=0.03)
    np.testing.assert_allclose(found[1].sum(), said[1].sum(), rtol=0.1)
    other = draws._drawn(windows_of(negative_balance_key="id"), len(usual_records()))
    assert np.abs(other[0] - said[0]).max() > 0.1, "a planted other balance is seen"


def test_counts_by_group_and_length() -> None:
    columns = table(usual_records())
    lines = list(draws.records_by_group(columns))
    assert len(lines) == 1 + 2 + 3
    viral, short = (line.split() for line in lines[1:3])
    assert viral[:3] == ["viral", "-", "16"]
    assert viral[-2:] == ["3", "(0)"]
    assert short[1:3] == ["s", "1"]
    words = " ".join(draws.lengths(columns)).split()
    assert words[:6] == ["80", "bases:", "1", "viral,", "1", "other"]
    many = {**columns, "length": np.arange(len(columns["label"]))}
    assert list(draws.lengths(many)) == ["  lengths 0 to 27 bases, half of them up to 13"]


def test_windows_and_passes() -> None:
    columns = table(usual_records())
    lines = list(draws.windows(columns, windows_of(), 100))
    assert lines[0] == "  100 steps read about 1,200 windows of 88,000 bases, half viral"
    assert [line.split()[:5] for line in lines[2:4]] == [
        ["60", "8.0", "800", "17", "11"],
        ["100", "4.0", "400", "16", "10"],
    ]
    by_group = {tuple(line.split()[:2]): line.split() for line in lines[5:]}
    assert by_group["other", "archaea"][2] == by_group["other", "bacteria"][2] == "19.44%"
    assert by_group["other", "s"][2] == "11.11%"
    wide = list(draws.windows(columns, windows_of(min_length=20), 100))
    assert len(wide) < 24, "of many lengths some are named"
