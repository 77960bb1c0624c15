"""What does `score` write? One row a record, in input order, whole or not at all."""

import math
import os
import pathlib
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from data_pipeline.reading import Record
from dnallm_jax.scoring.bundle import Detector

COLUMNS = (
    "sequence_id",
    "length",
    "virus_score",
    "is_virus",
    "n_windows",
    "fraction_scored",
    "strand_gap",
    "status",
)
SHORT = 100  # bases below which a score says little


@dataclass(frozen=True)
class Result:
    """One row of the output; None where the record could not be scored."""

    sequence_id: str
    length: int
    virus_score: float | None
    is_virus: bool | None
    n_windows: int
    fraction_scored: float
    strand_gap: float | None
    status: str  # ok | short | ambiguous | empty | duplicate_id

    def tsv(self) -> str:
        """The row as text; what is None is an empty field."""
        cells = (
            self.sequence_id,
            str(self.length),
            "" if self.virus_score is None else f"{self.virus_score:.6f}",
            "" if self.is_virus is None else str(int(self.is_virus)),
            str(self.n_windows),
            f"{self.fraction_scored:.4f}",
            "" if self.strand_gap is None else f"{self.strand_gap:.4f}",
            self.status,
        )
        return "\t".join(cells)


def results(detector: Detector, records: Iterable[Record]) -> Iterator[Result]:
    """Exactly one Result a record, in order.

    Status: `empty` has no bases, `ambiguous` none of A, C, G, T (both without a score); `duplicate_id` has
    the id of an earlier record, `short` fewer than 100 bases (both scored); else `ok`.
    """
    seen: set[str] = set()
    waiting: deque[Record] = deque()  # those handed to the scorer and not yet answered

    def sequences() -> Iterator[bytes]:
        for record in records:
            waiting.append(record)
            yield record.bases

    for scored in detector.scorer.score(sequences()):
        record = waiting.popleft()
        length = len(record.bases)
        known = math.isfinite(scored.logit)
        probability = detector.probability(scored, length) if known else None
        if not length:
            status = "empty"
        elif not known:
            status = "ambiguous"
        elif record.id in seen:
            status = "duplicate_id"
        elif length < SHORT:
            status = "short"
        else:
            status = "ok"
        seen.add(record.id)
        yield Result(
            sequence_id=record.id,
            length=length,
            virus_score=probability,
            is_virus=None if probability is None else probability >= detector.threshold,
            n_windows=scored.windows,
            fraction_scored=scored.fraction_scored,
            strand_gap=scored.strand_gap if known else None,
            status=status,
        )


def write_tsv(path: str, rows: Iterable[Result]) -> int:
    """Writes header and rows to a file ("-": standard output); returns the number of rows.

    The file gets its name only when the last row is written; a run that fails leaves nothing there.
    """
    if path == "-":
        return _write_lines(sys.stdout, rows)
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            count = _write_lines(file, rows)
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_lines(file: TextIO, rows: Iterable[Result]) -> int:
    file.write("\t".join(COLUMNS) + "\n")
    count = 0
    for count, row in enumerate(rows, start=1):
        file.write(row.tsv() + "\n")
    file.flush()
    return count
