"""Do rows say the same in every format, and does every reader get them whole?"""

import csv
import gzip
import io
import json
import math
import pathlib

import pyarrow.parquet
import pytest
import zstandard

from data_pipeline.errors import UserError
from dnallm_jax.scoring import formats
from dnallm_jax.scoring.formats import FORMATS, METADATA_KEY, Format, choose_format, fasta
from dnallm_jax.scoring.output import COLUMNS, Result
from tests.dnallm_jax.scoring.standin import record

ROWS = [
    Result("a", 100, 0.9876543, True, 1, 1.0, 0.25, "ok"),
    Result('"ß|7",', 0, None, None, 0, 0.0, None, "empty"),
    Result("NA", 250_000_000, 1e-9, False, 250_000, 1 / 3, 0.0, "duplicate_id"),
]
PROVENANCE = {"version": "1", "threshold": 0.5}


def written(format: Format, folder: pathlib.Path, rows: list[Result] = ROWS) -> bytes:
    """What the format makes of the rows, given in two parts."""
    partial, target = folder / "partial", folder / "target"
    partial.write_bytes(format.head() + format.rows(rows[:1]) + format.rows(rows[1:]))
    finisher = format.finisher(PROVENANCE)
    if finisher is None:
        return partial.read_bytes()
    finisher(partial, target)
    return target.read_bytes()


def read(format: Format, data: bytes) -> list[dict]:
    """The rows again, in types of Python."""
    if format.packing == "gz":
        data = gzip.decompress(data)
    if format.packing == "zst":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    if format.name == formats.PARQUET:
        return pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    text = io.StringIO(data.decode())
    if format.name == formats.JSON_LINES:
        return [json.loads(line) for line in text]
    kinds = (str, int, float, lambda cell: cell == "1", int, float, float, str)
    return [
        {
            name: kind(row[name]) if row[name] else None
            for name, kind in zip(COLUMNS, kinds, strict=True)
        }
        for row in csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]


ALL = [Format(name, packing) for name in FORMATS for packing in ("", "gz", "zst")]
ALL = [format for format in ALL if not (format.name == formats.PARQUET and format.packing)]


@pytest.mark.parametrize("format", ALL, ids=str)
def test_rows_come_back(format: Format, tmp_path: pathlib.Path) -> None:
    data = written(format, tmp_path)
    assert data == written(format, tmp_path), "equal rows give equal bytes"
    found = read(format, data)
    assert [list(row) for row in found] == [list(COLUMNS)] * 3
    for row, expected in zip(found, ROWS, strict=True):
        for name in COLUMNS:
            value, right = row[name], getattr(expected, name)
            assert type(value) is type(right), name
            if isinstance(right, float):
                # Text is rounded.
                digits = 0 if format.name == formats.PARQUET else 6 if name == "virus_score" else 4
                assert math.isclose(value, right, abs_tol=0.51 * 10**-digits if digits else 0)
            else:
                assert value == right, name


def test_rows_as_text() -> None:
    assert Format("tsv").rows(ROWS[:2]) == (
        'a\t100\t0.987654\t1\t1\t1.0000\t0.2500\tok\n"ß|7",\t0\t\t\t0\t0.0000\t\tempty\n'.encode()
    )
    assert Format("jsonl").rows(ROWS[1:2]) == (
        '{"sequence_id": "\\"ß|7\\",", "length": 0, "virus_score": null, "is_virus": null, '
        '"n_windows": 0, "fraction_scored": 0.0, "strand_gap": null, "status": "empty"}\n'.encode()
    )


def test_parquet_holds_its_provenance(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_ROW_GROUP", 40)
    data = written(Format("parquet"), tmp_path, ROWS * 33)
    file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    assert json.loads(file.schema_arrow.metadata[METADATA_KEY]) == PROVENANCE
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [40, 40, 19]
    assert file.read()["sequence_id"].to_pylist() == [row.sequence_id for row in ROWS * 33]


@pytest.mark.parametrize(
    ("path", "name", "chosen"),
    [
        ("-", "", Format("tsv")),
        ("x", "", Format("tsv")),
        ("a.b/scores.TSV.gz", "", Format("tsv", "gz")),
        ("scores.gz", "", Format("tsv", "gz")),
        ("scores.jsonl.zst", "", Format("jsonl", "zst")),
        ("scores.ndjson", "", Format("jsonl")),
        ("scores.parquet", "", Format("parquet")),
        ("scores.parquet", "tsv", Format("tsv")),
        ("scores.csv", "tsv", Format("tsv")),
        ("-", "jsonl", Format("jsonl")),
    ],
)
def test_the_name_tells_the_format(path: str, name: str, chosen: Format) -> None:
    assert choose_format(path, name) == chosen


@pytest.mark.parametrize(
    ("path", "name", "told"),
    [
        ("x.csv", "", r"\.csv is not written"),
        ("x.tsv.bz2", "", r"\.bz2 is not written"),
        ("x.tsv", "csv", "choose one of tsv, jsonl, parquet"),
        ("x.parquet.gz", "", "packed inside"),
        ("x.gz", "parquet", "packed inside"),
    ],
)
def test_formats_that_are_not_written(path: str, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        choose_format(path, name)


def test_fasta_keeps_headers_and_letters() -> None:
    records = [record("a", b"ACGTn" * 30, "about it"), record("ß", b"", ""), record("c", b"GG")]
    lines = b"".join(block for one in records for block in fasta(one)).decode().splitlines()
    assert lines == [">a about it", ("ACGTn" * 30)[:80], ("ACGTn" * 30)[80:], ">ß", ">c", "GG"]
