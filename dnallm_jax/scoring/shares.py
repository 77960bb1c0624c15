"""How do many processes make one table? Each scores every Nth part; the last to end joins them.

The processes need not meet: each reads the whole input, which costs little beside scoring, so all
of them know where every part lies and which ids are repeated. What process 1 of 4 has scored lies
in scores.tsv.1-of-4.partial, with a journal and a list of its parts' lengths; so each can be killed
and go on by itself. Whichever finds that all are complete puts the parts together, in order.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.errors import UserError
from dnallm_jax.scoring.journal import Commit, Journal, Output, last_commit
from dnallm_jax.scoring.tally import Tally


@dataclass(frozen=True)
class Share:
    """Which parts of the input a process scores: every `count`th, from part number `number` on."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise UserError(
                f"--processes={self.count} and --process={self.number}: give both, the number of "
                "processes and which of them this is, from 0"
            )

    @property
    def whole(self) -> bool:
        return self.count == 1

    def has(self, part: int) -> bool:
        """Whether the part of that number is one of this share."""
        return part % self.count == self.number

    def outputs(self, outputs: Sequence[Output]) -> list[Output]:
        """Where this share's part of each output lies; last, the lengths of its parts there."""
        if self.whole:
            return list(outputs)
        named = [*outputs, Output(_named(outputs[0].path, ".parts"))]
        return [
            replace(output, path=_named(output.path, f".{self.number}-of-{self.count}"))
            for output in named
        ]

    def write(
        self, journal: Journal, outputs: Sequence[Output], encoded: Iterable[Iterable[bytes]]
    ) -> None:
        """Appends to each of `outputs` what a part adds to it, given of the whole ones."""
        added = zip(outputs, encoded, strict=self.whole)
        lengths = [journal.write(output.path, data) for output, data in added]
        if not self.whole:
            journal.write(outputs[-1].path, [(json.dumps(lengths) + "\n").encode()])


WHOLE = Share()
_BLOCK = 1 << 20  # bytes of a share that are in memory at a time


def _named(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@dataclass(frozen=True)
class Complete:
    """The share of one process, all of it scored."""

    outputs: Sequence[Output]
    journal: Path
    identity: Mapping[str, Any]
    end: Commit


def joined(
    outputs: Sequence[Output],
    share: Share,
    identity: Mapping[str, Any],
    beside: Callable[[Tally], Mapping[Path, bytes]],
) -> tuple[Tally | None, list[int]]:
    """Puts the shares together, if all are complete; the outputs appear, and the shares go.

    Args:
      outputs: the whole ones.
      share: that of this process, which is complete.
      identity: what must be equal in all shares.
      beside: the small files that go with the outputs, for the counts of all shares.

    Returns:
      The counts of all shares, where this process put them together; and the numbers of the
      processes whose shares are not complete.

    Raises:
      UserError: a share is of another run, or has changed.
    """
    identity = json.loads(json.dumps(identity))
    with _alone(outputs[0].path.parent):
        shares = [_complete(outputs, Share(n, share.count)) for n in range(share.count)]
        own = shares[share.number]
        if own is None:  # another process was sooner
            return None, []
        if (end := _begun(outputs, identity)) and end.digest == own.end.digest:
            return finish(outputs, share, identity, beside), []
        if missing := [number for number, found in enumerate(shares) if found is None]:
            return None, missing
        complete = [found for found in shares if found is not None]
        _check(complete, own, identity)
        tally = Tally()
        for found in complete:
            tally.include(found.end.tally)
        with Journal(outputs, identity, resume=False) as journal:
            for written in _in_order(complete, outputs):
                for output, data in zip(outputs, written, strict=True):
                    journal.write(output.path, data)
            journal.commit(own.end.parts, own.end.digest, tally.counts, complete=True)
            journal.finish(beside(tally), _files(outputs, share.count))
        return tally, []


def left(outputs: Sequence[Output], share: Share, identity: Mapping[str, Any]) -> Commit | None:
    """Of a share that has gone: what it was put into, by a process killed before the last name."""
    gone = last_commit(Journal.beside(share.outputs(outputs)[0].path)) is None
    return _begun(outputs, json.loads(json.dumps(identity))) if gone else None


def finish(
    outputs: Sequence[Output],
    share: Share,
    identity: Mapping[str, Any],
    beside: Callable[[Tally], Mapping[Path, bytes]],
) -> Tally:
    """Gives the outputs their names where all is there but these."""
    with Journal(outputs, identity, resume=True) as journal:
        tally = Tally(journal.done.tally)
        journal.finish(beside(tally), _files(outputs, share.count))
    return tally


def _begun(outputs: Sequence[Output], identity: Mapping[str, Any]) -> Commit | None:
    """The last commit of a process that put shares together and was killed behind it."""
    end = last_commit(Journal.beside(outputs[0].path))
    return end[1] if end and end[1].complete and end[0] == identity else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process puts shares together in this folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks, as clusters have them
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _complete(outputs: Sequence[Output], share: Share) -> Complete | None:
    own = share.outputs(outputs)
    journal = Journal.beside(own[0].path)
    end = last_commit(journal)
    if end is None or not end[1].complete:
        return None
    return Complete(own, journal, *end)


def _files(outputs: Sequence[Output], count: int) -> list[Path]:
    """All that lies there of the shares, the journals first: none is left without its files."""
    owned = [Share(number, count).outputs(outputs) for number in range(count)]
    journals = [Journal.beside(own[0].path) for own in owned]
    return journals + [output.partial for own in owned for output in own]


def _check(complete: Sequence[Complete], own: Complete, identity: Mapping[str, Any]) -> None:
    """UserError where a share is not one of this run."""
    for number, other in enumerate(complete):
        told = {name: other.identity.get(name) for name in identity}
        differs = next((name for name in identity if told[name] != identity[name]), "")
        if (other.end.parts, other.end.digest) != (own.end.parts, own.end.digest):
            differs = "inputs"
        if differs:
            raise UserError(
                f"{other.journal}: process {number} had another {differs}; start it again with the "
                "command of the others, and without --resume"
            )


def _in_order(
    complete: Sequence[Complete], whole: Sequence[Output]
) -> Iterator[list[Iterable[bytes]]]:
    """What each part adds to each output, part after part; to be read before the next part."""
    with contextlib.ExitStack() as stack:
        readers = [
            [
                stack.enter_context(_Reader(output.partial, end))
                for output, end in zip(share.outputs, share.end.files, strict=True)
            ]
            for share in complete
        ]
        sizes = []
        for *files, lengths in readers:
            told = lengths.read(-1)
            lengths.check()
            sizes.append(iter(told.splitlines()))
            for reader, output in zip(files, whole, strict=True):
                reader.read(len(output.head))
        for part in range(complete[0].end.parts):
            *files, _ = readers[part % len(readers)]
            each = json.loads(next(sizes[part % len(readers)]))
            yield [reader.blocks(size) for reader, size in zip(files, each, strict=True)]
        for *files, _ in readers:
            for reader in files:
                reader.check()


class _Reader:
    """A partial file of a complete share, read once and compared with what its journal says."""

    def __init__(self, path: Path, end: tuple[int, str]) -> None:
        self._path, (self._size, self._checksum) = path, end
        self._sum, self._at = hashlib.sha256(), 0

    def __enter__(self) -> "_Reader":
        try:
            self._file: BinaryIO = self._path.open("rb")
        except OSError as error:
            raise self._changed() from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._sum.update(data)
        self._at += len(data)
        return data

    def blocks(self, size: int) -> Iterator[bytes]:
        """So many bytes, in blocks."""
        while size and (block := self.read(min(size, _BLOCK))):
            size -= len(block)
            yield block

    def check(self) -> None:
        """UserError unless all was read, as it was written."""
        if (self._at, self._sum.hexdigest()) != (self._size, self._checksum):
            raise self._changed()

    def _changed(self) -> UserError:
        return UserError(
            f"{self._path}: is missing or has changed since it was complete; start its process "
            "again, without --resume"
        )
