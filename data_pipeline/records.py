"""How are the measurements of very many records kept, in some fifty bytes each?

Ten million reads as Python objects would take ten gigabytes. Here each measurement is a column of
numbers, and ids and descriptions are packed, some thousand at a time.
"""

import dataclasses
import hashlib
import itertools
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

_TOGETHER = 4_096  # texts that are packed together
_NUMBERS = ("length", "ambiguous", "gc")
_HASHES = ("hash0", "hash1", "hash2")
_NAMES = ("source", "split", "cluster", "group")


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A record, all but its bases."""

    id: str
    length: int
    ambiguous: int  # letters that are not A, C, G or T
    gc: int  # letters G and C
    description: str
    source: str  # the file, as it was named
    sequence: tuple[int, ...]  # hash of the bases, the same for both strands
    split: str = ""
    cluster: str = "-"
    group: str = "-"


@dataclasses.dataclass(frozen=True, eq=False)
class IdSet:
    """Ids, as sorted 64-bit hashes: eight bytes each.

    That one of ten million ids is taken for another has a chance of one in 400,000.
    """

    hashes: np.ndarray  # uint64, sorted

    def __contains__(self, name: str) -> bool:
        wanted = np.uint64(_hash(name))
        at = int(self.hashes.searchsorted(wanted))
        return at < len(self.hashes) and bool(self.hashes[at] == wanted)

    def __len__(self) -> int:
        return len(self.hashes)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Measured records in order, or some of them: `rows` says which of those the columns have."""

    columns: Mapping[str, np.ndarray]  # of names, their places in `names`
    names: Mapping[str, list[str]]  # the different words of "source", "split", "cluster", "group"
    texts: list[bytes]  # ids and descriptions, packed
    rows: np.ndarray  # uint32, ascending

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Measured]:
        cuts = np.flatnonzero(np.diff(self.rows // _TOGETHER)) + 1
        for begin, end in itertools.pairwise([0, *cuts.tolist(), len(self.rows)]):
            if begin == end:
                continue
            rows = self.rows[begin:end]
            texts = _unpacked(self.texts[int(rows[0]) // _TOGETHER])
            numbers, hashes = (
                zip(*(self.columns[name][rows].tolist() for name in own), strict=True)
                for own in (_NUMBERS, _HASHES)
            )
            words = zip(*(self._words(name, rows) for name in _NAMES), strict=True)
            places = (rows % _TOGETHER).tolist()
            for place, number, hashed, word in zip(places, numbers, hashes, words, strict=True):
                length, ambiguous, gc = number
                source, split, cluster, group = word
                yield Measured(
                    id=texts[2 * place],
                    length=length,
                    ambiguous=ambiguous,
                    gc=gc,
                    description=texts[2 * place + 1],
                    source=source,
                    sequence=(length, *hashed),
                    split=split,
                    cluster=cluster,
                    group=group,
                )

    def __getitem__(self, number: int) -> Measured:
        return next(iter(dataclasses.replace(self, rows=self.rows[[number]])))

    def column(self, name: str) -> np.ndarray:
        """Numbers of a kind; of "source", "split", "cluster", "group" their places in `names`."""
        return self.columns[name][self.rows]

    def words(self, name: str) -> Iterable[str]:
        """The "source", "split", "cluster" or "group" of each record."""
        return self._words(name, self.rows)

    def _words(self, name: str, rows: np.ndarray) -> Iterable[str]:
        return map(self.names[name].__getitem__, self.columns[name][rows].tolist())

    @property
    def bases(self) -> int:
        """Of all of them."""
        return int(self.column("length").sum(dtype=np.int64))

    @property
    def ids(self) -> IdSet:
        """Their ids, to be asked for."""
        hashes = self.column("id")
        hashes.sort()
        return IdSet(hashes)

    def parts(self, size: int = 1 << 18) -> Iterator["Records"]:
        """The same, so many at a time."""
        for at in range(0, len(self), size):
            yield dataclasses.replace(self, rows=self.rows[at : at + size])

    def of(self, split: str) -> "Records":
        """Those of one split."""
        if split not in self.names["split"]:
            return dataclasses.replace(self, rows=self.rows[:0])
        mine = self.column("split") == self.names["split"].index(split)
        return dataclasses.replace(self, rows=self.rows[mine])

    def renamed(self, name: str, words: Iterable[str]) -> "Records":
        """The same with another word for each record's `name`; of all records only."""
        places, known = array("I"), dict[str, int]()
        for word in words:
            places.append(known.setdefault(word, len(known)))
        return dataclasses.replace(
            self,
            columns={**self.columns, name: np.frombuffer(places, np.uint32)},
            names={**self.names, name: list(known)},
        )


class Collected:
    """Records one after the other."""

    def __init__(self) -> None:
        self._columns = {name: array("I") for name in (*_NUMBERS, *_HASHES, *_NAMES)}
        self._columns["id"] = array("Q")
        self._names: dict[str, dict[str, int]] = {name: {} for name in _NAMES}
        self._texts: list[bytes] = []
        self._held: list[str] = []

    def add(self, record: Measured) -> None:
        """The next record."""
        for name in _NUMBERS:
            number = getattr(record, name)
            if number >> 32 and self._columns[name].typecode == "I":
                self._columns[name] = array("Q", self._columns[name])
            self._columns[name].append(number)
        for name, number in zip(_HASHES, record.sequence[1:], strict=True):
            self._columns[name].append(number)
        for name, known in self._names.items():
            self._columns[name].append(known.setdefault(getattr(record, name), len(known)))
        self._columns["id"].append(_hash(record.id))
        self._held += (record.id, record.description)
        if len(self._held) == 2 * _TOGETHER:
            self._texts.append(_packed(self._held))
            self._held = []

    def records(self) -> Records:
        """All of them; no more may be added."""
        if self._held:
            self._texts.append(_packed(self._held))
        columns = {
            name: np.frombuffer(column, np.uint64 if column.typecode == "Q" else np.uint32)
            for name, column in self._columns.items()
        }
        return Records(
            columns,
            {name: list(known) for name, known in self._names.items()},
            self._texts,
            np.arange(len(columns["id"]), dtype=np.uint32),
        )


def _packed(texts: list[str]) -> bytes:
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    lengths = np.array([len(text) for text in encoded], np.uint32)
    return zlib.compress(
        b"".join([np.uint32(len(texts)).tobytes(), lengths.tobytes(), *encoded]), 1
    )


def _unpacked(packed: bytes) -> list[str]:
    data = zlib.decompress(packed)
    count = int(np.frombuffer(data, np.uint32, 1)[0])
    ends = 4 + 4 * count + np.frombuffer(data, np.uint32, count, offset=4).cumsum(dtype=np.int64)
    bounds = itertools.pairwise([4 + 4 * count, *ends.tolist()])
    return [data[begin:end].decode("utf-8", "surrogateescape") for begin, end in bounds]
