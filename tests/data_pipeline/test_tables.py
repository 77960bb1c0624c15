"""Is a table of sequences read like the FASTA file that says the same, and its mistakes by line?"""

import gzip
import pathlib

import pytest

from data_pipeline.contigs import ContigsOptions, build_contigs
from data_pipeline.errors import UserError
from data_pipeline.reading import fields, read_blocks, read_records

ROWS = [("a", "1", "phage", "Some virus", "ACGTUN-acgt"), ("b", "0", "", "x", "GG" * 100_000)]
FASTA = (
    f">a label=1 group=phage organism=Some_virus\nACGTTNacgt\n>b label=0 organism=x\n{ROWS[1][4]}\n"
)


def written(path: pathlib.Path, separator: str, rows: list[tuple[str, ...]] = ROWS) -> str:
    header = separator.join(("id", "label", "group", "organism", "sequence"))
    text = header + "\n" + "".join(separator.join(row) + "\n" for row in rows)
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "separator"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv.gz", ","), ("t.dat", "\t")]
)
def test_a_table_says_what_a_fasta_file_says(
    tmp_path: pathlib.Path, name: str, separator: str
) -> None:
    (tmp_path / "x.fa").write_text(FASTA)
    found = list(read_records([written(tmp_path / name, separator)]))
    wanted = list(read_records([str(tmp_path / "x.fa")]))
    for own, other in zip(found, wanted, strict=True):
        assert (own.id, own.bases) == (other.id, other.bases)
        assert fields(own.description) == fields(other.description)


def test_lines_are_counted_in_the_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text('\n\n"id","sequence","note"\na,AC,"x, y"\n\nb,GT,\n')
    blocks = list(read_blocks([str(tmp_path / "t.csv")]))
    assert [(block.id, block.line, block.description) for block in blocks] == [
        ("a", 4, "note=x,_y"),
        ("b", 6, ""),
    ]


def test_a_long_sequence_comes_in_blocks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.tables._TOGETHER", 70_000)
    path = written(tmp_path / "t.csv", ",")
    blocks = [block for block in read_blocks([path]) if block.id == "b"]
    assert [(block.start, block.last) for block in blocks] == [
        (0, False),
        (70_000, False),
        (140_000, True),
    ]
    assert b"".join(block.bases for block in blocks) == ROWS[1][4].encode()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "1", "g", "o", "ACGJ")], r"t.csv: record 'a', line 2: .*'J'"),
        ([ROWS[0], ("b", "1", "g", "ACGT")], r"t.csv: line 3: 4 columns, but the header has 5"),
        ([ROWS[0], ("", "1", "g", "o", "ACGT")], r"t.csv: line 3: the id '' is no single word"),
        ([("a b", "1", "g", "o", "ACGT")], r"line 2: the id 'a b' is no single word"),
        ([("a\tb", "1", "g", "o", "ACGT")], r"line 2: the id 'a\\tb' is no single word"),
        ([("a\x01", "1", "g", "o", "A")], r"line 2: the id 'a\\x01' holds a control character"),
        ([ROWS[0], ("a", "1", "g", "o", "C")], r"record 'a', line 3: this name was used before"),
        ([("a", "1", "g", "o", "")], r"record 'a', line 2: the record has no bases"),
        ([("a", "1", "g", '"o"x', "A")], r"t.csv: line 2: .* expected .*; correct the line"),
    ],
)
def test_mistakes_name_the_line(
    tmp_path: pathlib.Path, rows: list[tuple[str, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(read_records([written(tmp_path / "t.csv", ",", rows)]))


def test_a_sequence_may_be_wrapped_in_its_cell(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'id,sequence,note\r\na,"ACGT\r\nac \r\nGU",x\r\nb,CC,"two\nlines"\n')
    found = [(r.id, r.bases, r.description) for r in read_records([str(path)])]
    assert found == [("a", b"ACGTacGT", "note=x"), ("b", b"CC", "note=two_lines")]
    path.write_text('id,sequence\na,AC\nb,"ACGT\nAC!T\nAC"\n')
    with pytest.raises(UserError, match=r"record 'b', line 4: character '!' is not IUPAC DNA"):
        list(read_records([str(path)]))


def test_a_stray_tab_behind_the_header(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,sequence\t\na,ACGT\n")
    assert [(r.id, r.bases) for r in read_records([str(path)])] == [("a", b"ACGT")]
    path.write_text("id\tsequence\t\na\tACGT\t\n")  # an empty last column
    assert [(r.id, r.bases) for r in read_records([str(path)])] == [("a", b"ACGT")]


def test_a_column_twice(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text("id,sequence,id\na,AC,b\n")
    with pytest.raises(UserError, match=r"t.csv: line 1: the header has the column 'id' twice"):
        list(read_records([str(tmp_path / "t.csv")]))


def test_bytes_that_are_no_text(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"id\tsequence\na\tAC\nb\xe9\tAC\n")
    with pytest.raises(UserError, match=r"t.tsv: line 3: the byte 0xE9 is not UTF-8"):
        list(read_records([str(tmp_path / "t.tsv")]))


def test_a_table_is_its_own_labels(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "t.tsv", "\t")
    contigs = build_contigs(ContigsOptions(train=(path,)), str(tmp_path / "data"))
    source = contigs.source("train")
    found = [source[number] for number in range(2)]
    assert [int(record["label"]) for record in found] == [1, 0]
    assert found[0]["organism"] == b"Some virus"
    assert found[0]["bases"].tobytes() == b"ACGTTNACGT"
    wrong = written(tmp_path / "w.tsv", "\t", [ROWS[0], ("b", "maybe", "", "x", "GG")])
    with pytest.raises(UserError, match=r"w.tsv, line 3: b has the label 'maybe'"):
        build_contigs(ContigsOptions(train=(wrong,)), str(tmp_path / "wrong"))
