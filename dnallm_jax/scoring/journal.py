"""How does a run that was killed go on where it was? Files in the making, and a journal of them.

While a run writes scores.tsv there are beside it

    scores.tsv.partial   what has been written so far
    scores.tsv.journal   which options, and how much of every partial file is right

A commit brings the partial files to the disk, then adds a line to the journal: how many parts of
the input are behind it, how long each file is, and the checksum of its content. What follows the
last commit in a partial file is cut off when a run goes on. Outputs appear under their names only
when all of them are complete; then the journal goes.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from data_pipeline.errors import UserError


@dataclass(frozen=True)
class Output:
    """One file in the making.

    Attributes:
      path: its name when it is complete.
      head: what it begins with.
      finisher: makes the complete file from the partial one: (partial, complete); None where the
        partial file is the complete one.
    """

    path: Path
    head: bytes = b""
    finisher: Callable[[Path, Path], None] | None = None

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")


@dataclass(frozen=True)
class Commit:
    """What a run has behind it, as a line of the journal says."""

    parts: int = 0
    digest: str = ""  # of the records of these parts
    tally: Mapping[str, Any] = field(default_factory=dict)  # the caller's counts
    files: Sequence[tuple[int, str]] = ()  # size and sha256 of each partial file
    complete: bool = False


class Journal:
    """The outputs of a run, in the making; a context manager that leaves what can be gone on with.

    Args:
      outputs: the first is the main one, which appears last; the journal lies beside it.
      identity: plain JSON; a run goes on only if it is equal.
      resume: go on with what a killed run left; without anything left, begin.

    Raises:
      UserError: the outputs cannot be written, another process is writing them, or (to resume) what
        is there is of another run or has changed.
    """

    def __init__(
        self, outputs: Sequence[Output], identity: Mapping[str, Any], *, resume: bool
    ) -> None:
        self.path = self.beside(outputs[0].path)
        self.done = Commit()
        self._outputs, self._main = outputs, outputs[0].path
        self._identity = json.loads(json.dumps(identity))
        self._resume, self._before = resume, 0
        self._files: dict[Path, BinaryIO] = {}
        self._sums = {output.path: hashlib.sha256() for output in outputs}

    @staticmethod
    def beside(path: Path) -> Path:
        """The journal of the outputs of which the main one is `path`."""
        return path.with_name(path.name + ".journal")

    def __enter__(self) -> "Journal":
        for output in self._outputs:
            with _named(output.path):
                output.path.parent.mkdir(parents=True, exist_ok=True)
                if output.path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with _named(self._main):
            self._journal = self.path.open("a+b")
        try:
            self._lock()
            going_on = self._resume and self._read()
        except BaseException:
            self._close()
            raise
        if not going_on:
            try:
                self._begin()
            except BaseException:
                self._discard()
                raise
        return self

    def _lock(self) -> None:
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self._main}: another process is writing it; wait until it is done, or choose "
                "another name"
            ) from None
        except OSError:  # a file system without locks, as clusters have them
            pass

    def _begin(self) -> None:
        self._journal.truncate(0)
        for output in self._outputs:
            with _named(output.path):
                self._files[output.path] = output.partial.open("wb")
            self.write(output.path, [output.head])
        with _named(self._main):
            self._append({"identity": self._identity})

    def _read(self) -> bool:
        """Takes up the last commit; False where there is none."""
        self._journal.seek(0)
        told, whole = _read(self._journal)
        if told is None:
            return False
        if changed := _difference(told[0], self._identity):
            raise UserError(
                f"{self._main}: the run that was stopped had {changed}; give the same command with "
                "--resume, or leave out --resume to begin anew"
            )
        self.done = told[1]
        self._before = self.done.parts
        for output, (size, checksum) in zip(self._outputs, self.done.files, strict=True):
            given = not output.partial.exists() and output.path.exists()  # its name
            if not (self.done.complete and given):
                self._take_up(output, size, checksum)
        self._journal.truncate(whole)
        return True

    def _take_up(self, output: Output, size: int, checksum: str) -> None:
        """Opens a partial file behind what the journal vouches for."""
        try:
            file = self._files[output.path] = output.partial.open("r+b")
        except FileNotFoundError:
            raise UserError(
                f"{output.partial}: is missing; leave out --resume to begin anew"
            ) from None
        remaining = size
        while block := file.read(min(remaining, 1 << 20)):
            self._sums[output.path].update(block)
            remaining -= len(block)
        if remaining or self._sums[output.path].hexdigest() != checksum:
            raise UserError(
                f"{output.partial}: has changed since the run was stopped; leave out --resume to "
                "begin anew"
            )
        file.truncate(size)
        file.seek(size)

    def write(self, path: Path, data: Iterable[bytes]) -> int:
        """Appends to the output of that path; says how many bytes. UserError where it cannot."""
        size = 0
        for block in data:
            with _named(path):
                self._files[path].write(block)
            self._sums[path].update(block)
            size += len(block)
        return size

    def commit(
        self, parts: int, digest: str, tally: Mapping[str, Any], *, complete: bool = False
    ) -> None:
        """Vouches for what has been written: it is of so many parts of the input."""
        files = []
        for path, file in self._files.items():
            with _named(path):
                file.flush()
                os.fsync(file.fileno())
                files.append((file.tell(), self._sums[path].hexdigest()))
        done = Commit(parts, digest, tally, files, complete)
        with _named(self._main):
            self._append(vars(done))
        self.done = done

    def _append(self, value: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(value).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def finish(self, beside: Mapping[Path, bytes], done_with: Iterable[Path] = ()) -> None:
        """Gives the outputs their names, after a commit that says `complete`.

        `beside`: small files that go with them, written first. `done_with`: what goes afterwards.
        """
        assert self.done.complete
        for path, content in beside.items():
            with _named(path), _appearing(path) as temporary:
                temporary.write_bytes(content)
        for output in reversed(self._outputs):
            if not output.partial.exists():  # a run was killed between these lines
                continue
            with _named(output.path):
                if output.finisher is None:
                    output.partial.replace(output.path)
                else:
                    with _appearing(output.path) as temporary:
                        output.finisher(output.partial, temporary)
                    output.partial.unlink()
        for path in done_with:
            path.unlink(missing_ok=True)
        self.path.unlink()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not self.done.parts:  # nothing that could be gone on with
            self._discard()
        self._close()
        if isinstance(error, UserError) and self.done.parts > self._before:
            raise UserError(
                f"{error}; what was scored before is kept: the same command with --resume goes on"
            ) from error

    def _discard(self) -> None:
        for output in self._outputs:
            output.partial.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        for file in (*self._files.values(), self._journal):
            file.close()


def last_commit(journal: Path) -> tuple[Mapping[str, Any], Commit] | None:
    """(the identity of a run, what it has behind it); None without such a journal, or a commit."""
    try:
        with journal.open("rb") as file:
            return _read(file)[0]
    except FileNotFoundError:
        return None


def _read(journal: BinaryIO) -> tuple[tuple[Mapping[str, Any], Commit] | None, int]:
    """The identity and the last commit, None where there is none; and the bytes of whole lines."""
    first, last, whole = b"", b"", 0
    for line in journal:
        if not line.endswith(b"\n"):  # the run was killed while it wrote this one
            break
        first, last, whole = first or line, line, whole + len(line)
    if first == last:
        return None, whole
    return (json.loads(first)["identity"], Commit(**json.loads(last))), whole


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """'threshold=0.9, now 0.8' of the first entry that differs; '' where none does."""
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            return f"{name}={before.get(name)!r}, now {now.get(name)!r}"
    return ""


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns what the system refuses into a UserError that names the output."""
    try:
        yield
    except OSError as error:
        raise cannot_be_written(path, error) from error


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary name; what is written there gets the name `path`, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def cannot_be_written(path: Path | str, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error}); choose another name")
