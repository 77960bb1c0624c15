"""What do the bytes of a FASTA or FASTQ file say? Strict parsers on a stream of text blocks.

Every parser takes text blocks and yields `Block`s, holding no more than a block at a time (FASTQ: a
read), so a chromosome on one line needs no more memory than a short read. What is not understood is
a UserError with record and line; nothing is skipped or cut in silence.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from data_pipeline.errors import UserError
from data_pipeline.opening import shown

LETTERS = b"ACGTRYSWKMBDHVNacgtryswkmbdhvn"
"""The letters bases consist of once read: IUPAC DNA."""
GAPS = b"-*."
"""Characters of alignments that stand for no base: left out."""
LONGEST_HEADER = 1 << 20
LONGEST_READ = 64 << 20  # FASTQ, bytes of all four lines

_U_TO_T = bytes.maketrans(b"Uu", b"Tt")
_UNCALLED = bytes.maketrans(b".", b"N")
ACCEPTED = LETTERS + b"Uu" + GAPS
_QUALITIES = bytes(range(33, 127))
_PLAIN = b"\x01\t" + bytes(n for n in range(32, 256) if n != 127)  # what a header may hold
_NEWLINE, _GREATER, _SEMICOLON = b"\n>;"


class Block(NamedTuple):
    """A stretch of one record. The blocks of a record follow each other, from start 0 to the last.

    `bases` is empty only in the single block of a record without bases; where a record is cut means
    nothing. `line` is the line of the record's header in its file, counted from 1.
    """

    id: str
    description: str
    source: str
    circular: bool
    line: int
    start: int  # bases of the record before this block
    bases: bytes
    last: bool


Header = tuple[str, str, str, bool, int]  # the first five fields of its Blocks


def mistake(source: str, line: int, what: str, record: str | None = None) -> UserError:
    """The error for `what` is wrong in a line of a file, in one sentence on one line."""
    if record is None:
        return UserError(f"{shown(source)}: line {line}: {what}")
    name = repr(record if len(record) <= 60 else record[:57] + "...")
    return UserError(f"{shown(source)}: record {name}, line {line}: {what}")


# --- what the formats share -----------------------------------------------------------------------


def texts_of(blocks: Iterable[bytes], source: str) -> Iterator[bytes]:
    """The blocks with line ends CR LF and CR turned into LF, without byte order mark.

    No block ends in a blank, so that a parser sees with every blank what follows it; a last line
    without its end gets one.
    """
    carry = b""
    first = True
    for block in blocks:
        if first:
            block = block.removeprefix(b"\xef\xbb\xbf")
            first = False
        text = carry + block if carry else block
        body = text.rstrip(b" \t\r")
        carry = text[len(body) :]
        if len(carry) > LONGEST_HEADER:
            raise UserError(f"{shown(source)}: over 1 MiB of blanks in a row; fetch the file again")
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if body:
            yield body
    if not first:
        yield b"\n"


def before_header(row: bytes) -> str:
    """What is wrong with `row` before the first header of a FASTA file."""
    return f"text before the first '>': {quote(row)}; remove it or give it a header"


def quote(row: bytes) -> str:
    """The start of a line, as messages show it."""
    text = row.decode("latin-1")
    most = 30 if text[:30].isascii() and text[:30].isprintable() else 6
    return ascii(text[:most]) + ("..." if len(text) > most else "")


def name_of(header: bytes, source: str, line: int, sign: str) -> tuple[str, str]:
    """(id, description) of what follows `sign` in a header line."""
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise mistake(
            source,
            line,
            f"the header holds byte 0x{header[problem.start]:02X}, which is not UTF-8; convert the "
            "file, for example with iconv -f latin1 -t utf-8",
        ) from problem
    if not text.isprintable():
        if controls := header.translate(None, _PLAIN):
            raise mistake(
                source,
                line,
                f"the header holds control byte 0x{controls[0]:02X}; remove it or fetch the file "
                "again",
            )
        # NCBI joins the headers of identical sequences with Control-A, and prints them as ' >'.
        text = text.replace("\x01", " >").replace("\t", " ")
    name, _, description = text.partition(" ")
    if not name:
        raise mistake(
            source, line, f"the header has no name directly after '{sign}'; write one there"
        )
    if not name.isprintable():
        raise mistake(
            source, line, f"the name {name!a} holds an invisible character; rename the record"
        )
    return name, description.strip()


def clean(body: bytes, rows: bytes, source: str, line: int, record: str) -> bytes:
    """The bases in `body`, which is `rows` without line ends; `line` is the number of the first."""
    if not body.translate(None, LETTERS):
        return body
    if b" " in body or b"\t" in body:
        body = b"".join([row.rstrip(b" \t") for row in rows.split(b"\n")])
    body = body.translate(_U_TO_T, GAPS)
    if not body.translate(None, LETTERS):
        return body
    for number, row in enumerate(rows.split(b"\n"), line):
        if wrong := row.rstrip(b" \t").translate(None, ACCEPTED):
            raise mistake(source, number, _not_dna(wrong[0]), record)
    raise AssertionError("a letter was refused that no line holds")


def _not_dna(byte: int) -> str:
    character = chr(byte)
    if character in "EFILOPQJZefilopqjz":
        return f"looks like protein: letter {character!r} is not DNA; give nucleotide sequences"
    if character in "Xx":
        return f"letter {character!r} is not IUPAC DNA; write N for a masked base"
    if character.isascii() and character.isdigit():
        return f"digit {character!r} within the sequence; remove numbers"
    if character in " \t":
        return f"a {'blank' if byte == 32 else 'tab'} within the sequence; remove it"
    if character in ">@":
        return f"{character!r} within the sequence; is a line end missing before it?"
    if byte == 0:
        return "a NUL byte within the sequence; the file is damaged: fetch it again"
    if byte < 32 or byte >= 127:
        kind = "a control byte" if byte < 128 else "not ASCII"
        return f"byte 0x{byte:02X} within the sequence is {kind}; fetch the file again"
    return f"character {character!r} is not IUPAC DNA; remove it or write N"


# --- FASTA ----------------------------------------------------------------------------------------


def fasta(texts: Iterable[bytes], source: str, line: int) -> Iterator[Block]:
    """Records of '>' header lines and lines of sequence; lines that begin with ';' are comments.

    A word 'circular=true' or 'topology=circular' in the header, as assemblers and NCBI write it,
    makes the record circular.
    """
    header: Header | None = None
    held, start = b"", 0  # bases of the record not yielded yet, and how many were
    fresh = True  # the next byte begins a line
    tail = b""  # a header or comment cut by the end of a block
    for text in texts:
        if tail:
            text, tail = tail + text, b""
        place, size = 0, len(text)
        while place < size:
            sign = text[place] if fresh else 0
            if sign in (_GREATER, _SEMICOLON):
                end = text.find(b"\n", place)
                if end < 0:
                    tail = text[place:]
                    if len(tail) > LONGEST_HEADER:
                        raise mistake(source, line, "a header line of over 1 MiB; is this FASTA?")
                    break
                if sign == _GREATER:
                    if header:
                        yield Block(*header, start, held, True)
                    words = text[place + 1 : end]
                    circular = b"circular" in words and (
                        b"circular=true" in words or b"topology=circular" in words
                    )
                    header = (*name_of(words, source, line, ">"), source, circular, line)
                    held, start = b"", 0
                line += 1
                place = end + 1
                continue
            # A '>' or ';' that begins no line is no letter either, and `clean` refuses it.
            stop = text.find(b">", place)
            if stop <= 0 or text[stop - 1] != _NEWLINE:
                stop = size
            comment = text.find(b";", place, stop)
            if comment > 0 and text[comment - 1] == _NEWLINE:
                stop = comment
            rows = text[place:stop]
            body = rows.replace(b"\n", b"")
            if header is None:
                for number, row in enumerate(rows.split(b"\n"), line):
                    if row.strip():
                        raise mistake(source, number, before_header(row.rstrip()))
            else:
                bases = clean(body, rows, source, line, header[0])
                if bases:
                    if held:
                        yield Block(*header, start, held, False)
                        start += len(held)
                    held = bases
            line += len(rows) - len(body)
            fresh = text[stop - 1] == _NEWLINE
            place = stop
    if header:
        yield Block(*header, start, held, True)


# --- FASTQ ----------------------------------------------------------------------------------------


def fastq(texts: Iterable[bytes], source: str, line: int) -> Iterator[Block]:
    """Records of four lines: '@' header, bases, '+', as many qualities. '.' is an uncalled base, N.

    Blank lines between records are passed over. The qualities are checked and left out.
    """
    rest = b""
    for text in chain(texts, (b"",)):
        rows = (rest + text).split(b"\n")
        place, count = 0, len(rows) - 1  # the last row is not ended yet
        while place < count:
            head = rows[place]
            if not head.strip():
                place += 1
                line += 1
                continue
            if not head.startswith(b"@"):
                raise mistake(
                    source,
                    line,
                    f"a FASTQ record must begin with '@', found {quote(head)}; each record is four "
                    "lines: name, bases, '+', qualities (unwrap it with seqtk seq)",
                )
            if place + 4 > count:
                break
            bases, plus, qualities = rows[place + 1 : place + 4]
            yield _read(head, bases, plus, qualities, source, line)
            place += 4
            line += 4
        rest = b"\n".join(rows[place:])
        if len(rest) > LONGEST_READ:
            raise mistake(source, line, "a FASTQ record of over 64 MiB; give assemblies as FASTA")
    if rest.strip():
        name = rest[1:].split(b"\n", 1)[0].split(b" ", 1)[0].decode("utf-8", "replace")
        raise mistake(
            source, line, "the file ends within this record; fetch it again or remove it", name
        )


def _read(
    head: bytes, bases: bytes, plus: bytes, qualities: bytes, source: str, line: int
) -> Block:
    name, description = name_of(head[1:], source, line, "@")
    if not plus.startswith(b"+"):
        raise mistake(
            source,
            line + 2,
            f"the third line of a FASTQ record must begin with '+', found {quote(plus)}; each "
            "record is four lines: name, bases, '+', qualities (unwrap it with seqtk seq)",
            name,
        )
    named = plus[1:].rstrip()  # as the first line, or by the name alone
    if named and named not in (head[1:].rstrip(), head[1:].split(None, 1)[0]):
        raise mistake(
            source,
            line + 2,
            f"the name after '+' is another one: {quote(plus[1:])}; the file is damaged or mixed",
            name,
        )
    bases, qualities = bases.rstrip(b" \t"), qualities.rstrip(b" \t")
    if len(qualities) != len(bases):
        raise mistake(
            source,
            line + 3,
            f"{len(qualities)} qualities for {len(bases)} bases; the record is damaged or cut off",
            name,
        )
    if wrong := qualities.translate(None, _QUALITIES):
        raise mistake(
            source, line + 3, f"byte 0x{wrong[0]:02X} is not a quality; fetch the file again", name
        )
    called = bases.translate(_UNCALLED) if b"." in bases else bases
    letters = clean(called, called, source, line + 1, name)
    return Block(name, description, source, False, line, 0, letters, True)
