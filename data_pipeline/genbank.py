"""What do the lines of a GenBank flat file say? A strict parser on a stream of text blocks."""

import re
from collections.abc import Iterable, Iterator

from data_pipeline.errors import UserError
from data_pipeline.opening import BLOCK
from data_pipeline.parsing import LONGEST_HEADER, Block, Header, clean, mistake, name_of, quote

RELEASE = b"Genetic Sequence Data Bank"
"""What the first line of a GenBank release file holds."""
_LOCUS = re.compile(rb"LOCUS\s+(?:(.*)\s)?(\d+)\s+(bp|aa)\b(.*)")
Rows = Iterator[tuple[int, bytes]]  # line number, line


def genbank(texts: Iterable[bytes], source: str, line: int) -> Iterator[Block]:
    """Records from LOCUS to '//'. Id: VERSION, else ACCESSION, else LOCUS; DEFINITION describes.

    The base number before each line of ORIGIN and the length in LOCUS must fit the bases, so that
    lost lines are noticed. Text before the first LOCUS of a GenBank release file is passed over.
    Bases come in upper case: the format writes all of them in lower case, which masks nothing.
    """
    rows = _rows(texts, source, line)
    preface = True  # before the first LOCUS
    released = False  # in a GenBank release file
    for number, row in rows:
        if row.startswith(b"LOCUS "):
            preface = False
            header, length = _head(row, rows, source, number)
            held, start = b"", 0
            for bases in _origin(rows, header, length):
                if held:
                    yield Block(*header, start, held, False)
                    start += len(held)
                held = bases
            yield Block(*header, start, held, True)
        elif row.strip():
            released = released or RELEASE in row
            if not (preface and released) or row.startswith(b"//"):
                raise mistake(
                    source,
                    number,
                    f"a GenBank record must begin with LOCUS, found {quote(row)}; remove this text",
                )
    if preface:
        raise mistake(source, line, "a GenBank file without a LOCUS line; fetch the file again")


def _rows(texts: Iterable[bytes], source: str, line: int) -> Rows:
    rest = b""
    for text in texts:
        *rows, rest = (rest + text).split(b"\n")
        yield from enumerate(rows, line)
        line += len(rows)
        if len(rest) > LONGEST_HEADER:
            raise mistake(source, line, "a line of over 1 MiB; is this GenBank?")


def _head(locus: bytes, rows: Rows, source: str, first: int) -> tuple[Header, int]:
    """The header of a record and its length in bases (-1: not told), read up to ORIGIN."""
    entry: dict[bytes, bytes] = {}
    keyword = b""
    line = first
    for line, row in rows:
        if row[:1] in (b"", b" ", b"\t"):
            if keyword == b"DEFINITION":
                entry[keyword] += b" " + row.strip()
            elif not keyword:  # some programs wrap the LOCUS line behind a long name
                locus += b" " + row.strip()
            continue
        keyword, _, text = row.rstrip().partition(b" ")
        if keyword == b"ORIGIN":
            return _header(locus, entry, source, first)
        if keyword in (b"//", b"LOCUS"):
            only = "only a CONTIG line" if b"CONTIG" in entry else "no ORIGIN"
            raise mistake(
                source,
                line,
                f"the record holds no bases ({only}); fetch the full record (NCBI: gbwithparts)",
                _id(locus, entry),
            )
        entry[keyword] = text.strip()
    raise _cut_off(source, line, _id(locus, entry))


def _header(locus: bytes, entry: dict[bytes, bytes], source: str, line: int) -> tuple[Header, int]:
    match = _LOCUS.match(locus)  # some programs write no blank between name and length
    length = int(match[2]) if match else -1
    definition = entry.get(b"DEFINITION", b"").strip().removesuffix(b".")
    words = _id(locus, entry).encode("utf-8", "surrogateescape") + b" " + definition
    name, description = name_of(words, source, line, "LOCUS")
    if match and match[3] == b"aa":
        raise mistake(source, line, "a protein record (aa); give nucleotide records", name)
    circular = b"circular" in (match[4] if match else locus).split()
    return (name, description, source, circular, line), length


def _id(locus: bytes, entry: dict[bytes, bytes]) -> str:
    """The first of VERSION, ACCESSION and LOCUS that is not left blank or a placeholder."""
    for text in (entry.get(b"VERSION", b""), entry.get(b"ACCESSION", b""), locus[5:]):
        word = text.split(None, 1)[0] if text.strip() else b""
        if word not in (b"", b".", b"unknown") and not word.startswith(b"<"):
            return word.decode("utf-8", "surrogateescape")
    return ""


def _origin(rows: Rows, header: Header, length: int) -> Iterator[bytes]:
    """The bases between ORIGIN and '//', in stretches of about BLOCK, never empty."""
    name, _, source, _, line = header
    parts: list[bytes] = []
    size = seen = 0  # bases in `parts`; letters so far, gaps included
    for line, row in rows:
        if row.startswith(b"//"):
            if length not in (-1, seen):
                raise mistake(
                    source,
                    line,
                    f"LOCUS promises {length} bases, ORIGIN holds {seen}; fetch the file again",
                    name,
                )
            if size:
                yield b"".join(parts)
            return
        words = row.split()
        if not words:
            continue
        if words[0] != b"%d" % (seen + 1):
            raise mistake(
                source,
                line,
                f"the line must begin with base number {seen + 1}, found {quote(words[0])}; "
                "lines are missing or changed: fetch the file again",
                name,
            )
        letters = b"".join(words[1:])
        bases = clean(letters, letters, source, line, name).upper()
        seen += len(letters)
        parts.append(bases)
        size += len(bases)
        if size >= BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    raise _cut_off(source, line, name)


def _cut_off(source: str, line: int, name: str) -> UserError:
    return mistake(
        source, line, "the file ends within this record, before its '//'; fetch it again", name
    )
