"""Is half of a batch viral, and are families, groups and clusters drawn as often as they should?"""

from collections import Counter

import numpy as np
import pytest

from data_pipeline.cutting import WindowBatches
from data_pipeline.errors import UserError
from tests.data_pipeline.windows import (
    Records,
    draws,
    random_bases,
    record,
    usual_records,
    windows_of,
)


def test_half_of_every_batch_is_viral() -> None:
    batches = windows_of()
    for number in range(10):
        batch = batches(number)
        assert batch["labels"].dtype == batch["example_weights"].dtype == np.float32
        assert batch["labels"].mean() == 0.5
        assert (batch["example_weights"] == 1).all()


def shares(batches: WindowBatches, records: Records, key: str, label: int) -> dict[str, float]:
    found = [number for drawn, number, _ in draws(batches, 3000) if drawn == label]
    names = Counter(records[number][key].decode() for number in found)
    return {name: count / len(found) for name, count in names.items()}


def unbalanced(batches: WindowBatches, records: Records) -> list[str]:
    """Families and groups that are not drawn about as often as the others."""
    found = []
    for key, label in (("family", 1), ("group", 0)):
        drawn = shares(batches, records, key, label)
        even = 1 / len(drawn)
        found += [name for name, share in drawn.items() if abs(share - even) > 0.05]
    return found


def test_families_and_groups_are_drawn_evenly() -> None:
    records = usual_records()
    batches = windows_of(records)
    assert set(shares(batches, records, "family", 1)) == {"big", "mid", "small"}
    assert unbalanced(batches, records) == []
    within = Counter(number for label, number, _ in draws(batches, 3000) if label == 1)
    assert len(within) == 16
    of_big = [within[number] for number in range(12)]
    assert max(of_big) < 3 * min(of_big), "evenly within a family"


def test_planted_records_drawn_evenly_whatever_their_family() -> None:
    records = usual_records()
    batches = windows_of(records, balance_key="id", negative_balance_key="id")
    assert set(unbalanced(batches, records)) >= {"big", "small", "bacteria", "archaea"}


def nested_records() -> Records:
    """Of group a: clusters of 8 and 1; of group b: one cluster of 3. Viruses beside them."""
    where = [("a", "a1")] * 8 + [("a", "a2")] + [("b", "b1")] * 3
    records = [
        record(n, 0, random_bases(n, 120), group=group, cluster=cluster)
        for n, (group, cluster) in enumerate(where)
    ]
    return Records([*records, record(len(records), 1, random_bases(99, 120))])


def strayed(batches: WindowBatches, wanted: dict[str, float]) -> list[str]:
    """Clusters whose share of the windows that are not viral is not about the one wanted."""
    found = shares(batches, nested_records(), "cluster", 0)
    return [name for name, share in wanted.items() if abs(found.get(name, 0) - share) > 0.05]


def test_a_group_is_drawn_first_and_then_one_of_its_clusters() -> None:
    nested = windows_of(nested_records(), negative_balance_key="group/cluster")
    assert strayed(nested, {"a1": 0.25, "a2": 0.25, "b1": 0.5}) == []
    weighted = windows_of(
        nested_records(), negative_balance_key="group/cluster", negative_weights=("a=3",)
    )
    assert strayed(weighted, {"a1": 0.375, "a2": 0.375, "b1": 0.25}) == []


def test_planted_one_field_alone_is_found() -> None:
    flat = windows_of(nested_records(), negative_balance_key="cluster")
    assert strayed(flat, {"a1": 0.25, "a2": 0.25, "b1": 0.5})


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (("a",), "'a' is not of the form NAME=NUMBER with a number above 0"),
        (("a=-1",), "'a=-1' is not of the form NAME=NUMBER with a number above 0"),
        (("c=2",), "names 'c', but no non-viral training record has this group"),
    ],
)
def test_weights_that_mean_nothing(weights: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match="negative_weights") as raised:
        windows_of(nested_records(), negative_weights=weights)
    assert str(raised.value).endswith(sentence)
