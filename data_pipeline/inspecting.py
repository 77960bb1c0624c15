"""What does a prepared data set look like inside? Lengths, first rows, sources; lines for a person.

`describing` prints the manifest; this room opens the data themselves.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from data_pipeline.contigs import Contigs
from data_pipeline.corpus import Corpus
from data_pipeline.describing import lines
from data_pipeline.reading import fields

LICENCE_KEYS = ("licence", "license")
_BARS = 40  # characters of the longest bar
_LETTERS = 60  # shown of a sequence
_SEGMENTS = 4  # shown of a row


def inspection(data: Corpus | Contigs, *, rows: int = 3) -> Iterator[str]:
    """The manifest, lengths, the first `rows` rows of each split, sources and licences."""
    yield from lines(data.manifest)
    yield f"  fingerprint {data.fingerprint}"
    for split, found in record_lengths(data).items():
        yield f"  lengths of the records of {split}, bases"
        edges, counts = histogram(found)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            bar = "#" * int(np.ceil(_BARS * count / counts.max()))
            yield f"    {low:>13,} - {high - 1:<13,} {count:>9,} {bar}".rstrip()
    for split in data.splits:
        yield f"  first rows of {split}"
        yield from _first_rows(data, split, rows)
    files = [file for split in data.manifest["inputs"].values() for file in split]
    for file in [*files, *data.manifest.get("tables", [])]:
        yield f"  source      {file['path']}  {file['bytes']:,} bytes  sha256 {file['sha256']}"
        if "address" in file:
            yield f"  {'':<11} from {file['address']}"
    for licence, count in sorted(licences(data).items()):
        yield f"  licence     {licence}: {count:,} records"
    versions = (f"{name} {version}" for name, version in data.manifest["libraries"].items())
    yield f"  written by  {', '.join(versions)}"


def record_lengths(data: Corpus | Contigs) -> dict[str, np.ndarray]:
    """int64: the lengths of the records of each split, in bases."""
    lengths: dict[str, list[int]] = {split: [] for split in data.splits}
    if isinstance(data, Corpus):
        for record in data.records():
            lengths[record["split"]].append(int(record["length"]))
    else:
        for split, own in lengths.items():
            source = data.source(split)
            own += [len(source[index]["bases"]) for index in range(len(source))]
    return {split: np.array(own, np.int64) for split, own in lengths.items()}


def histogram(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (1, 2, 5, 10, 20, 50 ...; int64[n + 1]) around all lengths, and counts, int64[n]."""
    steps = np.array([step * 10**power for power in range(14) for step in (1, 2, 5)], np.int64)
    first = int(np.searchsorted(steps, lengths.min(), side="right")) - 1
    last = int(np.searchsorted(steps, lengths.max(), side="right"))
    edges = steps[max(first, 0) : last + 1]
    bins = np.searchsorted(edges, lengths, side="right") - 1
    return edges, np.bincount(bins, minlength=len(edges) - 1)


def licences(data: Corpus | Contigs) -> Counter[str]:
    """Records by licence, where headers (of a corpus) or label tables (of contigs) name one.

    A table that has gone since it was read says nothing.
    """
    found: Counter[str] = Counter()
    if isinstance(data, Corpus):
        rows: Iterator[dict[str, str]] = (fields(r["description"]) for r in data.records())
    else:
        rows = (row for table in data.manifest["tables"] for row in _table(table["path"]))
    for row in rows:
        found.update(row[key] for key in LICENCE_KEYS if row.get(key))
    return found


def _table(path: str) -> Iterator[dict[str, str]]:
    if os.path.isfile(path):
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file, delimiter="," if path.endswith(".csv") else "\t")


def _first_rows(data: Corpus | Contigs, split: str, rows: int) -> Iterator[str]:
    source = data.source(split)
    for index in range(min(rows, len(source))):
        row = source[index]
        if isinstance(data, Contigs):
            bases = row["bases"].tobytes()
            kind = "virus" if row["label"] else "not"
            yield f"    {row['id'].decode()} ({kind}, {row['group'].decode()}): {_start(bases)}"
            continue
        tokens = np.split(row["tokens"], np.cumsum(row["segment_lengths"])[:-1])
        names = row["record_ids"].decode().split("\n")
        for name, start, own in list(zip(names, row["starts"], tokens, strict=True))[:_SEGMENTS]:
            bases = data.tokenizer.decode(own)
            yield f"    row {index}: {name} from {start:,}, {len(own):,} tokens: {_start(bases)}"
        if len(names) > _SEGMENTS:
            yield f"    row {index}: and {len(names) - _SEGMENTS:,} more segments"


def _start(bases: bytes) -> str:
    more = f"... ({len(bases):,} bases)" if len(bases) > _LETTERS else ""
    return bases[:_LETTERS].decode() + more
