"""What does a table of sequences say? A CSV or TSV file with a row a record, and its bases in it.

    id,label,group,sequence
    a,1,phage,ACGT...

The other columns become the words of the record's description, `label=1 group=phage`.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.opening import shown
from data_pipeline.parsing import Block, clean, mistake, name_of

ID_COLUMNS = ("contig", "record", "sequence_id", "id")  # the first of them that the table has
SEQUENCE_COLUMN = "sequence"
LONGEST_CELL = 1 << 30  # the csv module's own limit is 128 KiB
_TOGETHER = 4 << 20  # bases in a block


def is_table(row: bytes) -> bool:
    """Whether a first line names the columns of a table of sequences."""
    names = _split(row.decode("utf-8", "replace"))
    return SEQUENCE_COLUMN in names and any(name in names for name in ID_COLUMNS)


def refuse_repeated(columns: Sequence[str], where: str) -> None:
    """UserError for two columns of one name: of which would the value be?"""
    for name in columns:
        if columns.count(name) > 1:
            raise UserError(
                f"{where}: the header has the column {name!r} twice; rename one of them"
            )


def table(texts: Iterable[bytes], source: str, line: int) -> Iterator[Block]:
    """The records of a table; a `_Parser` of `reading`.

    Raises UserError, with the line: another number of columns than the header has, a row without an
    id, letters that are none of DNA or RNA, text that is not UTF-8, quotation marks that are wrong.
    """
    csv.field_size_limit(LONGEST_CELL)
    lines = _lines(texts, source, line)
    first = next(lines)
    while not first.strip():
        first = next(lines)
        line += 1
    columns = _split(first)
    refuse_repeated(columns, f"{shown(source)}: line {line}")
    id_column = next(name for name in ID_COLUMNS if name in columns)
    rows = _reader(first, lines)
    try:
        for row in rows:
            number = line + rows.line_num
            if not row:
                continue
            if len(row) != len(columns):
                raise mistake(
                    source, number, f"{len(row)} columns, but the header has {len(columns)}"
                )
            values = dict(zip(columns, (value.strip() for value in row), strict=True))
            name = values.pop(id_column)
            if len(name.split()) != 1:
                raise mistake(source, number, f"the {id_column} {name!r} is no single word")
            if name_of(name.encode(), source, number, id_column) != (name, ""):
                raise mistake(source, number, f"the {id_column} {name!r} holds a control character")
            wrapped = values.pop(SEQUENCE_COLUMN).encode()  # a cell may be wrapped
            letters = wrapped.replace(b"\n", b"")
            begins = number - wrapped.count(b"\n")
            bases = clean(letters, wrapped, source, begins, name)
            words = (f"{key}={'_'.join(value.split())}" for key, value in values.items() if value)
            yield from _blocks(name, " ".join(words), source, number, bases)
    except csv.Error as error:
        raise mistake(source, line + rows.line_num, f"{error}; correct the line") from None


def _blocks(name: str, description: str, source: str, line: int, bases: bytes) -> Iterator[Block]:
    for start in range(0, max(len(bases), 1), _TOGETHER):
        part = bases[start : start + _TOGETHER]
        last = start + _TOGETHER >= len(bases)
        yield Block(name, description, source, False, line, start, part, last)


def _lines(texts: Iterable[bytes], source: str, line: int) -> Iterator[str]:
    rest = b""
    for text in texts:
        *whole, rest = (rest + text).split(b"\n")
        for row in whole:
            try:
                yield row.decode("utf-8") + "\n"
            except UnicodeDecodeError as error:
                raise mistake(
                    source,
                    line,
                    f"the byte 0x{row[error.start]:02X} is not UTF-8 text; save the table as UTF-8",
                ) from None
            line += 1
    assert not rest.strip(), "texts_of ends every line"


def _reader(header: str, lines: Iterable[str]) -> Any:
    # In tab-separated tables of this field a quotation mark is a letter like any other.
    if "\t" in header.rstrip():
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, strict=True)


def _split(header: str) -> list[str]:
    try:
        return [name.strip() for name in next(_reader(header, [header]), [])]
    except csv.Error:
        return []
