"""Does a run that was killed end with the bytes of one that never was, and refuse what it must?"""

import os
import pathlib
import subprocess
import sys

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.scoring.journal import Journal, Output

ROOT = pathlib.Path(__file__).resolve().parents[3]
KILLED = pathlib.Path(__file__).with_name("killed.py")


def killed(*words: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(
        [sys.executable, KILLED, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


# At every line (step 1) all of them hold, too: 935, 1,246 and 1,056 kills.
@pytest.mark.parametrize(("ending", "step"), [("tsv", 101), ("jsonl.gz", 151), ("parquet", 127)])
def test_killed_anywhere_and_resumed_gives_the_same_bytes(
    tmp_path: pathlib.Path, ending: str, step: int
) -> None:
    ended = killed(ending, tmp_path, str(step), "none")
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[1]) > 2


# ... and of two processes at every 13th: 152 kills.
def test_two_processes_killed_anywhere_make_the_table_of_one(tmp_path: pathlib.Path) -> None:
    ended = killed("tsv", tmp_path, "211", "none", "2")
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[1]) > 2


@pytest.mark.parametrize(
    "fault", [("keeps what follows",), ("begins at the last part",), ("turns parts round", "2")]
)
def test_the_check_of_kills_sees_planted_faults(
    tmp_path: pathlib.Path, fault: tuple[str, ...]
) -> None:
    ended = killed("tsv", tmp_path, "101", *fault)
    assert ended.returncode != 0
    assert "AssertionError: line " in ended.stderr


# --- what is left, and what is refused ------------------------------------------------------------

IDENTITY = {"bundle": "b", "threshold": 0.9}


def outputs(folder: pathlib.Path) -> list[Output]:
    return [Output(folder / "rows.tsv", b"head\n"), Output(folder / "more" / "viral.fa")]


@pytest.fixture
def stopped(tmp_path: pathlib.Path) -> pathlib.Path:
    """What a run leaves that was killed after a commit, in the middle of a write."""
    with Journal(outputs(tmp_path), IDENTITY, resume=False) as journal:
        journal.write(tmp_path / "rows.tsv", [b"one\n"])
        journal.commit(1, "d1", {"records": 1})
        journal.write(tmp_path / "rows.tsv", [b"tw"])
    with journal.path.open("ab") as file:
        file.write(b'{"parts": 2, "dig')
    return tmp_path


def test_a_run_goes_on_where_the_journal_says(stopped: pathlib.Path) -> None:
    with Journal(outputs(stopped), IDENTITY, resume=True) as journal:
        assert (journal.done.parts, journal.done.digest) == (1, "d1")
        assert journal.done.tally == {"records": 1}
        assert not (stopped / "rows.tsv").exists()
        journal.write(stopped / "rows.tsv", [b"two\n"])
        journal.commit(2, "d2", {}, complete=True)
        journal.finish({stopped / "rows.json": b"{}"})
    assert (stopped / "rows.tsv").read_bytes() == b"head\none\ntwo\n"
    assert sorted(path.name for path in stopped.iterdir()) == ["more", "rows.json", "rows.tsv"]
    assert [path.name for path in (stopped / "more").iterdir()] == ["viral.fa"]


def test_without_resume_a_run_begins_anew(stopped: pathlib.Path) -> None:
    with Journal(outputs(stopped), IDENTITY, resume=False) as journal:
        assert journal.done.parts == 0
        journal.commit(0, "", {}, complete=True)
        journal.finish({})
    assert (stopped / "rows.tsv").read_bytes() == b"head\n"


def test_resume_without_a_run_before_begins(tmp_path: pathlib.Path) -> None:
    with Journal(outputs(tmp_path), IDENTITY, resume=True) as journal:
        assert journal.done.parts == 0


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        ({"bundle": "c", "threshold": 0.9}, "had bundle='b', now 'c'; give the same command"),
        ({"bundle": "b", "threshold": 0.8}, "had threshold=0.9, now 0.8"),
        ({"bundle": "b"}, "had threshold=0.9, now None"),
        ({**IDENTITY, "new": 1}, "had new=None, now 1"),
    ],
)
def test_another_run_is_refused(stopped: pathlib.Path, identity: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Journal(outputs(stopped), identity, resume=True).__enter__()
    assert (stopped / "rows.tsv.partial").read_bytes() == b"head\none\ntw", "it can still go on"


@pytest.mark.parametrize("content", [b"head\nOne\ntw", b"head\none", None])
def test_a_partial_file_that_changed_is_refused(
    stopped: pathlib.Path, content: bytes | None
) -> None:
    partial = stopped / "rows.tsv.partial"
    partial.unlink() if content is None else partial.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.tsv\.partial: (is missing|has changed)"):
        Journal(outputs(stopped), IDENTITY, resume=True).__enter__()


def test_two_writers_of_one_output_are_refused(tmp_path: pathlib.Path) -> None:
    with Journal(outputs(tmp_path), IDENTITY, resume=False):
        with pytest.raises(UserError, match=r"rows\.tsv: another process is writing it"):
            Journal(outputs(tmp_path), IDENTITY, resume=True).__enter__()
        assert (tmp_path / "rows.tsv.partial").exists()


def test_a_fault_before_the_first_commit_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rows.tsv").write_text("of an earlier run")
    with pytest.raises(KeyError), Journal(outputs(tmp_path), IDENTITY, resume=False):
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["rows.tsv"]
    assert (tmp_path / "rows.tsv").read_text() == "of an earlier run"


def test_a_fault_later_says_what_is_kept(tmp_path: pathlib.Path) -> None:
    def fails(*, resume: bool) -> None:
        with Journal(outputs(tmp_path), IDENTITY, resume=resume) as journal:
            if not resume:
                journal.commit(1, "d", {})
            assert journal.done.parts == 1
            raise UserError("line 7")

    with pytest.raises(UserError, match=r"^line 7; what was scored before is kept: .* --resume"):
        fails(resume=False)
    with pytest.raises(UserError, match=r"^line 7$"):
        fails(resume=True)


def test_places_that_cannot_be_written_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "scores.tsv"):
        with pytest.raises(UserError, match=rf"^{path}: cannot be written \(.+\); choose another"):
            Journal([Output(path)], {}, resume=False).__enter__()
    both = [Output(tmp_path / "rows.tsv"), Output(tmp_path / "file" / "viral.fa")]
    with pytest.raises(UserError, match=r"file/viral\.fa: cannot be written"):
        Journal(both, {}, resume=False).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rows.tsv.partial").symlink_to("/dev/full")
    with (
        pytest.raises(UserError, match=r"rows\.tsv: cannot be written \(No space left on device\)"),
        Journal([Output(tmp_path / "rows.tsv")], {}, resume=False) as journal,
    ):
        journal.write(tmp_path / "rows.tsv", [b"x" * 100_000])
