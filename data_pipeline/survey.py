"""What is in the sources? One pass that checks and measures every record and settles its split."""

import dataclasses
import gzip
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline import splits
from data_pipeline.duplicates import SeenRecords, StrandlessHash
from data_pipeline.errors import UserError
from data_pipeline.reading import Block, fields, read_blocks, read_records
from data_pipeline.tokenizers import C, G, N, Nucleotide

_STEP = 1 << 17  # letters measured at once, so that they stay in a processor's cache
TABLE_COLUMNS = (
    *("id", "length", "split", "cluster", "group", "source"),
    *("ambiguous", "gc", "description"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A record, all but its bases."""

    id: str
    length: int
    ambiguous: int  # letters that are not A, C, G or T
    gc: int  # letters G and C
    description: str
    source: str  # the file, as it was named
    split: str
    cluster: str
    sequence: tuple[int, ...]  # hash of the bases, the same for both strands

    @property
    def group(self) -> str:
        """What the header's `group=` says, or "-"."""
        return fields(self.description).get("group", "-")


@dataclasses.dataclass(frozen=True)
class Survey:
    """The records that go in, in the order of the sources, and a count of those left out."""

    records: list[Measured]
    left_out: dict[str, dict[str, int]]  # word of `exclude` -> records, bases

    def of(self, split: str) -> list[Measured]:
        """The records of one split."""
        return [record for record in self.records if record.split == split]


def survey(
    inputs: Mapping[str, Sequence[str]],
    *,
    exclude: Sequence[str] = (),
    max_bases: int = 0,
    cluster_key: str = "",
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Survey:
    """Reads the files of each split once, and those of "train" once more to cluster by k-mers.

    Records with a header word in `exclude` are left out. Of "train", reading stops after the record
    with which `max_bases` are reached (0: never). With a validation fraction, whole clusters go
    from "train" to "validation": clusters that the header names under `cluster_key`, or
    near-duplicates by k-mer sketches when that is "".

    Raises UserError for malformed files, an id that occurs twice, a sequence (or its reverse
    complement) that occurs in two splits, a record without the cluster key, a split in which
    nothing remains, and records that are all relatives when a validation part is asked for.
    """
    seen = SeenRecords()
    left_out = {word: {"records": 0, "bases": 0} for word in exclude}
    records: list[Measured] = []
    for split, files in inputs.items():
        bases = 0
        for record in _measured_records(files, split):
            seen.add_id(record.id, record.source)
            words = record.description.split()
            reason = next((word for word in exclude if word in words), None)
            if reason is not None:
                left_out[reason]["records"] += 1
                left_out[reason]["bases"] += record.length
                continue
            if cluster_key:
                record = dataclasses.replace(record, cluster=_named_cluster(record, cluster_key))
            records.append(record)
            bases += record.length
            if split == "train" and 0 < max_bases <= bases:
                break
        if not bases:
            raise UserError(
                f"{', '.join(files)}: exclude={','.join(exclude)} leaves out every record; nothing "
                f"remains for {split}"
            )
    if validation_fraction:
        records = _divided(records, inputs["train"], cluster_key, validation_fraction, seed)
    for measured in records:
        seen.add_sequence(measured.id, measured.split, measured.sequence)
    return Survey(records, left_out)


def chosen(files: Sequence[str], ids: Collection[str]) -> Iterator[Block]:
    """The blocks of the records with these ids, in order; reading stops after the last one."""
    remaining = len(ids)
    for block in read_blocks(files):
        if block.id in ids:
            yield block
            remaining -= block.last
            if not remaining:
                return


def summary(records: Sequence[Measured]) -> dict[str, Any]:
    """JSON-able counts of some records: how many, bases, clusters, share of N, GC, groups."""
    bases = sum(record.length for record in records)
    ambiguous = sum(record.ambiguous for record in records)
    groups: dict[str, Counter[str]] = {}
    for record in records:
        groups.setdefault(record.group, Counter()).update(records=1, bases=record.length)
    return {
        "records": len(records),
        "bases": bases,
        "clusters": len({record.cluster for record in records} - {"-"}) or None,
        "n_share": ambiguous / bases,
        "gc": sum(record.gc for record in records) / max(bases - ambiguous, 1),
        "groups": {name: dict(counts) for name, counts in sorted(groups.items())},
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


def _measured_records(files: Sequence[str], split: str) -> Iterator[Measured]:
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
                split=split,
                cluster="-",
                sequence=sequence.value(),
            )


def _named_cluster(record: Measured, key: str) -> str:
    cluster = fields(record.description).get(key)
    if not cluster:
        raise UserError(
            f"{record.source}: record {record.id} has no {key}=... in its header; name its cluster "
            'there, or set cluster_key to "" to find clusters by k-mers'
        )
    return cluster


def _divided(
    records: list[Measured], files: Sequence[str], cluster_key: str, fraction: float, seed: int
) -> list[Measured]:
    """The same records, with their clusters where no header named them, and split by cluster."""
    clusters = {record.id: record.cluster for record in records}
    if not cluster_key:
        clusters = splits.cluster(r for r in read_records(files) if r.id in clusters)
    sizes = {record.id: record.length for record in records}
    side = splits.assign(clusters, sizes, fraction, seed)
    if set(side.values()) != {"train", "validation"}:
        raise UserError(
            f"validation_fraction is {fraction}, but all {len(records)} records are relatives, in "
            "one cluster, which cannot be divided; give validation_sources"
        )
    return [
        dataclasses.replace(r, cluster=clusters[r.id], split=side[clusters[r.id]]) for r in records
    ]
