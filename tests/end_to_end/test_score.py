"""Does `score` answer for every record of any input, in order, on any number of devices?"""

import csv
import gzip
import io
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow.parquet
import pytest

from tests.dnallm_jax.bundles import random_bases
from tests.dnallm_jax.tiny import SPEC
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
OPTIONS = ("--threads=2", "--batch-size=4096", "--fpr=0.05")
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
        *("score", f"--bundle={bundle}", "--output=out/scores.tsv", "--fasta-out=out/viral.fa.gz"),
        *("--summary=out/summary.html", "--regions=out/where.bed"),
        *("--embeddings=out/vectors.parquet", *OPTIONS, "a.fa", "b.fa.gz"),
        folder=folder,
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    rows = rows_of((folder / "out" / "scores.tsv").read_text(encoding="utf-8"))
    viral = [row["sequence_id"] for row in rows if row["is_virus"] == "1"]
    assert ended.stderr == (f"7 records (1,761 bases): 5 scored, {len(viral)} called viral\n")
    names = ["scores.tsv", "scores.tsv.provenance.json", "summary.html", "vectors.parquet"]
    names += ["viral.fa.gz", "where.bed"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == names
    provenance = json.loads((folder / "out" / names[1]).read_text())
    assert provenance["bundle"] == json.loads((bundle / "manifest.json").read_text())["sha256"]
    assert provenance["command"] == (
        f"python main.py score --batch-size=4096 --bundle={bundle} --fpr=0.05 --threads=2 "
        "a.fa b.fa.gz"
    )
    called = gzip.decompress((folder / "out" / "viral.fa.gz").read_bytes()).decode().splitlines()
    assert [line for line in called if line.startswith(">")] == [
        f">{name} about it" for name in viral
    ]
    regions = (folder / "out" / "where.bed").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in regions] == viral
    vectors = pyarrow.parquet.read_table(folder / "out" / "vectors.parquet").to_pylist()
    assert [row["sequence_id"] for row in vectors] == [name for name, _ in RECORDS]
    sizes = [len(row["embedding"]) if row["embedding"] else None for row in vectors]
    assert sizes == [SPEC.width if row["virus_score"] else None for row in rows]
    return rows


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


def test_two_processes_make_the_table_of_one(
    started: "Start", program: Program, bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # Records without bases fill parts, too, and cost nothing to score.
    empty = [(f"e{number}", b"") for number in range(3_100)]
    (tmp_path / "many.fa").write_bytes(fasta([*RECORDS, *empty[:1_100], *RECORDS, *empty]))
    words = ("--fasta-out=viral.fa", "--regions=where.bed", *OPTIONS, "many.fa")
    ended = program("score", f"--bundle={bundle}", "--output=one.tsv", *words, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    alone = {name: (tmp_path / name).read_bytes() for name in ("viral.fa", "where.bed")}
    for name in alone:
        (tmp_path / name).unlink()
    both = [started("--output=two.tsv", "--processes=2", f"--process={n}", *words) for n in (0, 1)]
    told = [process.communicate(timeout=200)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    for name, data in alone.items():
        assert (tmp_path / name).read_bytes() == data, name
    for end in ("", ".provenance.json"):
        one, two = (tmp_path / f"{name}.tsv{end}" for name in ("one", "two"))
        assert two.read_bytes() == one.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.tsv*")) == [
        f"{name}.tsv{end}" for name in ("one", "two") for end in ("", ".provenance.json")
    ]
    assert any("4,214 records (3,522 bases): 10 scored" in each for each in told)


API = """
from data_pipeline.reading import read_records
from dnallm_jax import Detector
from dnallm_jax.scoring.formats import tsv_line
detector = Detector.load({bundle!r}, false_positive_rate=0.05, batch_size="4096")
records = read_records(["a.fa"], strict=False)
print("".join(map(tsv_line, detector.score(records))), end="")
"""


def test_the_python_api_says_what_the_command_says(
    bundle: pathlib.Path,
    environment: dict[str, str],
    tmp_path: pathlib.Path,
    scored: list[dict[str, str]],
) -> None:
    (tmp_path / "a.fa").write_bytes(fasta(RECORDS))
    ended = subprocess.run(
        [sys.executable, "-c", API.format(bundle=str(bundle))],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "NPROC": "2"},
        check=True,
        capture_output=True,
    )
    assert ended.stdout.decode().splitlines() == ["\t".join(row.values()) for row in scored]


@pytest.fixture
def started(
    bundle: pathlib.Path, environment: dict[str, str], tmp_path: pathlib.Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a program that scores RECORDS; what still runs at the end is killed."""
    (tmp_path / "a.fa").write_bytes(fasta(RECORDS))
    processes = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        processes.append(
            subprocess.Popen(
                [sys.executable, ROOT / "main.py", "score", f"--bundle={bundle}", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.PIPE,
                cwd=tmp_path,
                env=environment,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


Start = Callable[..., subprocess.Popen[bytes]]


def test_a_reader_that_leaves_is_no_error(started: Start) -> None:
    process = started("a.fa")
    process.stdout.close()  # as `head` does when it has seen enough
    process.stdout = None
    _, told = process.communicate(timeout=200)
    # By the signal, which a shell tells as 141; on a terminal it is not told at all.
    assert (process.returncode, told) == (-signal.SIGPIPE, b"")


def test_a_run_that_is_interrupted_goes_on(
    started: Start, tmp_path: pathlib.Path, scored: list[dict[str, str]]
) -> None:
    # Standard input is read in blocks of a MiB; the rest of it never comes.
    padding = b"".join(b">%d %s\n" % (number, b"x" * 600_000) for number in range(2))
    given = (tmp_path / "a.fa").read_bytes() + padding
    stopped = started(*OPTIONS, "--output=scores.tsv.gz", "-")
    stopped.stdin.write(given)
    stopped.stdin.flush()
    while not (tmp_path / "scores.tsv.gz.journal").exists():
        assert stopped.poll() is None
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate(timeout=60)
    assert stopped.returncode == -signal.SIGINT
    assert told.decode().splitlines()[-1] == (
        "scores.tsv.gz: stopped; the same command with --resume goes on"
    )
    assert not (tmp_path / "scores.tsv.gz").exists()
    resumed = started(*OPTIONS, "--output=scores.tsv.gz", "--quiet", "--resume", "-")
    assert resumed.communicate(given, timeout=200) == (b"", b"")
    with gzip.open(tmp_path / "scores.tsv.gz", "rt", encoding="utf-8") as file:
        assert rows_of(file.read())[:-2] == scored
    names = ["scores.tsv.gz", "scores.tsv.gz.provenance.json"]
    assert sorted(path.name for path in tmp_path.glob("scores*")) == names
