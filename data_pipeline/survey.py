"""What is in the sources? One pass that checks and measures every record and settles its split."""

import dataclasses
import gzip
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline import splits
from data_pipeline.duplicates import (
    StrandlessHash,
    refuse_shared_clusters,
    refuse_shared_ids,
    refuse_shared_sequences,
)
from data_pipeline.errors import UserError
from data_pipeline.reading import Record, fields, read_blocks
from data_pipeline.records import Collected, IdSet, Measured, Records
from data_pipeline.tokenizers import C, G, N, Nucleotide

_STEP = 1 << 17  # letters measured at once, so that they stay in a processor's cache
_STRETCH = 1 << 22  # letters in memory at once, where k-mers are counted
KMERS = "kmers"  # the cluster key that stands for near-duplicates by k-mer sketches
_SEPARATOR = "\0"
TABLE_COLUMNS = (
    *("id", "length", "split", "cluster", "group", "source"),
    *("ambiguous", "gc", "description"),
)


def header(record: Measured) -> Mapping[str, str]:
    """The key=value words of a record's header."""
    return fields(record.description)


@dataclasses.dataclass(frozen=True)
class Survey:
    """The records that go in, in the order of the sources, and a count of those left out."""

    records: Records
    left_out: dict[str, dict[str, int]]  # reason -> records, bases

    def of(self, split: str) -> Records:
        """The records of one split."""
        return self.records.of(split)


def survey(
    inputs: Mapping[str, Sequence[str]],
    *,
    metadata: Callable[[Measured], Mapping[str, str]] = header,
    leave_out: Callable[[Measured], str] = lambda record: "",
    max_bases: int = 0,
    cluster_key: str = "",
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Survey:
    """Reads the files of each split once, and those of "train" once more to cluster by k-mers.

    `metadata` gives a record's group and, under `cluster_key`, its cluster. Records for which
    `leave_out` gives a reason are left out. Of "train", reading stops after the record with which
    `max_bases` are reached (0: never). With a validation fraction, whole clusters go from "train"
    to "validation": those of `cluster_key`, or near-duplicates by k-mer sketches when that is "".
    Several keys, "genus+kmers", keep together what any of them does, "kmers" near-duplicates.

    Raises UserError for malformed files, an id that occurs twice, a sequence (or its reverse
    complement) or a named cluster that occurs in two splits, a split in which nothing remains, and,
    if a validation part is asked for, for a record without a cluster and for records that are all
    in one cluster.
    """
    keys = _keys(cluster_key)
    named = [key for key in keys if key != KMERS]
    left_out: dict[str, dict[str, int]] = {}
    collected = Collected()
    for split, files in inputs.items():
        bases = 0
        for record in measured(files):
            known = metadata(record)
            if reason := leave_out(record):
                counts = left_out.setdefault(reason, {"records": 0, "bases": 0})
                counts["records"] += 1
                counts["bases"] += record.length
                continue
            collected.add(
                dataclasses.replace(
                    record,
                    split=split,
                    cluster=_SEPARATOR.join(known.get(key) or "-" for key in named) or "-",
                    group=known.get("group") or "-",
                )
            )
            bases += record.length
            if split == "train" and 0 < max_bases <= bases:
                break
        if not bases:
            raise UserError(
                f"{', '.join(files)}: every record is left out ({', '.join(left_out)}), so nothing "
                f"remains for {split}"
            )
    records = collected.records()
    refuse_shared_ids(records)
    sketched: Mapping[str, str] = {}
    if validation_fraction and KMERS in keys:
        sketched = splits.cluster(stretches(inputs["train"], records.of("train").ids))
    if len(keys) > 1:
        records = records.renamed("cluster", _linked(records, named, sketched))
    elif sketched:
        records = records.renamed("cluster", (sketched.get(record.id, "-") for record in records))
    if validation_fraction:
        records = _divided(records, cluster_key, validation_fraction, seed)
    refuse_shared_sequences(records)
    refuse_shared_clusters(records)
    return Survey(records, left_out)


def measured(files: Sequence[str]) -> Iterator[Measured]:
    """Every record of the files, in blocks: memory does not depend on its length."""
    for block in read_blocks(files):
        if block.start == 0:
            gc = ambiguous = 0
            sequence = StrandlessHash()
        sequence.update(block.bases)
        for start in range(0, len(block.bases), _STEP):
            tokens = Nucleotide().encode(block.bases[start : start + _STEP])
            gc += int(np.count_nonzero(tokens == G) + np.count_nonzero(tokens == C))
            ambiguous += int(np.count_nonzero(tokens == N))
        if block.last:
            yield Measured(
                id=block.id,
                length=sequence.length,
                ambiguous=ambiguous,
                gc=gc,
                description=block.description,
                source=block.source,
                sequence=sequence.value(),
            )


class Stretch(NamedTuple):
    """Consecutive letters of a record."""

    record_id: str
    start: int  # offset in the record
    bases: bytes
    last: bool  # the record ends with them
    circular: bool  # the record does not end there in nature


def chosen(
    files: Sequence[str],
    ids: Collection[str] | IdSet,
    size: int,
    *,
    skip: int = 0,
    records: int | None = None,
) -> Iterator[Stretch]:
    """The records with these ids, in order: `size` letters at a time, after the first `skip`.

    The last stretch of a record may be shorter. Reading stops after so many `records`, by default
    as many as there are ids.
    """
    remaining = len(ids) if records is None else records
    held, start = b"", 0
    for block in read_blocks(files, strict=False):  # the first pass has checked them
        if block.id not in ids:
            continue
        if block.start == 0:
            held, start = block.bases[skip:], skip
        else:
            held += block.bases[max(skip - block.start, 0) :]
        stop = len(held) if block.last else len(held) - len(held) % size
        for at in range(0, stop, size):
            end = min(at + size, stop)
            last = block.last and end == stop
            yield Stretch(block.id, start + at, held[at:end], last, block.circular)
        held, start = held[stop:], start + stop
        remaining -= block.last
        if not remaining:
            return


def stretches(files: Sequence[str], ids: Collection[str] | IdSet) -> Iterator[Record]:
    """The records with these ids in stretches that lose no k-mer, for `splits`."""
    before = b""
    for stretch in chosen(files, ids, _STRETCH):
        bases = before + stretch.bases if stretch.start else stretch.bases
        yield Record(stretch.record_id, "", bases)
        before = bases[-(splits.K - 1) :]


def summary(records: Records) -> dict[str, Any]:
    """JSON-able counts of some records: how many, bases, clusters, share of N, GC, groups."""
    names = records.names["group"]
    count, bases = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    for part in records.parts():
        group = part.column("group")
        count += np.bincount(group, minlength=len(names))
        bases += np.bincount(group, part.column("length"), len(names)).astype(np.int64)
    ambiguous, gc = (int(records.column(name).sum()) for name in ("ambiguous", "gc"))
    clusters = {records.names["cluster"][place] for place in np.unique(records.column("cluster"))}
    return {
        "records": len(records),
        "bases": records.bases,
        "clusters": len(clusters - {"-"}) or None,
        "n_share": ambiguous / records.bases,
        "gc": gc / max(records.bases - ambiguous, 1),
        "groups": {
            names[place]: {"records": int(count[place]), "bases": int(bases[place])}
            for place in sorted(np.flatnonzero(count).tolist(), key=names.__getitem__)
        },
    }


def write_table(path: str, records: Iterable[Measured]) -> None:
    """A gzipped tab-separated table, one line a record; the same bytes for the same records."""
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write(("\t".join(TABLE_COLUMNS) + "\n").encode())
        for record in records:
            row = {column: str(getattr(record, column)) for column in TABLE_COLUMNS}
            row["source"] = os.path.basename(record.source)
            row["description"] = " ".join(record.description.split())
            file.write(("\t".join(row.values()) + "\n").encode())


def read_table(path: str) -> Iterator[dict[str, str]]:
    """The rows of such a table, by column."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        columns = next(file).rstrip("\n").split("\t")
        for line in file:
            yield dict(zip(columns, line.rstrip("\n").split("\t"), strict=True))


def _keys(cluster_key: str) -> list[str]:
    """The keys that are joined by '+'."""
    keys = cluster_key.split("+") if cluster_key else [KMERS]
    if "" in keys or len({*keys}) < len(keys):
        raise UserError(
            f'cluster_key is {cluster_key!r}; write different header keys, like "genus" or '
            f'"genus+{KMERS}"'
        )
    return keys


def _linked(records: Records, named: Sequence[str], sketched: Mapping[str, str]) -> list[str]:
    """The cluster of each record: all that share a word of any key, directly or through others.

    Its name is the least of those words, key=word; that of a record without any is "-".
    """
    from scipy.cluster.hierarchy import DisjointSet

    together, first = DisjointSet(), []
    for record in records:
        values = zip(named, record.cluster.split(_SEPARATOR), strict=True)
        words = [f"{key}={value}" for key, value in values if value != "-"]
        if record.id in sketched:
            words.append(f"{KMERS}={sketched[record.id]}")
        first.append(words[0] if words else "-")
        for word in words:
            together.add(word)
            together.merge(words[0], word)
    least = {word: min(linked) for linked in together.subsets() for word in linked}
    return [least.get(word, "-") for word in first]


def _divided(records: Records, cluster_key: str, fraction: float, seed: int) -> Records:
    """The same records, some clusters of "train" put into "validation"."""
    train = records.of("train")
    names, place = records.names["cluster"], train.column("cluster")
    if "-" in names and (unnamed := place == names.index("-")).any():
        record = train[int(unnamed.argmax())]
        raise UserError(
            f"{record.source}: record {record.id} has no {cluster_key}, which decides the "
            f'side it goes to; name it, or set cluster_key to "{cluster_key}+{KMERS}", or "", for'
            " clusters by k-mers"
        )
    bases = np.bincount(place, train.column("length"), len(names))
    sizes = {names[cluster]: int(bases[cluster]) for cluster in np.unique(place).tolist()}
    side = splits.assign({name: name for name in sizes}, sizes, fraction, seed)
    if set(side.values()) != {"train", "validation"}:
        raise UserError(
            f"validation_fraction is {fraction}, but all {len(train)} records are in one cluster, "
            "which cannot be divided; give other sequences for validation"
        )
    pairs = zip(records.words("split"), records.words("cluster"), strict=True)
    return records.renamed(
        "split", (side[cluster] if split == "train" else split for split, cluster in pairs)
    )
