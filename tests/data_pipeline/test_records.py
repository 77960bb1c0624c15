"""Do measured records come back as they went in, whatever they are and however many?"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import records
from data_pipeline.records import Collected, IdSet, Measured, Records

numbers = st.integers(0, 1 << 40) | st.integers(0, 9)
hashes = st.tuples(*[st.integers(0, (1 << 31) - 1)] * 3)
words = st.sampled_from(["-", "a", "b", "phage"])
measured = st.builds(
    lambda length, own, **rest: Measured(length=length, sequence=(length, *own), **rest),
    length=numbers,
    own=hashes,
    id=st.text(min_size=1),
    ambiguous=numbers,
    gc=numbers,
    description=st.text(),
    source=words,
    split=words,
    cluster=words,
    group=words,
)


def collected(given: list[Measured]) -> Records:
    collecting = Collected()
    for record in given:
        collecting.add(record)
    return collecting.records()


@given(st.lists(measured, max_size=12), st.sampled_from([1, 2, 5, 4_096]))
def test_records_come_back(given: list[Measured], together: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_TOGETHER", together)
        found = collected(given)
        assert list(found) == given
        assert [found[number] for number in range(len(found))] == given
        assert found.bases == sum(record.length for record in given)
        for split in ("a", "b"):
            own = [record for record in given if record.split == split]
            assert list(found.of(split)) == own
            assert list(found.of(split).of("b")) == (own if split == "b" else [])
            assert found.of(split).column("gc").tolist() == [record.gc for record in own]
        renamed = found.renamed("cluster", (f"c{i % 3}" for i in range(len(given))))
        assert list(renamed) == [
            dataclasses.replace(record, cluster=f"c{i % 3}") for i, record in enumerate(given)
        ]
        assert list(renamed.words("cluster")) == [record.cluster for record in renamed]


def test_planted_fault_texts_of_another_record(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [Measured(f"r{i}", 1, 0, 0, "", "x", (1, 0, 0, 0)) for i in range(9)]
    found = collected(given)
    monkeypatch.setattr(records, "_TOGETHER", 4)  # not what they were packed by
    with pytest.raises((AssertionError, IndexError)):
        assert list(found) == given


def test_ids_are_known_again() -> None:
    names = [f"read{i}" for i in range(1_000)]
    ids = IdSet(
        np.sort(
            collected([Measured(n, 1, 0, 0, "", "x", (1, 0, 0, 0)) for n in names]).column("id")
        )
    )
    assert len(ids) == 1_000
    assert all(name in ids for name in names)
    assert not any(f"{name}." in ids for name in names)
    assert "x" not in IdSet(np.zeros(0, np.uint64))
