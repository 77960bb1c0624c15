"""What does `score` write? One row a record, in input order, whole or not at all."""

import math
import os
import pathlib
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from data_pipeline.errors import UserError
from data_pipeline.reading import Record, SeenIds
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

    Status: `empty` has no bases, `ambiguous` none of A, C, G, T (both without a score);
    `duplicate_id` has the id of an earlier record, `short` fewer than 100 bases (both scored); else
    `ok`.
    """
    seen = SeenIds()
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
        new = seen.add(record.id)
        if not length:
            status = "empty"
        elif not known:
            status = "ambiguous"
        elif not new:
            status = "duplicate_id"
        elif length < SHORT:
            status = "short"
        else:
            status = "ok"
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

    A file gets its name only when the last row is written; a run that fails leaves nothing there.
    On standard output rows appear as they come; where the reader has gone, the program ends.
    UserError where it cannot be written.
    """
    if path == "-":
        return _write_standard_output(rows)
    target = pathlib.Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():  # a pipe or a device is not to be replaced
            with target.open("w", encoding="utf-8", newline="\n") as file:
                return _write_lines(file, rows)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                count = _write_lines(file, rows)
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --output"
        ) from error
    return count


def _write_standard_output(rows: Iterable[Result]) -> int:
    try:
        # A file of its own over the same descriptor, so that nothing is left to be written at exit.
        with open(sys.stdout.fileno(), "w", closefd=False, encoding="utf-8", newline="\n") as file:
            return _write_lines(file, rows)
    except BrokenPipeError:
        # As a program does that the system stops for writing to `head` when it has seen enough.
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        raise UserError(f"standard output: cannot be written ({error.strerror})") from error


def _write_lines(file: TextIO, rows: Iterable[Result]) -> int:
    file.write("\t".join(COLUMNS) + "\n")
    count = 0
    for row in rows:
        file.write(row.tsv() + "\n")
        count += 1
    file.flush()
    return count
