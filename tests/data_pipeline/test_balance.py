"""Is half of a batch viral, and are families, groups and clusters drawn as often as they should?"""

from collections import Counter

import numpy as np
import pytest

from data_pipeline import balancing
from data_pipeline.cutting import WindowBatches, table
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


def familied_records() -> Records:
    """Viruses: family A of clusters 2 + 1, B of one; unknown families of clusters 3, 1 and none."""
    where = [("A", "a1")] * 2 + [("A", "a2"), ("B", "b1")]
    where += [("-", "u1")] * 3 + [("-", "u2"), ("-", "-")]
    records = [
        record(n, 1, random_bases(n, 120), family=family, cluster=cluster)
        for n, (family, cluster) in enumerate(where)
    ]
    return Records([*records, record(len(records), 0, random_bases(99, 120))])


def drawn(key: str, weights: dict[str, float] | None = None) -> list[float]:
    """The share of each of the nine viruses."""
    columns = table(familied_records())
    fields = balancing.fields(key, ("family", "cluster", "id"))
    shares = balancing.balanced(columns, np.arange(9), fields, weights or {}).shares()
    return [round(shares[number], 6) for number in range(9)]


def test_clusters_of_unknown_family_are_drawn_as_often_as_those_of_known() -> None:
    # Three clusters have a family, two have none, and a record without a cluster counts as half of
    # one, because clusters have two records: 2.5 of 5.5 draws go to them.
    share = 1 / 5.5
    wanted = [3 * share * part for part in (1 / 8, 1 / 8, 1 / 4, 1 / 2)]
    wanted += [share / 3, share / 3, share / 3, share, share / 2]
    assert drawn("family/cluster") == [round(share, 6) for share in wanted]
    assert drawn("family")[:4] == [round(2 / 27, 6)] * 3 + [round(2 / 9, 6)]
    assert drawn("family")[4:] == [round(1 / 9, 6)] * 5, "as often as the records of families"
    assert drawn("cluster")[-1] == round(1 / 9, 6), "as often as the records of clusters"
    assert drawn("id") == [round(1 / 9, 6)] * 9
    only = balancing.balanced(
        table(familied_records()), np.arange(4, 9), [("family", 0.0), ("cluster", 0.0)], {}
    )
    assert sum(only.shares().values()) == pytest.approx(1)


def test_shares_are_those_that_are_drawn() -> None:
    batches = windows_of(familied_records(), balance_key="family/cluster")
    found = Counter(number for label, number, _ in draws(batches, 6000) if label == 1)
    strays = [
        number
        for number, share in enumerate(drawn("family/cluster"))
        if abs(found[number] / 3000 - share) > 0.03
    ]
    assert strays == []


def test_planted_unknown_families_as_one_more_family(monkeypatch: pytest.MonkeyPatch) -> None:
    fair = drawn("family/cluster")
    monkeypatch.setattr(balancing, "UNKNOWN", "no such value")
    assert sum(drawn("family/cluster")[4:]) == pytest.approx(1 / 3, abs=1e-4)
    assert fair != drawn("family/cluster")


def test_a_power_lies_between_equal_families_and_equal_clusters() -> None:
    def of_a(key: str) -> float:
        shares = drawn(key)
        return round(sum(shares[:3]) / sum(shares[:4]), 4)

    assert of_a("family^0/cluster") == of_a("family/cluster") == 0.5
    assert of_a("family^1/cluster") == round(2 / 3, 4)
    assert of_a("family^0.5/cluster") == round(2**0.5 / (2**0.5 + 1), 4)
    assert drawn("family^1/cluster", {"B": 4}) != drawn("family^1/cluster")


@pytest.mark.parametrize("power", ["-1", "2", "x", ""])
def test_a_power_that_means_nothing(power: str) -> None:
    with pytest.raises(UserError, match="after \\^ goes a number from 0 to 1"):
        windows_of(balance_key=f"family^{power}/cluster")
