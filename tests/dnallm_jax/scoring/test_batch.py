"""Do scores reach their files whole, with what was asked for beside them, or not at all?"""

import contextlib
import gzip
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator

import pytest

from data_pipeline.errors import UserError
from data_pipeline.spooling import Spooled
from dnallm_jax.scoring import batch, parts
from dnallm_jax.scoring.batch import Targets, score_to_files, score_to_stream
from dnallm_jax.scoring.formats import choose_format
from dnallm_jax.scoring.output import COLUMNS, Calls
from dnallm_jax.scoring.progress import Progress, told
from dnallm_jax.scoring.tally import Tally
from tests.dnallm_jax.scoring.standin import Detector, record

RECORDS = [
    record("a", b"AAAA" * 25, "viral"),
    record("b", b""),
    record("a", b"CCCC" * 30),
    record("ß;7", b"AAAAAc", "viral, too"),
]
TSV = (
    "\t".join(COLUMNS) + "\n"
    "a\t100\t1.000000\t1\t1\t1.0000\t0.2500\tok\n"
    "b\t0\t\t\t0\t0.0000\t\tempty\n"
    "a\t120\t0.047426\t0\t1\t1.0000\t0.2500\tduplicate_id\n"
    "ß;7\t6\t0.880797\t1\t1\t1.0000\t0.2500\tshort\n"
).encode()
PROVENANCE = {"version": "1", "bundle": "0" * 64, "threshold": 0.5, "prevalence": 0.5}
PROVENANCE |= {"false_positive_rate": None, "min_length": 0, "command": "score"}


def targets(folder: pathlib.Path, name: str = "scores.tsv", **more: str) -> Targets:
    path = str(folder / name)
    return Targets(
        path, choose_format(path), **{key: str(folder / value) for key, value in more.items()}
    )


def score(
    where: Targets,
    records: Iterable[Spooled] = RECORDS,
    *,
    resume: bool = False,
    **identity: object,
) -> Tally:
    return score_to_files(
        Detector(),
        Calls(0.5),
        records,
        where,
        Progress([], quiet=True),
        provenance=PROVENANCE,
        identity=identity,
        resume=resume,
    )[0]


def test_all_files_of_a_run(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "new"
    where = targets(folder, fasta="viral.fa.gz", summary="summary.html", regions="where.bed")
    tally = score(where)
    assert (folder / "scores.tsv").read_bytes() == TSV
    called = b">a viral\n" + b"A" * 80 + b"\n" + b"A" * 20 + ">\nß;7 viral, too\nAAAAAc\n".encode()
    assert gzip.decompress((folder / "viral.fa.gz").read_bytes()).replace(b"\n", b"") == (
        called.replace(b"\n", b"")
    )
    assert json.loads((folder / "scores.tsv.provenance.json").read_text()) == PROVENANCE
    assert "<svg" in (folder / "summary.html").read_text()
    bed = "a\t0\t100\tvirus\t1000\nß;7\t0\t6\tvirus\t881\n"
    assert (folder / "where.bed").read_text(encoding="utf-8") == bed
    names = ["scores.tsv", "scores.tsv.provenance.json", "summary.html", "viral.fa.gz", "where.bed"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert tally.told() == "4 records (226 bases): 3 scored, 2 called viral"


def test_embeddings_need_a_language_model(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--embeddings: this detector has no language model"):
        score(targets(tmp_path, embeddings="vectors.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_parquet_has_nothing_beside_it(tmp_path: pathlib.Path) -> None:
    score(targets(tmp_path, "scores.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_file_appears_when_its_last_row_is_there(tmp_path: pathlib.Path) -> None:
    def records() -> Iterator[Spooled]:
        for one in RECORDS:
            assert not (tmp_path / "scores.tsv").exists()
            yield one

    score(targets(tmp_path), records())
    assert (tmp_path / "scores.tsv").read_bytes() == TSV


@pytest.mark.parametrize("error", [UserError("bad"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_run_that_fails_soon_leaves_nothing(tmp_path: pathlib.Path, error: Exception) -> None:
    def records() -> Iterator[Spooled]:
        yield from RECORDS
        raise error

    with pytest.raises(type(error)):
        score(targets(tmp_path), records())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stopped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Targets:
    """What a run leaves whose input had a fault in its last part."""
    monkeypatch.setattr(parts, "FIRST", 64)
    monkeypatch.setattr(parts, "LARGEST", 64)
    monkeypatch.setattr(batch, "COMMIT_EVERY", 0.0)

    def records() -> Iterator[Spooled]:
        yield from RECORDS[:3]
        raise UserError("line 7")

    with pytest.raises(UserError, match=r"line 7; what was scored before is kept"):
        score(targets(tmp_path), records(), device="cpu")
    return targets(tmp_path)


def test_a_fault_that_was_mended_is_gone_on_from(stopped: Targets) -> None:
    score(stopped, resume=True, device="cpu")
    assert pathlib.Path(stopped.rows).read_bytes() == TSV


@pytest.mark.parametrize(
    "records",
    [
        RECORDS[1:],
        RECORDS[:2],
        [*RECORDS[:2], record("a", b"CCCC" * 29 + b"CCCG"), RECORDS[3]],
        [*RECORDS[:1], record("B", b""), *RECORDS[2:]],
    ],
)
def test_other_inputs_are_refused(stopped: Targets, records: list[Spooled]) -> None:
    with pytest.raises(UserError, match="the inputs are not those of the run that was stopped"):
        score(stopped, records, resume=True, device="cpu")
    score(stopped, resume=True, device="cpu")
    assert pathlib.Path(stopped.rows).read_bytes() == TSV


def test_another_machine_is_refused(stopped: Targets) -> None:
    with pytest.raises(UserError, match="had device='cpu', now 'tpu'"):
        score(stopped, resume=True, device="tpu")


# --- names ----------------------------------------------------------------------------------------


def test_names_that_overwrite_each_other_are_refused(tmp_path: pathlib.Path) -> None:
    given = tmp_path / "given.fa"
    given.write_bytes(b">a\nA\n")
    (tmp_path / "link.fa").symlink_to(given)
    cases = [
        (targets(tmp_path, "given.fa"), "--output=.*given.fa is also an input"),
        (targets(tmp_path, fasta="link.fa"), "--fasta-out=.*link.fa is also an input"),
        (targets(tmp_path, fasta="scores.tsv"), "--fasta-out=.* is also --output"),
        (targets(tmp_path, fasta="x", summary="x"), "--summary=.* is also --fasta-out"),
    ]
    for where, message in cases:
        with pytest.raises(UserError, match=message):
            where.check([str(given)], resume=False)
    targets(tmp_path, fasta="x", summary="y").check([str(given), "-"], resume=True)


def test_what_needs_a_file_is_refused_on_standard_output() -> None:
    for where, resume, flag in [
        (Targets("-", choose_format("-"), fasta="x"), False, "--fasta-out"),
        (Targets("-", choose_format("-"), summary="x"), False, "--summary"),
        (Targets("-", choose_format("-", "parquet")), False, "--format=parquet"),
        (Targets("-", choose_format("-")), True, "--resume"),
    ]:
        with pytest.raises(UserError, match=f"^{flag} needs rows in a file"):
            where.check([], resume=resume)
    Targets("-", choose_format("-", "jsonl")).check([], resume=False)


# --- streams --------------------------------------------------------------------------------------


def stream(where: Targets) -> Tally:
    return score_to_stream(Detector(), Calls(0.5), RECORDS, where, Progress([], quiet=True))


def test_a_pipe_stays_what_it_is(tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe.tsv.gz"
    os.mkfifo(pipe)
    where = targets(tmp_path, "pipe.tsv.gz")
    assert where.streamed
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert stream(where).total("records") == 4
    reader.join()
    assert gzip.decompress(read[0]) == TSV
    assert pipe.is_fifo()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_device_is_named() -> None:
    with pytest.raises(UserError, match=r"/dev/full: cannot be written \(No space left on device"):
        stream(Targets("/dev/full", choose_format("-")))


def test_rows_on_standard_output() -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as file, contextlib.redirect_stdout(file):
        stream(Targets("-", choose_format("-")))
    with open(reading, "rb") as file:
        assert file.read() == TSV


def test_progress_tells_what_is_done_and_left() -> None:
    assert (
        told(2_000_000, 1_000_000, 10.0, 32_000_000) == "2.0 of 32.0 Mbp, 0.1 Mbp/s, 0:05:00 left"
    )
    assert told(2_000_000, 2_000_000, 1.0, None) == "2.0 Mbp, 2 Mbp/s"
