"""How is a record of any length held in constant memory? What is long lies on the disk.

Where the windows of a sequence lie depends on how long it is, so its end must be known before its
first window is read. A record of more than HELD bases is therefore written to a file without a name
in the folder for temporary files (TMPDIR), which goes with the last reference to it.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from data_pipeline.errors import UserError
from data_pipeline.parsing import Block

HELD = 1 << 22  # bases of the longest record that is held in memory


class Letters(Protocol):
    """The letters of a sequence, wherever they lie: `bytes`, or `OnDisk`."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> "Letters": ...

    def __bytes__(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Spooled:
    """A record, as `reading.Record`, whose bases may lie on the disk."""

    id: str
    description: str
    bases: Letters


def spooled(blocks: Iterable[Block]) -> Iterator[Spooled]:
    """The records that these blocks are of, in order. Memory: HELD and a block or two.

    UserError where the disk is full.
    """
    held: list[bytes] = []
    file: _File | None = None
    for block in blocks:
        held.append(block.bases)
        length = block.start + len(block.bases)
        if length > HELD:
            file = file or _File()
            file.append(held)
            held = []
        if block.last:
            bases = OnDisk(file, 0, length) if file else b"".join(held)
            yield Spooled(block.id, block.description, bases)
            held, file = [], None


def pieces(letters: Letters, size: int = 1 << 20) -> Iterator[bytes]:
    """All the letters, so many at a time."""
    return (bytes(letters[at : at + size]) for at in range(0, len(letters), size))


class _File:
    """A temporary file without a name, which is closed, and gone, when nothing refers to it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by __del__

    def append(self, parts: Iterable[bytes]) -> None:
        try:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: no room for a long sequence ({error.strerror}); free "
                "some space, or point TMPDIR to a larger disk"
            ) from error

    def read(self, start: int, stop: int) -> bytes:
        """By any number of threads at once."""
        return os.pread(self._file.fileno(), stop - start, start)

    def __del__(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Letters in a file; a slice of them is a place in it, and `bytes()` reads."""

    file: _File
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, where: slice) -> "OnDisk":
        start, stop, _ = where.indices(len(self))
        return OnDisk(self.file, self.start + start, self.start + max(start, stop))

    def __bytes__(self) -> bytes:
        return self.file.read(self.start, self.stop)
