"""Are records on the disk the records that were read, and is nothing left of them there?"""

import errno
import gc
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest

from data_pipeline import spooling
from data_pipeline.errors import UserError
from data_pipeline.parsing import Block
from data_pipeline.reading import read_blocks, read_records
from data_pipeline.spooling import OnDisk, pieces, spooled


@pytest.fixture
def few_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "HELD", 40)


def bases(length: int) -> bytes:
    letters = np.frombuffer(b"ACGTNacgtn", "S1")
    return np.random.default_rng(length).choice(letters, length).tobytes()


def blocks(*records: tuple[bytes, int]) -> Iterator[Block]:
    """Records in blocks of so many bases."""
    for number, (letters, size) in enumerate(records):
        for at in range(0, max(len(letters), 1), size):
            held = letters[at : at + size]
            last = at + size >= len(letters)
            yield Block(f"r{number}", "a word", "file", False, 1, at, held, last)


LENGTHS = (0, 1, 39, 40, 41, 80, 81, 5_000)


@pytest.mark.parametrize("size", [1, 40, 41, 7_000])
def test_records_are_those_that_were_read(few_held: None, size: int) -> None:
    expected = [bases(length) for length in LENGTHS]
    found = list(spooled(blocks(*((letters, size) for letters in expected))))
    assert [bytes(record.bases) for record in found] == expected
    assert [len(record.bases) for record in found] == list(LENGTHS)
    assert [isinstance(record.bases, OnDisk) for record in found] == [n > 40 for n in LENGTHS]
    assert [(r.id, r.description) for r in found] == [(f"r{n}", "a word") for n in range(8)]


def test_files_are_read_alike(few_held: None, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "some.fa"
    path.write_bytes(b"".join(b">r%d x y\n%s\n" % (n, bases(n)) for n in (3, 90, 0, 700)))
    whole = [(r.id, r.description, r.bases) for r in read_records([str(path)], strict=False)]
    found = spooled(read_blocks([str(path)], strict=False))
    assert [(r.id, r.description, bytes(r.bases)) for r in found] == whole


@pytest.mark.parametrize(
    "where",
    [
        slice(0, 9),
        slice(50, 60),
        slice(60, 50),
        slice(90, 200),
        slice(200, 300),
        slice(-5, None),
        slice(None),
    ],
)
def test_a_slice_is_that_of_the_bytes(few_held: None, where: slice) -> None:
    letters = bases(100)
    (record,) = spooled(blocks((letters, 30)))
    assert bytes(record.bases[where]) == letters[where]
    assert len(record.bases[where]) == len(letters[where])
    assert bytes(record.bases[10:90][where]) == letters[10:90][where]
    assert list(pieces(record.bases, 33)) == list(pieces(letters, 33))
    assert b"".join(pieces(letters, 33)) == letters


def test_nothing_is_left_on_the_disk(
    few_held: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (record,) = spooled(blocks((bases(100), 30)))
    part, descriptor = record.bases[20:30], record.bases.file._file.fileno()
    del record
    gc.collect()
    assert bytes(part) == bases(100)[20:30]  # which keeps the file
    assert list(tmp_path.iterdir()) == []
    del part
    gc.collect()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(descriptor)


def test_a_full_disk_is_told(few_held: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb", 0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
        with pytest.raises(UserError, match=r"no room for a long sequence \(No space left on dev"):
            list(spooled(blocks((bases(100), 30))))
