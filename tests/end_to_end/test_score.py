"""Does `score` answer for every record of any input, in order, on any number of devices?"""

import csv
import gzip
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.dnallm_jax.bundles import random_bases
from tests.end_to_end.conftest import ROOT, Program

# Record ids and bases; the ids are as odd as FASTA allows.
RECORDS = [
    ("contig_1", random_bases(700, 1)),
    ("sp|P0;x=1/2", random_bases(301, 2)),
    ("short", random_bases(60, 3)),
    ("n", b"N" * 200),
    ("none", b""),
    ("contig_1", random_bases(300, 4)),
    ('"quoted",ß', random_bases(150, 5) + b"N" * 50),
]
STATUSES = ["ok", "ok", "short", "ambiguous", "empty", "duplicate_id", "ok"]


def fasta(records: list[tuple[str, bytes]]) -> bytes:
    return b"".join(b">%s about it\n%s\n" % (name.encode(), bases) for name, bases in records)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def scored(
    program: Program, bundle: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """The rows for RECORDS, read from two files, one of them packed."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "a.fa").write_bytes(fasta(RECORDS[:3]))
    (folder / "b.fa.gz").write_bytes(gzip.compress(fasta(RECORDS[3:])))
    ended = program(
        "score", f"--bundle={bundle}", "--output=out/scores.tsv", "a.fa", "b.fa.gz", folder=folder
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert ended.stderr == "7 records scored\n"
    assert [path.name for path in (folder / "out").iterdir()] == ["scores.tsv"]
    return rows_of((folder / "out" / "scores.tsv").read_text(encoding="utf-8"))


def test_one_row_a_record_in_input_order(scored: list[dict[str, str]]) -> None:
    assert [row["sequence_id"] for row in scored] == [name for name, _ in RECORDS]
    assert [int(row["length"]) for row in scored] == [len(bases) for _, bases in RECORDS]
    assert [row["status"] for row in scored] == STATUSES
    assert [row["n_windows"] for row in scored] == ["3", "2", "1", "1", "0", "1", "1"]
    assert [row["fraction_scored"] for row in scored][-1] == "0.7500"
    for row, (_, bases) in zip(scored, RECORDS, strict=True):
        has_bases = bool(set(bases) & set(b"ACGT"))
        assert (row["virus_score"] != "") == has_bases
        if has_bases:
            assert 0 <= float(row["virus_score"]) <= 1
            assert row["is_virus"] in ("0", "1")


def test_standard_input_and_eight_devices_give_the_same(
    program: Program, bundle: pathlib.Path, scored: list[dict[str, str]]
) -> None:
    ended = program("score", f"--bundle={bundle}", "--devices=8", "-", given=fasta(RECORDS))
    assert ended.returncode == 0, ended.stderr
    again = rows_of(ended.stdout)
    exact = [name for name in scored[0] if name not in ("virus_score", "strand_gap")]
    for name in exact:
        assert [row[name] for row in again] == [row[name] for row in scored], name
    for name in ("virus_score", "strand_gap"):
        found, expected = (
            np.array([float(row[name] or "nan") for row in rows]) for rows in (again, scored)
        )
        # One more than the last digit printed.
        np.testing.assert_allclose(found, expected, atol=1.1e-4 if name == "strand_gap" else 1e-5)


def test_a_reader_that_leaves_is_no_error(
    bundle: pathlib.Path, environment: dict[str, str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a.fa").write_bytes(fasta(RECORDS))
    process = subprocess.Popen(
        [sys.executable, ROOT / "main.py", "score", f"--bundle={bundle}", tmp_path / "a.fa"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.close()  # as `head` does when it has seen enough
    process.stdout = None
    _, told = process.communicate(timeout=200)
    assert (process.returncode, told) == (141, b"")
