"""Which records do these files hold? Strict reading of FASTA, FASTQ, GenBank, tables from anywhere.

    for record in read_records(expand(["genomes/", "more/*.fq.gz", "@list.txt"])):
        record.id, record.bases

Format and packing are told from the content. Every malformed input is one UserError that names
file, record, line, what is wrong and what to do; it comes when the reading reaches the fault, so
results are whole only once the iteration has ended. Lower case (soft mask; of GenBank, where it
means nothing, upper) and all IUPAC letters are kept, U becomes T, gap characters are left out.
"""

import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from data_pipeline.errors import UserError
from data_pipeline.genbank import RELEASE, genbank
from data_pipeline.opening import expand, is_regular, packing_of, read_bytes, shown
from data_pipeline.parsing import (
    ACCEPTED,
    LONGEST_HEADER,
    Block,
    before_header,
    fasta,
    fastq,
    mistake,
    quote,
    texts_of,
)
from data_pipeline.tables import is_table, table

__all__ = ["Block", "Record", "SeenIds", "expand", "fields", "read_blocks", "read_records"]


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence of a file."""

    id: str
    """The header up to its first blank."""
    description: str
    """The rest of the header."""
    bases: bytes
    """IUPAC DNA letters, case kept, U turned into T, gap characters left out."""
    circular: bool = False
    source: str = ""
    """The input it came from, as `expand` names it."""


def read_records(paths: Sequence[str], *, strict: bool = True) -> Iterator[Record]:
    """The records of the inputs that `paths` name (patterns of `expand`), in order.

    strict: a repeated id, a record without bases and an input without records are UserErrors;
    otherwise they are yielded as they are (and an input without records yields none). Malformed
    files are UserErrors either way. Memory: about the longest record; strict adds 12 to 24 bytes
    for each record read (see `SeenIds`).
    """
    for block in read_blocks(paths, strict=strict):
        if block.last and block.start == 0:
            bases = block.bases
        else:
            if block.start == 0:
                # Its value is its buffer, not a copy: a chromosome is in memory once.
                joined = io.BytesIO()
            joined.write(block.bases)
            if not block.last:
                continue
            bases = joined.getvalue()
            del joined
        yield Record(block.id, block.description, bases, block.circular, block.source)


def read_blocks(paths: Sequence[str], *, strict: bool = True) -> Iterator[Block]:
    """Like `read_records`, but each record comes as one or more `Block`s, of a few MiB at most (a
    packed run of one letter: 20 MiB; a FASTQ read: whole).

    For readers that work on whole chromosomes in constant memory.
    """
    inputs = expand(paths)
    ids = SeenIds()
    for path in inputs:
        count = 0
        for block in _parse(read_bytes(path), path):
            if block.start == 0:
                count += 1
                if strict:
                    if not block.bases:
                        raise mistake(
                            path, block.line, "the record has no bases; remove it", block.id
                        )
                    if not ids.add(block.id):
                        _refuse_repeated(block, inputs)
            yield block
        if strict and not count:
            raise UserError(f"{shown(path)}: holds no records; leave it out or fetch it again")


def fields(description: str) -> dict[str, str]:
    """The 'key=value' words of a description; of a repeated key the last."""
    words = (word.partition("=") for word in description.split())
    return {key: value for key, sign, value in words if key and sign}


# --- repeated ids ---------------------------------------------------------------------------------


class SeenIds:
    """The ids seen, as 64-bit hashes in an open-addressed table: 12 to 24 bytes each.

    A set of the ids would take about 150. Two different ids of a billion share a hash with a chance
    of 3 %, of a hundred million 0.03 %; `_refuse_repeated` looks at the ids themselves.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, name: str) -> bool:
        """True if the id is new."""
        new = self._insert((hash(name) & 0xFFFF_FFFF_FFFF_FFFF) or 1)  # 0 marks a free place
        self._count += new
        if 3 * self._count > 2 * len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for key in filter(None, old):
                self._insert(key)
        return new

    def _insert(self, key: int) -> bool:
        table = self._table
        mask = len(table) - 1
        place = key & mask
        while found := table[place]:
            if found == key:
                return False
            place = (place + 1) & mask
        table[place] = key
        return True


def _refuse_repeated(block: Block, inputs: Sequence[str]) -> None:
    """Raise the error for a second record with the id of `block`; say where the first one is.

    Returns if the inputs, read again from their start, have no earlier record with this id.
    """
    earlier = inputs[: inputs.index(block.source) + 1]
    where = _first_use(block, earlier)
    if where or not all(map(is_regular, earlier)):
        raise mistake(
            block.source,
            block.line,
            f"this name was used before{where}; names must differ: rename or remove one",
            block.id,
        )


def _first_use(block: Block, inputs: Sequence[str]) -> str:
    """' (file, line n)' of the first record with the id of `block` before it, else ''."""
    for path in filter(is_regular, inputs):
        for other in _parse(read_bytes(path), path):
            if path == block.source and other.line >= block.line:
                break
            if other.id == block.id:
                return f" ({path}, line {other.line})"
    return ""


# --- which format ---------------------------------------------------------------------------------

_Parser = Callable[[Iterable[bytes], str, int], Iterator[Block]]

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x1f\x9d", "packed with compress (.Z)", "unpack it first"),
    (b"Rar!", "a rar archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"BAM\x01", "a BAM file", "convert it with samtools fastq or samtools fasta"),
    (b"CRAM", "a CRAM file", "convert it with samtools fastq or samtools fasta"),
    (b"@HD\t", "a SAM file", "convert it with samtools fastq or samtools fasta"),
    (b"@SQ\t", "a SAM file", "convert it with samtools fastq or samtools fasta"),
    (b"@PG\t", "a SAM file", "convert it with samtools fastq or samtools fasta"),
    (b"C'A\x1a", "a 2bit file", "convert it with twoBitToFa"),
    (b"##gff", "a GFF file", "give the FASTA file that belongs to it"),
    (b"##fileformat=VCF", "a VCF file", "give FASTA, FASTQ or GenBank"),
    (b"ID   ", "an EMBL or Swiss-Prot file", "convert it to FASTA or GenBank"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"<", "HTML or XML, perhaps an error page saved as a file", "fetch the file again"),
    (b"{", "JSON", "give FASTA, FASTQ or GenBank"),
    (b"\xff\xfe", "UTF-16 text", "save it as plain ASCII text"),
    (b"\xfe\xff", "UTF-16 text", "save it as plain ASCII text"),
)
"""First bytes, what such a file is, what to do."""


def _parse(blocks: Iterable[bytes], source: str) -> Iterator[Block]:
    """The records in the unpacked bytes of one file; none if it is blank. Any cut into blocks does,
    but the first must show what the file is: 300 bytes, or all.
    """
    texts = texts_of(blocks, source)
    line = 1
    for text in texts:
        if not text.isspace():
            yield from _format(text, source, line)(chain((text,), texts), source, line)
            return
        line += text.count(b"\n")


def _format(text: bytes, source: str, line: int) -> _Parser:
    """The parser for a file that begins, but for blank lines, with `text`; `line` is its line."""
    start = text.lstrip()
    for magic, kind, remedy in _FOREIGN:
        if start.startswith(magic):
            raise UserError(f"{shown(source)}: this is {kind}; {remedy}")
    if packing := packing_of(start):
        raise UserError(f"{shown(source)}: {packing} data packed a second time; unpack it once")
    if start[257:262] == b"ustar":
        raise UserError(f"{shown(source)}: this is a tar archive; unpack it first")
    if start.startswith((b">", b";")):
        return fasta
    if start.startswith(b"@"):
        return fastq
    if start.startswith(b"LOCUS ") or RELEASE in start[:200].split(b"\n")[0]:
        return genbank
    line += text.count(b"\n", 0, len(text) - len(start))
    row = start[:LONGEST_HEADER].split(b"\n", 1)[0].rstrip()
    if is_table(row):
        return table
    if b"\n>" in start:
        raise mistake(source, line, before_header(row))
    if not row.translate(None, ACCEPTED + b" \t"):
        what = "bases without a header; put a line with '>' and a name before them"
        raise mistake(source, line, what)
    raise mistake(
        source,
        line,
        f"not FASTA, FASTQ or GenBank, which begin with '>', '@' or 'LOCUS': found {quote(row)}; "
        "a table of sequences has the columns id and sequence; check that this is the right file",
    )
