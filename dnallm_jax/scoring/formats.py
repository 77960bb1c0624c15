"""How do rows become a file? TSV, JSON lines or Parquet, told by the name; text plain or packed.

Rows become bytes a part at a time, which are appended to a file in the making: plain text, or for
Parquet an Arrow stream. When all rows are there, that file becomes the output: it is renamed,
packed, or turned into Parquet. So a run can be stopped anywhere, and packed text is one stream, as
every reader expects.
"""

import contextlib
import functools
import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from data_pipeline.errors import UserError
from data_pipeline.spooling import Spooled, pieces
from dnallm_jax.scoring.output import COLUMNS, Result

if TYPE_CHECKING:
    import pyarrow as pa

TSV, JSON_LINES, PARQUET = FORMATS = ("tsv", "jsonl", "parquet")
_ENDINGS = {
    ".tsv": TSV,
    ".tab": TSV,
    ".txt": TSV,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".parquet": PARQUET,
    ".pq": PARQUET,
}
_PACKINGS = {".gz": "gz", ".zst": "zst"}
_ROW_GROUP = 1 << 17  # rows
_LINE, _LINES = 80, 10_000  # bases in a line of FASTA, and lines that are made at a time
METADATA_KEY = b"dnallm_jax"
"""Under this key a Parquet file's metadata hold the provenance, as JSON."""


@dataclass(frozen=True)
class Format:
    """What the output is, and how it is packed ("", gz or zst)."""

    name: str
    packing: str = ""

    def head(self) -> bytes:
        """What comes before all rows."""
        if self.name == TSV:
            return ("\t".join(COLUMNS) + "\n").encode()
        return _schema().serialize().to_pybytes() if self.name == PARQUET else b""

    def rows(self, results: Sequence[Result]) -> bytes:
        """The rows of a part."""
        if self.name == PARQUET:
            return _arrow(results)
        line = tsv_line if self.name == TSV else json_line
        return "".join(map(line, results)).encode()

    def finisher(self, provenance: Mapping[str, Any]) -> Callable[[Path, Path], None] | None:
        """What makes the output of the file with `head` and all `rows`: (that file, the output).

        None where that file is the output already. Equal content gives equal bytes.
        """
        if self.name == PARQUET:
            metadata = {METADATA_KEY: json.dumps(provenance).encode()}
            return functools.partial(write_parquet, metadata=metadata)
        return packer(self.packing)


def choose_format(path: str, name: str = "") -> Format:
    """The format named, or that of the path's ending (TSV where it tells nothing).

    UserError for an unknown name, and for endings that promise what is not written.
    """
    if name not in ("", *FORMATS):
        raise UserError(f"--format={name}: choose one of {', '.join(FORMATS)}")
    stem = PurePath(path).name.lower()
    ending = PurePath(stem).suffix
    packing = _PACKINGS.get(ending, "")
    told = _ENDINGS.get(PurePath(stem.removesuffix(ending)).suffix if packing else ending)
    if not name and told is None and ending in (".csv", ".json", ".xlsx", ".bz2", ".xz", ".zip"):
        raise UserError(
            f"--output={path}: {ending} is not written; choose .tsv, .jsonl or .parquet "
            "(.tsv and .jsonl also with .gz or .zst), or name the --format"
        )
    chosen = Format(name or told or TSV, packing)
    if chosen.name == PARQUET and packing:
        raise UserError(f"--output={path}: Parquet is packed inside; leave out {ending}")
    return chosen


def packing_of(path: str) -> str:
    """'gz', 'zst' or '', told by the name."""
    return _PACKINGS.get(PurePath(path.lower()).suffix, "")


# --- text -----------------------------------------------------------------------------------------


def tsv_line(row: Result) -> str:
    """The row as a line; what is None is an empty field."""
    cells = (
        row.sequence_id,
        str(row.length),
        "" if row.virus_score is None else f"{row.virus_score:.6f}",
        "" if row.is_virus is None else str(int(row.is_virus)),
        str(row.n_windows),
        f"{row.fraction_scored:.4f}",
        "" if row.strand_gap is None else f"{row.strand_gap:.4f}",
        row.status,
    )
    return "\t".join(cells) + "\n"


def json_line(row: Result) -> str:
    """The row as an object on one line, numbers rounded as in TSV; what is None is null."""
    values = {name: getattr(row, name) for name in COLUMNS}
    for name, digits in (("virus_score", 6), ("fraction_scored", 4), ("strand_gap", 4)):
        if values[name] is not None:
            values[name] = round(values[name], digits)
    return json.dumps(values, ensure_ascii=False) + "\n"


def fasta(record: Spooled) -> Iterator[bytes]:
    """The record as FASTA, a piece at a time: its header as it was, and lines of bases."""
    yield f">{record.id} {record.description}".rstrip().encode() + b"\n"
    for piece in pieces(record.bases, _LINES * _LINE):
        lines = (piece[at : at + _LINE] for at in range(0, len(piece), _LINE))
        yield b"".join([line + b"\n" for line in lines])


def called_viral(records: Sequence[Spooled], results: Sequence[Result]) -> Iterator[bytes]:
    """As FASTA, the records that are called viral."""
    for record, row in zip(records, results, strict=True):
        if row.is_virus:
            yield from fasta(record)


def packer(packing: str) -> Callable[[Path, Path], None] | None:
    """What packs one file into another; None for the packing ""."""

    def pack(plain: Path, target: Path) -> None:
        with plain.open("rb") as source, target.open("wb") as file, packed(file, packing) as sink:
            shutil.copyfileobj(source, sink, 1 << 20)

    return pack if packing else None


@contextlib.contextmanager
def packed(file: BinaryIO, packing: str) -> Iterator[BinaryIO]:
    """A file whose content comes out packed in another, without name or date."""
    if packing == "gz":
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as sink:
            yield sink  # type: ignore[misc]  # it writes bytes, and that is all that is asked of it
    elif packing == "zst":
        import zstandard

        with zstandard.ZstdCompressor(level=6).stream_writer(file, closefd=False) as sink:
            yield sink
    else:
        yield file


# --- Parquet --------------------------------------------------------------------------------------


def _schema() -> "pa.Schema":
    import pyarrow as pa

    kinds = (
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.bool_(),
        pa.int64(),
        pa.float64(),
        pa.float64(),
        pa.string(),
    )
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))


def _arrow(results: Sequence[Result]) -> bytes:
    import pyarrow as pa

    columns = {name: [getattr(row, name) for row in results] for name in COLUMNS}
    return pa.RecordBatch.from_pydict(columns, schema=_schema()).serialize().to_pybytes()


def provenance_of(path: Path) -> Any:
    """The provenance in the metadata of a Parquet file; None where there is none."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        metadata = pa.parquet.read_schema(path).metadata
    except pa.ArrowInvalid:
        return None
    return json.loads((metadata or {}).get(METADATA_KEY, b"null"))


def write_parquet(
    stream: Path, target: Path, *, metadata: Mapping[bytes, bytes] | None = None
) -> None:
    """An Arrow stream as Parquet, in row groups of _ROW_GROUP rows (the last may be smaller)."""
    import pyarrow as pa
    import pyarrow.parquet

    with pa.OSFile(str(stream)) as source, pa.ipc.open_stream(source) as batches:
        schema = batches.schema.with_metadata(metadata)
        waiting: list[pa.RecordBatch] = []
        count = 0
        with pa.parquet.ParquetWriter(str(target), schema, compression="zstd") as writer:
            for batch in batches:
                waiting.append(batch)
                count += len(batch)
                if count >= _ROW_GROUP:
                    table = pa.Table.from_batches(waiting).replace_schema_metadata(metadata)
                    whole = count - count % _ROW_GROUP
                    writer.write_table(table.slice(0, whole), row_group_size=_ROW_GROUP)
                    waiting, count = table.slice(whole).to_batches(), count - whole
            if count:
                table = pa.Table.from_batches(waiting).replace_schema_metadata(metadata)
                writer.write_table(table, row_group_size=_ROW_GROUP)
