"""Is there exactly one row a record, in order, and is a file there whole or not at all?"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.reading import Record
from dnallm_jax.evaluation.calibration import Calibration
from dnallm_jax.scoring.bundle import Detector
from dnallm_jax.scoring.output import COLUMNS, SHORT, Result, results, write_tsv
from dnallm_jax.scoring.scorer import Scored


class GroupingScorer:
    """Takes three sequences at a time, as the real one takes megabases; likes A."""

    def score(self, sequences: Iterable[bytes]) -> Iterator[Scored]:
        group: list[bytes] = []
        for sequence in sequences:
            group.append(sequence)
            if len(group) == 3:
                yield from map(self.one, group)
                group = []
        yield from map(self.one, group)

    @staticmethod
    def one(sequence: bytes) -> Scored:
        known = sum(letter in b"ACGTacgt" for letter in sequence)
        windows = int(bool(sequence))
        if not known:
            return Scored(float("nan"), windows, 0.0, float("nan"))
        return Scored(sequence.count(b"A") - 3.0, windows, known / len(sequence), 0.25)


DETECTOR = Detector(GroupingScorer(), Calibration(), 0.5, {})  # type: ignore[arg-type]  # a stand-in


def record(name: str, bases: bytes) -> Record:
    return Record(name, "", bases)


def expected_status(number: int, records: list[Record]) -> str:
    """The definition, without a table of hashes or a queue."""
    bases = records[number].bases
    if not bases:
        return "empty"
    if not set(bases) & set(b"ACGT"):
        return "ambiguous"
    if any(earlier.id == records[number].id for earlier in records[:number]):
        return "duplicate_id"
    return "short" if len(bases) < 100 else "ok"


def faults(records: list[Record], rows: list[Result]) -> list[str]:
    """What is wrong with the rows for these records."""
    found = []
    if [row.sequence_id for row in rows] != [record.id for record in records]:
        found.append("ids")
    if [row.length for row in rows] != [len(record.bases) for record in records]:
        found.append("lengths")
    if [row.status for row in rows] != [expected_status(n, records) for n in range(len(records))]:
        found.append("statuses")
    for row, of in zip(rows, records, strict=False):
        scored = bool(set(of.bases) & set(b"ACGT"))
        wanted = Calibration().apply([of.bases.count(b"A") - 3.0], [100])[0] if scored else None
        if row.virus_score != wanted or row.is_virus != (None if wanted is None else wanted >= 0.5):
            found.append(f"score of {of.id}")
        if (row.strand_gap is None) == scored:
            found.append(f"strand gap of {of.id}")
    return found


RECORDS = st.lists(
    st.builds(
        record,
        st.sampled_from(["a", "b", "a|b/1", "ß;7", '"', "N/A"]),
        st.sampled_from([b"", b"N", b"N" * 120, b"A" * 99, b"ACGT" * 25, b"ACGN" * 30, b"T"]),
    ),
    max_size=12,
)


@given(RECORDS)
def test_one_row_a_record_in_order(records: list[Record]) -> None:
    rows = list(results(DETECTOR, iter(records)))
    assert faults(records, rows) == []
    assert all(len(row.tsv().split("\t")) == len(COLUMNS) for row in rows)


THREE = [record("a", b"ACGT" * 25), record("b", b""), record("a", b"AAAA" * 30), record("c", b"CC")]
FAULTY: dict[str, Callable[[list[Result]], list[Result]]] = {
    "drops what has no bases": lambda rows: [row for row in rows if row.length],
    "merges equal ids": lambda rows: list({row.sequence_id: row for row in rows}.values()),
    "sorts by length": lambda rows: sorted(rows, key=lambda row: row.length),
    "one too many": lambda rows: [*rows, rows[-1]],
    "says nothing of duplicates": lambda rows: [
        Result(**{**{name: getattr(row, name) for name in COLUMNS}, "status": "ok"}) for row in rows
    ],
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_check_sees_planted_faults(name: str) -> None:
    rows = list(results(DETECTOR, THREE))
    assert faults(THREE, rows) == []
    assert faults(THREE, FAULTY[name](rows)) != []


def test_rows_as_text() -> None:
    rows = [row.tsv().split("\t") for row in results(DETECTOR, THREE)]
    assert [dict(zip(COLUMNS, row, strict=True)) for row in rows[:2]] == [
        {
            "sequence_id": "a",
            "length": "100",
            "virus_score": "1.000000",
            "is_virus": "1",
            "n_windows": "1",
            "fraction_scored": "1.0000",
            "strand_gap": "0.2500",
            "status": "ok",
        },
        {
            "sequence_id": "b",
            "length": "0",
            "virus_score": "",
            "is_virus": "",
            "n_windows": "0",
            "fraction_scored": "0.0000",
            "strand_gap": "",
            "status": "empty",
        },
    ]
    assert [row[-1] for row in rows] == ["ok", "empty", "duplicate_id", "short"]
    assert SHORT == 100


def test_rows_come_before_the_input_ends() -> None:
    taken = []

    def records() -> Iterator[Record]:
        for number in range(10):
            taken.append(number)
            yield record(str(number), b"ACGT")

    next(results(DETECTOR, records()))
    assert len(taken) == 3


# --- files ----------------------------------------------------------------------------------------


def written(rows: list[Result]) -> str:
    return "".join(line + "\n" for line in ("\t".join(COLUMNS), *(row.tsv() for row in rows)))


def breaking(rows: list[Result], error: Exception) -> Iterator[Result]:
    """Some rows, then what a damaged input raises."""
    yield from rows
    raise error


def test_a_file_is_written_whole(tmp_path: pathlib.Path) -> None:
    rows = list(results(DETECTOR, [*THREE, record("ß;7", b"ACGT")]))
    target = tmp_path / "new" / "scores.tsv"
    assert write_tsv(str(target), iter(rows)) == 5
    assert target.read_bytes().decode("utf-8") == written(rows)
    assert write_tsv(str(target), iter(rows[:1])) == 1
    assert target.read_text() == written(rows[:1])
    assert [path.name for path in target.parent.iterdir()] == ["scores.tsv"]


def test_a_file_appears_when_its_last_row_is_there(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "scores.tsv"

    def rows() -> Iterator[Result]:
        for row in results(DETECTOR, THREE):
            assert not target.exists()
            yield row

    write_tsv(str(target), rows())
    assert target.exists()


@pytest.mark.parametrize("error", [UserError("bad"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_run_that_fails_leaves_nothing(tmp_path: pathlib.Path, error: Exception) -> None:
    rows = list(results(DETECTOR, THREE))
    with pytest.raises(type(error)):
        write_tsv(str(tmp_path / "scores.tsv"), breaking(rows, error))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "scores.tsv").write_text("of an earlier run")
    with pytest.raises(type(error)):
        write_tsv(str(tmp_path / "scores.tsv"), breaking(rows, error))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of an earlier run"]


def test_places_that_cannot_be_written_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "scores.tsv"):
        with pytest.raises(UserError, match=rf"^{path}: cannot be written \(.+\); choose another"):
            write_tsv(str(path), iter([]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        write_tsv("/dev/full", results(DETECTOR, THREE))


def test_a_device_or_a_pipe_stays_what_it_is(tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    rows = list(results(DETECTOR, THREE))
    assert write_tsv(str(pipe), rows) == 4
    reader.join()
    assert read == [written(rows)]
    assert pipe.is_fifo()


# --- standard output ------------------------------------------------------------------------------


@contextlib.contextmanager
def piped() -> Iterator[int]:
    """Standard output is a pipe; gives the descriptor of the end that is read."""
    reading, writing = os.pipe()
    with open(writing, "w") as file, contextlib.redirect_stdout(file):
        yield reading


def test_rows_on_standard_output() -> None:
    rows = list(results(DETECTOR, THREE))
    with piped() as reading:
        assert write_tsv("-", rows) == 4
    with open(reading, encoding="utf-8") as file:
        assert file.read() == written(rows)


def test_a_reader_that_has_gone_ends_the_program() -> None:
    with piped() as reading:
        os.close(reading)
        with pytest.raises(SystemExit) as ended:
            write_tsv("-", results(DETECTOR, THREE))
    assert ended.value.code == 141
