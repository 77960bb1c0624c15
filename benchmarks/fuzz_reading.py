"""Does any input crash the reader, or does it take nonsense for DNA?

    python -m benchmarks.fuzz_reading [--inputs=100000] [--seed=0]

Good files of every format and packing are damaged at random and read. Each must give records or one
UserError on one line that names the file; the records must be those that a slow reader, written
line by line below, finds, and text files that one refuses must be refused by the other. Prints
counts; ends with exit code 1 if anything was wrong.
"""

import argparse
import bz2
import collections
import csv
import gzip
import io
import lzma
import pathlib
import random
import re
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator

import zstandard

from data_pipeline import reading
from data_pipeline.errors import UserError

Found = list[tuple[str, bytes]]  # (id, bases) of each record

SEEDS = (
    b">a first\nACGTNRYK\nacgtnn\n\n>b circular=true\n--AC*GU.u\n;comment\nACGT\n",
    b"\xef\xbb\xbf>x|1\r\nACGT  \r\nTTGA\r\n\r\n>y two words\r\nGATTACA\r\n",
    b";old style\r>m\rACGT\rACGT\r>n\rTT\r",
    b"@r1 x\nACGTN\n+\nIIII#\n@r2\nAC.T\n+r2\n>@+;\n\n@r3\n\n+\n\n",
    b"@q/1\r\nGATTACA\r\n+\r\n!~@+IJK\r\n@q/2\r\nA\r\n+\r\nI\r\n",
    b"LOCUS       X1   66 bp    DNA  circular VRL 01-JAN-2026\nDEFINITION  A virus,\n"
    b"            complete genome.\nACCESSION   X1\nVERSION     X1.2\nFEATURES\n"
    b"     CDS             1..9\nORIGIN      \n"
    b"        1 acgtacgtac gtacgtacgt acgtacgtac gtacgtacgt acgtacgtac gtacgtacgt\n"
    b"       61 nnrykm\n//\n"
    b"LOCUS       X2   4 bp    RNA  linear   VRL 01-JAN-2026\nVERSION     .\nORIGIN\n"
    b"        1 acgu\n//\n",
    b"LOCUS       a_name_that_is_so_long_that_its_line_is_wrapped\n            4 bp    DNA\n"
    b"ORIGIN\n        1 acgt\n//\n",
    b'id,label,sequence,note\r\na,1,ACGTNN,"x, y"\r\n"b",0,"AC\r\nGT",\r\n',
    b"name\tcontig\tsequence\nx y\tc1\tacgu-\n\n\tc2\tGG\n",
)
SPICE = b'>@+;,"\n\r\t \x00-*.ENUuxX19/=\x01\x7f\xef\xff\x1f\x8b'
LETTERS = frozenset(b"ACGTRYSWKMBDHVNacgtryswkmbdhvn")


def bgzip(data: bytes) -> bytes:
    """`data` in two bgzip blocks and the end block."""
    packed = b""
    for part in (data[: len(data) // 2], data[len(data) // 2 :], b""):
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(part) + packer.flush()
        packed += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\x00BC\x02\x00"
        packed += struct.pack("<H", len(body) + 25) + body
        packed += struct.pack("<II", zlib.crc32(part), len(part))
    return packed


def _unzst(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


PACKINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gz": (lambda data: gzip.compress(data, mtime=0), gzip.decompress),
    "bgzip": (bgzip, gzip.decompress),
    "bz2": (bz2.compress, bz2.decompress),
    "xz": (lzma.compress, lzma.decompress),
    "zst": (zstandard.ZstdCompressor(write_checksum=True).compress, _unzst),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to six random changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed) + 1)
        end = min(len(changed), place + rng.choice((1, 1, 2, 5, 20)))
        match rng.randrange(7):
            case 0:
                changed[place:end] = b""
            case 1:
                changed[place:place] = changed[place:end]
            case 2:
                changed[place:place] = bytes([rng.choice(SPICE)])
            case 3:
                changed[place:end] = bytes(rng.choice(SPICE) for _ in range(end - place))
            case 4:
                changed[place:end] = rng.randbytes(end - place)
            case 5:
                other = rng.choice(SEEDS)
                start = rng.randrange(len(other))
                changed[place:end] = other[start : start + rng.randrange(40)]
            case _:
                if rng.random() < 0.2:
                    del changed[place:]
    return bytes(changed)


# --- the slow reader ------------------------------------------------------------------------------


def slow(data: bytes) -> Found | None:
    """The records of an unpacked file, or None if it must be refused."""
    rows = re.split(rb"\r\n|\r|\n", data.removeprefix(b"\xef\xbb\xbf"))
    first = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not first:
        return []
    try:
        if first[:1] in (b">", b";"):
            return list(_slow_fasta(rows))
        if first[:1] == b"@":
            return None if first[:4] in (b"@HD\t", b"@SQ\t", b"@PG\t") else list(_slow_fastq(rows))
        if first[:6] == b"LOCUS ":
            return list(_slow_genbank(rows))
        if first[:1] not in (b"<", b"{") and b"sequence" in first.splitlines()[0]:
            return list(_slow_table(b"\n".join(rows).rstrip(b" \t") + b"\n"))
    except (AssertionError, UnicodeDecodeError, csv.Error):
        pass
    return None


def _slow_name(text: bytes) -> str:
    name = re.split("[ \t\x01]", text.decode())[0]
    assert name
    assert name.isprintable()
    assert not re.search(rb"[\x00\x02-\x08\x0a-\x1f\x7f]", text)
    return name


def _slow_bases(row: bytes) -> bytes:
    body = row.rstrip(b" \t")
    assert re.fullmatch(rb"[ACGTURYSWKMBDHVNacgturyswkmbdhvn.*-]*", body)
    return re.sub(rb"[.*-]", b"", body).replace(b"U", b"T").replace(b"u", b"t")


def _slow_fasta(rows: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    name, bases = "", b""
    for row in rows:
        if row.startswith(b">"):
            if name:
                yield name, bases
            name, bases = _slow_name(row[1:]), b""
        elif not row.startswith(b";"):
            assert name or not row.strip()
            bases += _slow_bases(row) if name else b""
    if name:
        yield name, bases


def _slow_fastq(rows: list[bytes]) -> Iterator[tuple[str, bytes]]:
    place = 0
    while place < len(rows):
        head = rows[place]
        if not head.strip():
            place += 1
            continue
        assert head.startswith(b"@")
        assert len(rows) >= place + 4
        bases, plus, qualities = rows[place + 1 : place + 4]
        bases, qualities = bases.rstrip(b" \t"), qualities.rstrip(b" \t")
        assert plus.startswith(b"+")
        assert plus[1:].strip() in (b"", head[1:].strip(), *head[1:].split()[:1])
        assert re.fullmatch(rb"[!-~]{%d}" % len(bases), qualities)
        yield _slow_name(head[1:]), _slow_bases(bases.replace(b".", b"N"))
        place += 4


def _slow_genbank(rows: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Only the shape: which lines are heads, which hold bases, and that their numbers fit."""
    head: list[bytes] = []
    inside = False
    letters = bases = b""
    for row in rows:
        if inside and not row.startswith(b"//"):
            words = row.split()
            assert not words or words[0] == str(len(letters) + 1).encode()
            letters += b"".join(words[1:])
            bases += _slow_bases(b"".join(words[1:])).upper()
        elif inside:
            promised = re.match(rb"LOCUS\s+(?:.*\s)?(\d+)\s+(bp|aa)\b", head[0])
            assert not promised or int(promised[1]) == len(letters)
            assert not promised or promised[2] == b"bp"
            yield _slow_genbank_name(head), bases
            head, inside, letters, bases = [], False, b"", b""
        elif not head:
            assert row.startswith(b"LOCUS ") or not row.strip()
            head = [row] if row.startswith(b"LOCUS ") else []
        else:
            assert not re.match(rb"(//|LOCUS)( |\s*$)", row)
            inside = re.match(rb"ORIGIN( |\s*$)", row) is not None
            if len(head) == 1 and not row[:1].strip(b" \t"):
                head[0] += b" " + row.strip()
            else:
                head.append(row)
    assert not head


def _slow_genbank_name(head: list[bytes]) -> str:
    keys: dict[bytes, bytes] = {}
    key = b""
    for row in head[1:]:
        if row[:1].strip(b" \t"):
            key, _, keys[key] = row.rstrip().partition(b" ")
        elif key == b"DEFINITION":
            keys[key] += b" " + row.strip()
    for text in (keys.get(b"VERSION", b""), keys.get(b"ACCESSION", b""), head[0][5:]):
        word = (text.split() or [b""])[0]
        if word not in (b"", b".", b"unknown") and not word.startswith(b"<"):
            return _slow_name(word + b" " + keys.get(b"DEFINITION", b""))
    raise AssertionError


def _slow_table(text: bytes) -> Iterator[tuple[str, bytes]]:
    rest = text.lstrip().decode()
    header = rest.partition("\n")[0]
    if "\t" in header.rstrip():
        rows = csv.reader(io.StringIO(rest), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        rows = csv.reader(io.StringIO(rest), strict=True)
    columns = [name.strip() for name in next(rows)]
    assert len({*columns}) == len(columns)
    ids = [name for name in ("contig", "record", "sequence_id", "id") if name in columns]
    assert ids
    assert "sequence" in columns
    place, letters = columns.index(ids[0]), columns.index("sequence")
    for row in rows:
        if row:
            assert len(row) == len(columns)
            name = row[place].strip()
            assert " " not in name
            assert _slow_name(name.encode()) == name
            yield name, b"".join(map(_slow_bases, row[letters].strip().encode().split(b"\n")))


# --- reading and comparing ------------------------------------------------------------------------


def fault(data: bytes, path: pathlib.Path, rng: random.Random) -> tuple[str, str]:
    """('', what became of it) for a file of content `data`; ('what is wrong', '') for a fault."""
    path.write_bytes(data)
    try:
        records = [(r.id, r.bases) for r in reading.read_records([str(path)], strict=False)]
    except UserError as problem:
        message = str(problem)
        if not message.startswith(f"{path}: ") or not message.isprintable():
            return f"a message that is not one clear line: {message!r}", ""
        found = None
        kind = re.sub(r"'.*?'|\".*?\"|byte 0x..|\d+", "*", message.partition(": ")[2])[:60]
    else:
        found, kind = records, "read"
        for name, bases in records:
            if not name or not LETTERS.issuperset(bases):
                return f"nonsense was read: {name!r}, {bases[:60]!r}", ""
    name = next((n for n, magic in MAGIC.items() if data.startswith(magic)), "")
    if name:
        # Python's own unpackers forgive more than the reader: only what was read is compared.
        if found is not None:
            try:
                expected = slow(PACKINGS[name][1](data))
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as problem:
                return f"damaged {name} data were read: {problem}", ""
            if found != expected:
                return f"read {found} where {expected} is right", ""
        return "", kind
    expected = slow(data)
    if found != expected:
        return f"read {found}, {kind!r}, where {expected} is right", ""
    cut = _in_blocks(data, rng, str(path))
    return ("", kind) if cut == found else (f"cut into blocks: {cut}, not {found}", "")


MAGIC = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\0", "zst": b"\x28\xb5\x2f\xfd"}


def _in_blocks(data: bytes, rng: random.Random, name: str) -> Found | None:
    """The same, with the content cut into small blocks behind the first 300 bytes."""
    step = rng.randint(1, 40)
    blocks = [data[:300], *(data[i : i + step] for i in range(300, len(data), step))]
    found: dict[int, tuple[str, bytes]] = {}
    try:
        for block in reading._parse(blocks, name):
            found[block.line] = (block.id, found.get(block.line, ("", b""))[1] + block.bases)
    except UserError:
        return None
    return list(found.values())


def run(inputs: int, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """(what became of the inputs, the faults found)."""
    rng = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "input"
        for number in range(inputs):
            data = rng.choice(SEEDS) * rng.choice((1, 1, 1, 12))
            if rng.random() < 0.9:
                data = damaged(data, rng)
            if rng.random() < 0.3:
                data = PACKINGS[rng.choice(list(PACKINGS))][0](data)
                if rng.random() < 0.7:
                    data = damaged(data, rng)
            try:
                wrong, kind = fault(data, path, rng)
            except Exception as problem:  # a crash of any kind is what is looked for
                wrong, kind = f"crash: {problem!r}", ""
            counts[kind or "FAULT"] += 1
            if wrong:
                faults.append(f"input {number} of seed {seed}: {wrong}; input: {data!r}")
    return counts, faults


def main() -> int:
    """Run as told on the command line; 1 if there are faults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    counts, faults = run(arguments.inputs, arguments.seed)
    for kind, count in counts.most_common(40):
        print(f"{count:8d}  {kind}")
    for wrong in faults[:10]:
        print(wrong[:2000])
    refused = arguments.inputs - counts["read"] - counts["FAULT"]
    print(
        f"{arguments.inputs} inputs in {time.monotonic() - began:.0f} s: {counts['read']} read, "
        f"{refused} refused with one clear line, {len(faults)} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
