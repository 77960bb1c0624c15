"""Which sequences are viral? Labels and metadata from a table beside the file, or from headers.

A table that holds the sequences too (`tables.py`) is its own.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from data_pipeline.errors import UserError
from data_pipeline.records import Measured
from data_pipeline.survey import header
from data_pipeline.tables import ID_COLUMNS, LONGEST_CELL, SEQUENCE_COLUMN, refuse_repeated

LABEL_COLUMN = "label"
WORDS = {
    **dict.fromkeys(("1", "virus", "viral"), 1),
    **dict.fromkeys(("0", "non-virus", "non-viral", "nonvirus", "nonviral", "not-virus"), 0),
}
_TABLES = (".tsv", ".csv")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One row of a table."""

    line: int
    label: int
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Labels:
    """Label and metadata of every record of some files."""

    tables: Mapping[str, str]  # sequence file -> its table, for those that have one
    _entries: Mapping[str, Mapping[str, _Entry]]  # table -> id -> row
    _used: dict[str, set[str]] = field(default_factory=dict)  # table -> ids asked for

    def label(self, record: Measured) -> int:
        """1 virus, 0 not. UserError when table or header do not say."""
        entry = self._entry(record)
        if entry is not None:
            return entry.label
        word = header(record).get(LABEL_COLUMN)
        if word is None:
            stem = _stem(record.source)
            raise UserError(
                f"{record.source}: record {record.id} has no label; write label=0 or label=1 into "
                f"its header, or put a table beside the file, {os.path.basename(stem)}.tsv"
            )
        return _label(word, f"{record.source}: record {record.id}")

    def metadata(self, record: Measured) -> Mapping[str, str]:
        """Columns of the table, and what the header adds. UserError as in `label`."""
        self.label(record)
        entry = self._entry(record)
        return header(record) if entry is None else {**header(record), **entry.columns}

    def refuse_unused(self) -> None:
        """UserError for a row of a table whose record was never asked for."""
        for table, entries in self._entries.items():
            used = self._used.get(table, set())
            for record_id, entry in entries.items():
                if record_id not in used:
                    files = ", ".join(f for f, t in self.tables.items() if t == table)
                    raise UserError(
                        f"{table}, line {entry.line}: {record_id} is not in {files}; take the row "
                        "out, or add the sequence"
                    )

    def _entry(self, record: Measured) -> _Entry | None:
        table = self.tables.get(record.source)
        if table is None:
            return None
        entry = self._entries[table].get(record.id)
        if entry is None:
            raise UserError(
                f"{record.source}: record {record.id} has no row in {table}; add one, or take the "
                "record out"
            )
        self._used.setdefault(table, set()).add(record.id)
        return entry


def read_labels(files: Iterable[str]) -> Labels:
    """The tables beside the sequence files: X.tsv or X.csv for X.fa, X.fasta.gz and the like.

    Raises UserError for a table without the needed columns, with a bad label, with a line of
    another number of columns, or with an id twice.
    """
    tables: dict[str, str] = {}
    for path in files:
        for ending in _TABLES:
            if os.path.isfile(_stem(path) + ending):
                tables.setdefault(path, _stem(path) + ending)
    return Labels(tables, {table: _read_table(table) for table in set(tables.values())})


def read_metadata(path: str) -> dict[str, Mapping[str, str]]:
    """What a table says of each record, by its id, then column; it needs no column label.

    Raises UserError as `read_labels` does, and for a file that cannot be opened.
    """
    return {name: entry.columns for name, entry in _read_table(path, labelled=False).items()}


def _stem(path: str) -> str:
    """The path without the endings of compression and format."""
    stem, ending = os.path.splitext(path)
    if ending in (".gz", ".bgz", ".bz2", ".xz", ".zst"):
        stem = os.path.splitext(stem)[0]
    return stem


def _read_table(path: str, *, labelled: bool = True) -> dict[str, _Entry]:
    csv.field_size_limit(LONGEST_CELL)
    try:
        opened = open(path, encoding="utf-8-sig", newline="")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UserError(f"{path}: the table cannot be read ({error.strerror})") from None
    with opened as file:
        rows = _rows(file, path)
        try:
            return _entries(rows, path, labelled)
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}; correct the line") from None
        except UnicodeDecodeError as error:
            wrong = error.object[error.start]
            raise UserError(
                f"{path}: the byte {wrong:#04x} is not UTF-8 text; save the table as UTF-8"
            ) from None


def _rows(file: TextIO, path: str) -> Any:
    if path.endswith(".csv"):
        return csv.reader(file, strict=True)
    # In tab-separated tables of this field a quotation mark is a letter like any other.
    return csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)


def _entries(rows: Any, path: str, labelled: bool) -> dict[str, _Entry]:
    columns: list[str] = next(rows, [])
    id_column = next((name for name in ID_COLUMNS if name in columns), None)
    if id_column is None or (labelled and LABEL_COLUMN not in columns):
        raise UserError(
            f"{path}, line 1: the header needs {'a column label and ' if labelled else ''}one of "
            f"{', '.join(ID_COLUMNS)}; it has {', '.join(columns) or 'nothing'}"
        )
    refuse_repeated(columns, f"{path}, line 1")
    entries: dict[str, _Entry] = {}
    for row in rows:
        if not row:
            continue
        where = f"{path}, line {rows.line_num}"
        if len(row) != len(columns):
            raise UserError(
                f"{where}: {len(row)} columns, but the header has {len(columns)}; give every "
                "column a value, - where unknown"
            )
        values = dict(zip(columns, (value.strip() for value in row), strict=True))
        values.pop(SEQUENCE_COLUMN, None)
        record_id = values[id_column]
        if record_id in entries:
            raise UserError(
                f"{where}: {record_id} is in line {entries[record_id].line} too; keep one of them"
            )
        label = _label(values[LABEL_COLUMN], f"{where}: {record_id}") if labelled else -1
        entries[record_id] = _Entry(rows.line_num, label, values)
    return entries


def _label(word: str, where: str) -> int:
    label = WORDS.get(word.lower())
    if label is None:
        raise UserError(f"{where} has the label {word!r}; write 1 (virus) or 0 (not)")
    return label
