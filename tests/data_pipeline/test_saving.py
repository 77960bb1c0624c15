"""Are web addresses and standard input saved whole, once, and only then named?"""

import io
import pathlib

import pytest

from data_pipeline import saving
from data_pipeline.datasets import describe_sources
from data_pipeline.errors import UserError
from data_pipeline.saving import saved


def test_files_stay_and_addresses_are_saved_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, path: str) -> None:
        asked.append(url)
        pathlib.Path(path).write_text(f">a\n{'ACGT' * len(asked)}\n")

    monkeypatch.setattr(saving, "download", fetch)
    own = tmp_path / "x.fa"
    own.write_text(">x\nACGT\n")
    patterns = [str(own), "https://host/a/g.fa", "https://host/b/g.fa"]
    first = saved(patterns, str(tmp_path / "d"))
    assert first[0] == str(own)
    assert len(set(first)) == 3
    assert all(path.endswith("g.fa") for path in first[1:])
    assert saved(patterns, str(tmp_path / "d")) == first
    assert asked == patterns[1:]
    own_file, *fetched = describe_sources(first)
    assert "address" not in own_file
    assert [about["address"] for about in fetched] == patterns[1:]
    assert saved((), str(tmp_path / "d")) == ()


def test_what_is_broken_off_has_no_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(url: str, path: str) -> None:
        pathlib.Path(path).write_text(">a\nAC")
        raise UserError(f"{url}: broke off")

    monkeypatch.setattr(saving, "download", broken)
    with pytest.raises(UserError, match="broke off"):
        saved(["http://host/g.fa"], str(tmp_path))
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]


def test_standard_input(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b">a\nACGT\n", b">b\nGG\n"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        (path,) = saved(["-"], str(tmp_path))
        assert pathlib.Path(path).read_bytes() == text


def test_a_terminal_is_not_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b""))
    piped.isatty = lambda: True  # type: ignore[method-assign]  # a planted terminal
    monkeypatch.setattr("sys.stdin", piped)
    with pytest.raises(UserError, match="standard input is a terminal"):
        saved(["-"], str(tmp_path))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/d: cannot be made"):
        saved(["-"], str(tmp_path / "file" / "d"))
