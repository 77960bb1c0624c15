"""Is every label found, and every mistake in a table told with its file and line?"""

import pathlib

import pytest

from data_pipeline.errors import UserError
from data_pipeline.labels import Labels, read_labels
from data_pipeline.records import Measured
from data_pipeline.survey import measured


def records(path: pathlib.Path, *headers: str) -> list[Measured]:
    path.write_text("".join(f">{header}\nACGT\n" for header in headers))
    return list(measured([str(path)]))


def labels(tmp_path: pathlib.Path, table: str, ending: str = ".tsv") -> Labels:
    (tmp_path / f"x{ending}").write_text(table)
    return read_labels([str(tmp_path / "x.fa")])


@pytest.mark.parametrize(
    ("ending", "table"),
    [
        (".tsv", "contig\tlabel\tfamily\na\t1\tF f\nb\t0\t\n"),
        (".tsv", "family\tlabel\trecord\tcontig\nF f\tVirus\tzzz\ta\n\tnon-virus\tzzz\tb\n"),
        (".tsv", "\ufeffsequence_id\tlabel\tfamily\r\na\t1\tF f\r\n\r\nb\t0\t\r\n"),
        (".csv", 'id,label,family\na,viral,"F f"\nb,0,\n'),
    ],
)
def test_tables(tmp_path: pathlib.Path, ending: str, table: str) -> None:
    a, b = records(tmp_path / "x.fa", "a label=0 phylum=P", "b")
    found = labels(tmp_path, table, ending)
    assert (found.label(a), found.label(b)) == (1, 0)  # the table, not the header
    assert found.metadata(a)["family"] == "F f"
    assert found.metadata(a)["phylum"] == "P"
    assert found.metadata(b)["family"] == ""
    found.refuse_unused()


@pytest.mark.parametrize("name", ["x.fa.gz", "x.fasta", "x.fna.zst", "x.fq.bz2"])
def test_the_table_lies_beside_whatever_the_endings(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "x.tsv").write_text("id\tlabel\na\t1\n")
    path = str(tmp_path / name)
    assert read_labels([path]).tables == {path: str(tmp_path / "x.tsv")}
    assert read_labels([str(tmp_path / "y.fa")]).tables == {}


def test_labels_from_headers(tmp_path: pathlib.Path) -> None:
    a, b, c, d = records(tmp_path / "x.fa", "a label=1", "b label=non-virus", "c", "d label=2")
    found = read_labels([str(tmp_path / "x.fa")])
    assert (found.label(a), found.label(b)) == (1, 0)
    with pytest.raises(UserError, match=r"x.fa: record c has no label; .* x.tsv"):
        found.label(c)
    with pytest.raises(UserError, match=r"x.fa: record d has the label '2'"):
        found.label(d)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"x.tsv, line 1: .* it has nothing"),
        ("name\tlabel\n", r"line 1: the header needs a column label and one of contig, record"),
        ("id\tlabel\tlabel\n", r"x.tsv, line 1: the header has the column 'label' twice"),
        ("id\tclass\n", r"line 1: .* it has id, class"),
        ("id\tlabel\na\t1\nb\tmaybe\n", r"x.tsv, line 3: b has the label 'maybe'; write 1"),
        ("id\tlabel\na\t1\na\t1\n", r"x.tsv, line 3: a is in line 2 too"),
        ("id\tlabel\na\n", r"x.tsv, line 2: 1 columns, but the header has 2"),
        ("id\tlabel\na\t1\t0\n", r"x.tsv, line 2: 3 columns"),
    ],
)
def test_malformed_tables(tmp_path: pathlib.Path, table: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        labels(tmp_path, table)


def test_tables_that_are_no_text(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.tsv").write_bytes(b"id\tlabel\na\xff\t1\n")
    with pytest.raises(UserError, match=r"x.tsv: the byte 0xff is not UTF-8"):
        read_labels([str(tmp_path / "x.fa")])
    (tmp_path / "x.tsv").unlink()
    with pytest.raises(UserError, match=r"x.csv, line 3: .* expected"):
        labels(tmp_path, 'id,label\nc,1\n"a"b,1\n', ".csv")


def test_records_and_rows_must_match(tmp_path: pathlib.Path) -> None:
    a, b = records(tmp_path / "x.fa", "a", "b")
    found = labels(tmp_path, "id\tlabel\na\t1\nc\t0\n")
    found.metadata(a)
    with pytest.raises(UserError, match=r"x.fa: record b has no row in .*x.tsv"):
        found.metadata(b)
    with pytest.raises(UserError, match=r"x.tsv, line 3: c is not in .*x.fa"):
        found.refuse_unused()
