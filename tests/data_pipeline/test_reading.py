"""Are good files of every dialect read right, and bad ones refused with the right sentence?"""

import bz2
import gzip
import io
import lzma
import pathlib
import re

import pytest
import zstandard

from data_pipeline import parsing, reading
from data_pipeline.errors import UserError
from data_pipeline.reading import Record, fields, read_blocks, read_records
from tests.data_pipeline.broken_files import BROKEN, LENIENT, READ, genbank
from tests.data_pipeline.broken_packages import GOOD, PACKED, PACKERS

Pairs = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(name: str, content: bytes, *, strict: bool = True) -> list[Record]:
    pathlib.Path(name).write_bytes(content)
    return list(read_records([name], strict=strict))


def pairs(records: list[Record]) -> Pairs:
    return [(record.id, record.bases) for record in records]


# --- broken files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN | PACKED)
def test_a_broken_file_gets_its_sentence(name: str) -> None:
    content, message = (BROKEN | PACKED)[name]
    with pytest.raises(UserError) as caught:
        read(name, content)
    assert str(caught.value) == f"{name}: {message}"
    assert str(caught.value).isprintable()  # so it is one line
    if name in LENIENT:
        read(name, content, strict=False)
    else:
        with pytest.raises(UserError, match=re.escape(message)):
            read(name, content, strict=False)


def test_there_are_many_broken_files() -> None:
    files = BROKEN | PACKED
    assert len(files) == len(BROKEN) + len(PACKED) >= 100
    assert len({message for _, message in files.values()}) >= 80


def test_the_mistake_comes_after_the_good_records() -> None:
    pathlib.Path("x.fa").write_bytes(b">a\nACGT\n>b\nACGE\n")
    records = read_records(["x.fa"])
    assert next(records).id == "a"
    with pytest.raises(UserError, match="record 'b', line 4"):
        next(records)


# --- good files -----------------------------------------------------------------------------------

TWO = [("a", b"ACGTacgtNN"), ("b", b"TTGA")]
GOOD_FASTA = {
    "plain": b">a\nACGTacgtNN\n>b\nTTGA\n",
    "wrapped": b">a\nACGT\nacgt\nNN\n>b\nTT\nGA\n",
    "no last line end": b">a\nACGTacgtNN\n>b\nTTGA",
    "windows": b">a\r\nACGTacgt\r\nNN\r\n>b\r\nTTGA\r\n",
    "old mac": b">a\rACGTacgt\rNN\r>b\rTTGA\r",
    "mixed line ends": b">a\r\nACGT\nacgt\rNN\n>b\nTTGA\r",
    "blank lines": b"\n\n>a\n\nACGT\n\nacgtNN\n\n>b\n \nTTGA\n\n",
    "comments": b";old\n; comment > here\n>a\nACGT\n;in between\nacgtNN\n>b\n;\nTTGA\n;end",
    "byte order mark": b"\xef\xbb\xbf>a\nACGTacgtNN\n>b\nTTGA\n",
    "blanks behind lines": b">a  \t\nACGT \nacgt\t \nNN  \n>b \nTTGA ",
    "RNA": b">a\nACGUacguNN\n>b\nUUGA\n",
    "gaps": b">a\n--AC.GT-acgt\nNN*\n>b\n.\nTT-GA*\n",
}


@pytest.mark.parametrize("dialect", GOOD_FASTA)
def test_dialects_of_fasta(dialect: str) -> None:
    assert pairs(read("x.fa", GOOD_FASTA[dialect])) == TWO


def test_all_letters_are_kept() -> None:
    letters = b"ACGTRYSWKMBDHVNacgtryswkmbdhvn"
    assert pairs(read("x.txt", b">a\n" + letters)) == [("a", letters)]
    assert letters == parsing.LETTERS


def test_headers() -> None:
    content = (
        b">a\tfirst word=1\n"
        b"A\n>b  two\tparts \nC\n"
        b">gi|1|x; one\x01gi|2|y; two\nG\n"
        + ">ü Paraná=µ\nT\n".encode()
        + b">p|1 group=phage circular=true len=1 > = a=b=c\nA\n>q [topology=circular]\nA\n"
    )
    records = read("x.fa", content)
    assert [(r.id, r.description) for r in records] == [
        ("a", "first word=1"),
        ("b", "two parts"),
        ("gi|1|x;", "one >gi|2|y; two"),
        ("ü", "Paraná=µ"),
        ("p|1", "group=phage circular=true len=1 > = a=b=c"),
        ("q", "[topology=circular]"),
    ]
    assert [r.circular for r in records] == [False] * 4 + [True] * 2
    assert {r.source for r in records} == {"x.fa"}
    assert fields(records[4].description) == {
        "group": "phage",
        "circular": "true",
        "len": "1",
        "a": "b=c",
    }
    assert fields("") == {}


def test_fastq() -> None:
    content = (
        b"@r1 x y\nACGTN\n+\nIIII#\n@r2\nAC.u\n+r2\n@+>;\n\n@r3 z\r\nGA-TA \r\n+r3 z\r\n!~IJK\r\n"
        b"@r4 w\nA\n+r4\n@\n"
    )
    records = read("x.fq", content)
    assert pairs(records) == [("r1", b"ACGTN"), ("r2", b"ACNt"), ("r3", b"GATA"), ("r4", b"A")]
    assert [r.description for r in records] == ["x y", "", "z", "w"]


def test_fastq_may_hold_empty_reads_when_scoring() -> None:
    content = READ + b"@r2\n\n+\n\n" + b"@r3\nA\n+\nI\n@r4\n\n+\n"
    found = pairs(read("x.fq", content, strict=False))
    assert found == [("r1", b"ACGT"), ("r2", b""), ("r3", b"A"), ("r4", b"")]


def test_scoring_takes_repeated_and_empty_records() -> None:
    found = pairs(read("x.fa", b">a\n>a\nACGT\n>b\n-\n", strict=False))
    assert found == [("a", b""), ("a", b"ACGT"), ("b", b"")]


GENBANK = b"""\
LOCUS       NC_1                      66 bp ss-DNA     circular PHG 06-JUL-2018
DEFINITION  Escherichia phage phiX174,
            complete genome.
ACCESSION   NC_1 J02482
VERSION     NC_1.1
KEYWORDS    RefSeq.
FEATURES             Location/Qualifiers
     source          1..66
                     /organism="ORIGIN // LOCUS"
BASE COUNT       20 a
ORIGIN      1 bp upstream of nothing
        1 gagttttatc gcttccatga cgcagaagtt aacactttcg gatatttctg atgagtcgaa
       61 aaattr

//

LOCUS       contig_2_length_23452_cov_14.41234 bp   DNA     linear
DEFINITION
ACCESSION
VERSION
ORIGIN
        1 ACGU
//
LOCUS       circular_3   4 bp    DNA     linear   VRL 01-JAN-2026
ACCESSION   A3
VERSION     .
ORIGIN
        1 ac gt
//
"""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_genbank(end: bytes) -> None:
    records = read("x.gbk", GENBANK.replace(b"\n", end))
    long = b"GAGTTTTATCGCTTCCATGACGCAGAAGTTAACACTTTCGGATATTTCTGATGAGTCGAAAAATTR"
    assert records == [
        Record("NC_1.1", "Escherichia phage phiX174, complete genome", long, True, "x.gbk"),
        Record("contig_2_length_23452_cov_14.41234", "", b"ACGT", False, "x.gbk"),
        Record("A3", "", b"ACGT", False, "x.gbk"),
    ]


def test_a_genbank_locus_line_may_be_wrapped() -> None:
    locus = b"LOCUS       NODE_1_length_1234567890_cov_12.3456789_and_more_words\n            "
    (record,) = read("x.gb", genbank(locus=locus + b"12 bp    DNA     circular BCT 01-JAN-2026"))
    assert (record.id, record.bases, record.circular) == ("X1.1", b"ACGTACGTACGT", True)
    with pytest.raises(UserError, match="LOCUS promises 13 bases, ORIGIN holds 12"):
        read("x.gb", genbank(locus=locus + b"13 bp    DNA     circular BCT 01-JAN-2026"))


def test_the_preface_of_a_genbank_release_file_is_passed_over() -> None:
    preface = (
        b"GBVRL1.SEQ          Genetic Sequence Data Bank\n       February 15 2026\n\n  loci\n\n"
    )
    assert pairs(read("x.seq", preface + genbank())) == [("X1.1", b"ACGTACGTACGT")]


def test_a_fasta_header_may_speak_of_genbank() -> None:
    assert pairs(read("x", b">a Genetic Sequence Data Bank\nACGT\n")) == [("a", b"ACGT")]


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("size", [1, 3_000, 100_000])
def test_packings_are_told_from_the_content(packing: str, size: int) -> None:
    bases = b"ACGTTGCATTAG" * size
    content = PACKERS[packing](b">a\n" + bases + b"\n>b\nTTGA\n")
    assert pairs(read("name.without.ending", content)) == [("a", bases), ("b", b"TTGA")]


def test_a_long_run_of_n_is_unpacked_in_parts() -> None:
    bases = b"N" * 24_000_000
    for packer in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        pathlib.Path("x").write_bytes(packer(b">a\n" + bases))
        sizes = [len(block.bases) for block in read_blocks(["x"])]
        assert sum(sizes) == len(bases)
        assert max(sizes) < 20 << 20


# --- blocks, repeated ids, memory -----------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 5_000_000])
@pytest.mark.parametrize("kind", ["fasta", "genbank"])
def test_long_records_come_in_blocks(kind: str, width: int) -> None:
    bases = b"ACGTTGCATT" * 500_000
    if kind == "fasta":
        rows = b"\n".join(bases[i : i + width] for i in range(0, len(bases), width))
        content = b">a circular=true\n" + rows + b"\n>b\n" + rows + b"\n>c\n"
    else:
        rows = b"".join(b"%9d %s\n" % (i + 1, bases[i : i + 60]) for i in range(0, len(bases), 60))
        content = b"".join(
            b"LOCUS   %c %d bp DNA circular\nORIGIN\n%s//\n"
            % (name, len(body) and len(bases), body)
            for name, body in ((b"a", rows), (b"b", rows), (b"c", b""))
        )
    pathlib.Path("x").write_bytes(content)
    blocks = list(read_blocks(["x"], strict=False))
    for name in "ab":
        own = [block for block in blocks if block.id == name]
        assert len(own) >= 3
        assert [block.last for block in own] == [False] * (len(own) - 1) + [True]
        assert [block.start for block in own] == [
            sum(len(b.bases) for b in own[:i]) for i in range(len(own))
        ]
        assert b"".join(block.bases for block in own) == bases
        mark = b">%c" if kind == "fasta" else b"LOCUS   %c"
        before = content[: content.index(mark % name.encode())]
        assert {block.line for block in own} == {before.count(b"\n") + 1}
    (empty,) = (block for block in blocks if block.id == "c")
    assert (empty.start, empty.bases, empty.last) == (0, b"", True)
    assert [(r.id, len(r.bases)) for r in read_records(["x"], strict=False)] == [
        ("a", len(bases)),
        ("b", len(bases)),
        ("c", 0),
    ]


def test_names_may_not_repeat_in_any_of_the_files() -> None:
    pathlib.Path("x.fa").write_bytes(b">b\nACGT\n;\n>a\nACGT\n")
    pathlib.Path("y.fq").write_bytes(b"@c\nA\n+\nI\n@a\nA\n+\nI\n")
    with pytest.raises(UserError) as caught:
        list(read_records(["x.fa", "y.fq"]))
    assert str(caught.value) == (
        "y.fq: record 'a', line 5: this name was used before (x.fa, line 4); names must differ: "
        "rename or remove one"
    )
    assert len(list(read_records(["x.fa", "y.fq"], strict=False))) == 4


def test_names_of_equal_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "hash", lambda name: 5, raising=False)
    assert len(read("x.fa", b">a\nACGT\n>b\nACGT\n>c\nACGT\n")) == 3
    with pytest.raises(UserError, match=r"line 5: this name was used before \(x.fa, line 3\)"):
        read("x.fa", b">a\nACGT\n>b\nACGT\n>b\nACGT\n")


def test_the_table_of_ids_grows_and_forgets_none() -> None:
    ids = reading.SeenIds()
    names = [f"read/{number}" for number in range(20_000)]
    assert all(ids.add(name) for name in names)
    assert not any(ids.add(name) for name in names)
    assert len(ids._table) * ids._table.itemsize <= 27 * len(names)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped(gzip.compress(GOOD))
    assert list(read_records(["-"])) == [Record("a", "", b"ACGTACGTAC", False, "-")]
    piped(b">a\nACGE\n")
    with pytest.raises(UserError, match=r"^standard input: record 'a', line 2: looks like protein"):
        list(read_records(["-"]))
    piped(GOOD + GOOD)
    with pytest.raises(UserError, match="line 3: this name was used before; names must differ"):
        list(read_records(["-"]))
    piped(b"")
    with pytest.raises(UserError, match=r"^standard input: holds no records"):
        list(read_records(["-"]))


def test_real_genomes(real_data: pathlib.Path) -> None:
    path = str(real_data / "small" / "virus_small.fa.gz")
    found = pairs(list(read_records([path])))
    with gzip.open(path) as file:
        text = file.read()
    expected = [
        (part.split(b" ", 1)[0].decode(), b"".join(part.split(b"\n")[1:]))
        for part in text[1:].split(b"\n>")
    ]
    assert found == expected
