"""Can a half-written, foreign or contested data set ever pass for a whole one?"""

import os
import pathlib
import subprocess
import sys

import pytest

from data_pipeline import datasets
from data_pipeline.errors import UserError


def test_fingerprint_depends_on_content_not_on_order() -> None:
    one = datasets.fingerprint({"a": 1, "b": [1, 2]})
    assert one == datasets.fingerprint({"b": [1, 2], "a": 1})
    assert one != datasets.fingerprint({"a": 1, "b": [2, 1]})
    assert len(one) == 64


def test_sources_are_described_by_content(tmp_path: pathlib.Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.fa").write_text(">a\nACGT\n")
    paths = [str(tmp_path / folder / "x.fa") for folder in ("here", "there")]
    here, there = datasets.describe_sources(paths)
    assert here["bytes"] == 8
    assert datasets.contents([here]) == datasets.contents([there])
    (tmp_path / "there" / "x.fa").write_text(">a\nACGA\n")
    assert datasets.contents([here]) != datasets.contents(datasets.describe_sources(paths[1:]))
    with pytest.raises(UserError, match="save this one to a file first"):
        datasets.describe_sources(["-"])


def test_by_shard_shares_one_pass() -> None:
    numbered = iter([(0, "a"), (0, "b"), (1, "c"), (2, "d")])
    assert [list(items) for items in datasets.by_shard(numbered, 3)] == [["a", "b"], ["c"], ["d"]]
    with pytest.raises(RuntimeError, match="shard 2 comes where shard 1 should"):
        [list(items) for items in datasets.by_shard(iter([(0, "a"), (2, "d")]), 2)]


def test_one_writer_at_a_time(tmp_path: pathlib.Path) -> None:
    with datasets.sole_writer(str(tmp_path)):
        second = datasets.sole_writer(str(tmp_path))
        with pytest.raises(UserError, match=rf"process {os.getpid()}\); wait"), second:
            pass
        with datasets.sole_writer(str(tmp_path / "other")):
            pass
    with datasets.sole_writer(str(tmp_path)):
        pass


def test_a_killed_writer_holds_nothing(tmp_path: pathlib.Path) -> None:
    code = (
        "import os, sys; from data_pipeline import datasets\n"
        "with datasets.sole_writer(sys.argv[1]): print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == -9
    assert done.stdout == "held\n"
    with datasets.sole_writer(str(tmp_path)):
        pass


def test_pointer_and_files(tmp_path: pathlib.Path) -> None:
    data_dir = str(tmp_path)
    pointer = str(tmp_path / "corpus.json")
    with pytest.raises(UserError, match=r"corpus.json: no such file"):
        datasets.open_pointer(data_dir, "corpus.json")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "shard").write_bytes(b"12345")
    manifest = {
        "fingerprint": "f",
        "folder": "d",
        "files": datasets.sizes_of_files(str(tmp_path / "d")),
    }
    datasets.write_pointer(pointer, manifest)
    assert datasets.open_pointer(data_dir, "corpus.json") == manifest
    assert datasets.is_whole(data_dir, "corpus.json", "f")
    assert not datasets.is_whole(data_dir, "corpus.json", "g")
    (tmp_path / "d" / "shard").write_bytes(b"1234")  # planted fault: cut short
    assert not datasets.is_whole(data_dir, "corpus.json", "f")
    with pytest.raises(UserError, match="shard: missing or cut short"):
        datasets.open_pointer(data_dir, "corpus.json")
    (tmp_path / "corpus.json").write_text('{"fingerprint": ')
    with pytest.raises(UserError, match="not a manifest"):
        datasets.open_pointer(data_dir, "corpus.json")


def test_leftovers_go_and_nothing_else(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "packed_corpus" / "rows-1" / "1.0.0"
    other = tmp_path / "packed_corpus" / "rows-2" / "1.0.0"
    incomplete = tmp_path / "packed_corpus" / "rows-2" / "incomplete.AB12_1.0.0"
    for path in (folder, other, incomplete):
        path.mkdir(parents=True)
        (path / "shard").touch()
    (tmp_path / "corpus.json.partial").touch()
    (tmp_path / "contigs.json").touch()
    datasets.remove_leftovers(str(tmp_path), str(folder))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "shard",
        "contigs.json",
    }
    assert (other / "shard").exists()
