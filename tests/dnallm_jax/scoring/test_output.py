"""Is there exactly one row a record, in order, with the call that was asked for?"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.spooling import Spooled
from dnallm_jax.evaluation.calibration import Calibration, at_prevalence
from dnallm_jax.scoring import parts
from dnallm_jax.scoring.output import SHORT, Calls, Result, choose_calls, score_part
from dnallm_jax.scoring.parts import cut, worked
from tests.dnallm_jax.scoring.standin import Detector, record

DETECTOR = Detector()
CALLS = Calls(0.5)


def results(records: list[Spooled], calls: Calls = CALLS) -> list[Result]:
    return [row for _, rows in scored(records, calls) for row in rows]


def scored(
    records: Iterable[Spooled], calls: Calls = CALLS
) -> Iterator[tuple[parts.Part, list[Result]]]:
    return worked(functools.partial(score_part, DETECTOR, calls), cut(records))


def expected_status(number: int, records: list[Spooled], min_length: int) -> str:
    """The definition, without a table of hashes or a queue."""
    bases = records[number].bases
    if not bases:
        return "empty"
    if len(bases) < min_length:
        return "short"
    if not set(bases) & set(b"ACGT"):
        return "ambiguous"
    if any(earlier.id == records[number].id for earlier in records[:number]):
        return "duplicate_id"
    return "short" if len(bases) < 100 else "ok"


def faults(records: list[Spooled], rows: list[Result], min_length: int = 0) -> list[str]:
    """What is wrong with the rows for these records."""
    found = []
    if [row.sequence_id for row in rows] != [record.id for record in records]:
        found.append("ids")
    if [row.length for row in rows] != [len(record.bases) for record in records]:
        found.append("lengths")
    statuses = [expected_status(n, records, min_length) for n in range(len(records))]
    if [row.status for row in rows] != statuses:
        found.append("statuses")
    for row, of in zip(rows, records, strict=False):
        scored = bool(set(of.bases) & set(b"ACGT")) and len(of.bases) >= min_length
        wanted = Calibration().apply([of.bases.count(b"A") - 3.0], [100])[0] if scored else None
        if row.virus_score != wanted or row.is_virus != (None if wanted is None else wanted >= 0.5):
            found.append(f"score of {of.id}")
        if (row.strand_gap is None) == scored or (row.fraction_scored > 0) != scored:
            found.append(f"share or strand gap of {of.id}")
    return found


RECORDS = st.lists(
    st.builds(
        record,
        st.sampled_from(["a", "b", "a|b/1", "ß;7", '"', "N/A"]),
        st.sampled_from([b"", b"N", b"N" * 120, b"A" * 99, b"ACGT" * 25, b"ACGN" * 30, b"T"]),
    ),
    max_size=12,
)


@given(RECORDS, st.sampled_from([0, 1, 99, 100, 101]), st.sampled_from([1, 150, 10_000]))
def test_one_row_a_record_in_order(records: list[Spooled], min_length: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "FIRST", size)
        rows = results(records, Calls(0.5, min_length=min_length))
    assert faults(records, rows, min_length) == []


THREE = [record("a", b"ACGT" * 25), record("b", b""), record("a", b"AAAA" * 30), record("c", b"CC")]
FAULTY: dict[str, Callable[[list[Result]], list[Result]]] = {
    "drops what has no bases": lambda rows: [row for row in rows if row.length],
    "merges equal ids": lambda rows: list({row.sequence_id: row for row in rows}.values()),
    "sorts by length": lambda rows: sorted(rows, key=lambda row: row.length),
    "one too many": lambda rows: [*rows, rows[-1]],
    "says nothing of duplicates": lambda rows: [
        dataclasses.replace(row, status="ok") for row in rows
    ],
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_check_sees_planted_faults(name: str) -> None:
    rows = results(THREE)
    assert faults(THREE, rows) == []
    assert faults(THREE, FAULTY[name](rows)) != []


def test_statuses() -> None:
    assert [row.status for row in results(THREE)] == ["ok", "empty", "duplicate_id", "short"]
    assert SHORT == 100


# --- parts ----------------------------------------------------------------------------------------


def test_rows_come_before_the_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FIRST", 1)
    taken = []

    def records() -> Iterator[Spooled]:
        for number in range(100):
            taken.append(number)
            yield record(str(number), b"ACGT" * 1_000)

    answers = scored(records())
    next(answers)
    assert len(taken) < 10
    assert len(list(answers)) == len(list(cut(records()))) - 1


def test_parts_begin_where_the_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FIRST", 200)
    monkeypatch.setattr(parts, "LARGEST", 1_000)
    records = [record(str(number), b"ACGT" * (number % 40)) for number in range(100)]
    found = list(cut(records))
    assert [r for part in found for r in part.records] == records
    sizes = [sum(64 + len(r.bases) for r in part.records) for part in found]
    assert all(200 << n <= size < (200 << n) + 300 for n, size in enumerate(sizes[:3]))
    assert all(1_000 <= size < 1_300 for size in sizes[3:-1])
    assert [part.number for part in found] == list(range(len(found)))
    shorter = list(cut(records[:60]))
    assert [part.digest for part in shorter[:-1]] == [part.digest for part in found][
        : len(shorter) - 1
    ]


@pytest.mark.parametrize(
    "changed", [record("x", b"ACGT"), record("b", b"ACGA"), record("b", b"ACGT", "more")], ids=repr
)
def test_a_digest_is_of_all_that_is_written(changed: Spooled) -> None:
    first, last = record("a", b"ACGT"), record("b", b"ACGT")
    (part,), (other,) = cut([first, last]), cut([first, changed])
    assert part.digest != other.digest


def test_what_was_read_before_a_fault_is_scored() -> None:
    def records() -> Iterator[Spooled]:
        for number in range(40):
            yield record(str(number), b"ACGT" * 2_000)
        raise UserError("line 7: protein")

    found: list[Result] = []
    with pytest.raises(UserError, match="line 7"):
        found.extend(row for _, rows in scored(records()) for row in rows)
    assert 0 < len(found) < 40  # the records of the part that holds the fault are not


# --- calls ----------------------------------------------------------------------------------------

HELD = Detector(
    threshold_false_positive_rate=0.01, thresholds={"0.01": 0.5, "0.001": 0.9, "0.0001": None}
)


def test_without_wishes_the_bundle_decides() -> None:
    calls = choose_calls(HELD)
    assert calls == Calls(0.5, 0.01, 0.5, 0.5, 0)
    assert choose_calls(DETECTOR) == CALLS


def test_a_threshold_or_a_rate() -> None:
    assert choose_calls(HELD, threshold=0.25) == Calls(0.25)
    assert choose_calls(HELD, false_positive_rate=0.001) == Calls(0.9, 0.001)
    only = Detector(threshold_false_positive_rate=0.05)
    assert choose_calls(only, false_positive_rate=0.05) == Calls(0.5, 0.05)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"threshold": 0.5, "false_positive_rate": 0.01}, "one of them"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"prevalence": 0.0}, "between 0 and 1"),
        ({"min_length": -1}, "--min-length=-1"),
        ({"false_positive_rate": 0.02}, "the false-positive rates 0.001, 0.01; choose one"),
        ({"false_positive_rate": 0.0001}, "the false-positive rates 0.001, 0.01; choose one"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wish: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        choose_calls(HELD, **wish)


def test_a_bundle_without_rates_says_so() -> None:
    with pytest.raises(UserError, match="rates none"):
        choose_calls(DETECTOR, false_positive_rate=0.01)


RICH = [record(str(number), b"A" * (1 + number) + b"C" * 200) for number in range(6)]


def test_another_prevalence_changes_scores_and_no_call() -> None:
    even, rare = (results(RICH, choose_calls(HELD, prevalence=share)) for share in (None, 0.01))
    assert [row.is_virus for row in rare] == [row.is_virus for row in even]
    assert {row.is_virus for row in even} == {False, True}
    for one, other in zip(even, rare, strict=True):
        odds = one.virus_score / (1 - one.virus_score) * 0.01 / 0.99
        assert other.virus_score == pytest.approx(odds / (1 + odds))


def test_a_threshold_of_ones_own_is_of_the_scores_reported() -> None:
    calls = choose_calls(HELD, threshold=0.05, prevalence=0.01)
    assert calls.threshold == 0.05
    rows = results(RICH, calls)
    assert [row.is_virus for row in rows] == [row.virus_score >= 0.05 for row in rows]
    assert {row.is_virus for row in rows} == {False, True}
    assert rows[0].virus_score == at_prevalence(results(RICH)[0].virus_score, 0.01)
