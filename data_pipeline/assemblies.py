"""What is known of one public genome, how is it written down, and where do the tables name it?

An assembly is one genome: its chromosomes and plasmids, or the segments of one virus. It becomes
one gzipped FASTA file. Each header repeats what is known of the genome, so that `prepare` needs no
table: genome= holds the sequences of one genome together, cluster= (the genus, or the species
where no genus has a name) keeps relatives on one side of a split.
"""

import gzip
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data_pipeline.errors import UserError
from data_pipeline.opening import read_bytes
from data_pipeline.reading import Record

UNKNOWN = "-"
LINE = 80  # letters in a line of FASTA
VIRUSES = ("phage", "euk-virus")
_CHECKSUM = re.compile(r"([0-9a-fA-F]{32})[ \t]+\*?(?:\./)?(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Assembly:
    """One genome that may be fetched; UNKNOWN where its source does not say."""

    accession: str  # with version, e.g. GCF_000819615.1
    group: str  # bacteria, archaea, phage or euk-virus
    organism: str
    species_taxid: str  # of NCBI
    taxid: str
    date: str  # of release, YYYY-MM-DD
    level: str  # e.g. Complete Genome
    url: str  # of its FASTA file, or of the archive that holds it
    rank: tuple[float | str, ...]  # the least is the best of its species or genus
    genus: str = UNKNOWN
    family: str = UNKNOWN
    phylum: str = UNKNOWN
    licence: str = UNKNOWN  # in one word, of the source
    host: str = UNKNOWN  # of a virus, as the taxonomy names it, e.g. "vertebrates,human"

    @property
    def cluster(self) -> str:
        """The relatives that must not cross a split: the genus, else the species."""
        return f"species-{self.species_taxid}" if self.genus == UNKNOWN else self.genus

    @property
    def file(self) -> str:
        """Where it is written, from the folder of the corpus; a thousand folders share them."""
        number = re.sub(r"\..*", "", self.accession)[-3:]
        return f"genomes/{number}/{self.accession}.fna.gz"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was written of an assembly."""

    accession: str
    sequences: int
    bases: int
    file: str  # from the folder of the corpus
    bytes: int  # of that file
    md5: str  # of the file that the source gave
    url: str


def describe(assembly: Assembly, title: str) -> str:
    """The key=value words of a FASTA header; blanks inside a value become '_'."""
    virus = assembly.group in VIRUSES
    words = {
        "group": assembly.group,
        "label": str(int(virus)),
        "virus": str(int(virus)),
        "cluster": assembly.cluster,
        "genome": assembly.accession,
        "family": assembly.family,
        "genus": assembly.genus,
        "phylum": assembly.phylum,
        "organism": assembly.organism,
        "species_taxid": assembly.species_taxid,
        "date": assembly.date,
        **({"host": assembly.host} if virus else {}),
        "licence": assembly.licence,
        "title": title,
    }
    return " ".join(f"{key}={'_'.join(value.split()) or UNKNOWN}" for key, value in words.items())


def write(
    assembly: Assembly, records: Iterable[Record], folder: str, *, md5: str, url: str
) -> Fetched:
    """Writes the genome's file under `folder`, whole or not at all; equal records, equal bytes.

    Raises UserError when the disk refuses, and whatever the iteration over `records` raises.
    """
    path = os.path.join(folder, assembly.file)
    partial = f"{path}.part"
    sequences = bases = 0
    # Errors of reading `records` are UserErrors already, so an OSError here is one of writing.
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with (
            open(partial, "wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file,
        ):
            for record in records:
                sequences += 1
                bases += len(record.bases)
                file.write(f">{record.id} {describe(assembly, record.description)}\n".encode())
                for start in range(0, len(record.bases), LINE):
                    file.write(record.bases[start : start + LINE] + b"\n")
        size = os.path.getsize(partial)
        os.replace(partial, path)
    except OSError as problem:
        raise UserError(
            f"{path}: cannot be written ({problem.strerror}); free some space or check your access"
        ) from problem
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return Fetched(assembly.accession, sequences, bases, assembly.file, size, md5, url)


def read_table(
    path: str, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """The rows of a tab-separated table (plain or packed), by column NAME: order and extra columns
    do not matter. The header is the first line that is not a comment, or, as in NCBI's assembly
    summaries, the comment ('#name<TAB>...') that names the first needed column.

    A missing optional column is "". Raises UserError for a missing needed column and for a row of
    another length.
    """
    columns: list[str] = []
    places: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        text = line.rstrip("\r")
        if not text:
            continue
        row = text.split("\t")
        if not columns:
            names = [row[0].lstrip("#").strip(), *row[1:]]
            if text.startswith("#") and needed[0] not in names:
                continue
            for name in needed:
                if name not in names:
                    raise UserError(
                        f"{path}, line {number}: no column {name!r} among the {len(names)} of the "
                        "header; the layout of this table has changed, or it is another table"
                    )
            columns = names
            places = {name: names.index(name) for name in (*needed, *optional) if name in names}
            continue
        if len(row) != len(columns):
            raise UserError(
                f"{path}, line {number}: {len(row)} columns where the header has {len(columns)}; "
                "delete the file to fetch it again"
            )
        yield dict.fromkeys(optional, "") | {name: row[at] for name, at in places.items()}
    if not columns:
        raise UserError(f"{path}: no header with a column {needed[0]!r}; is this the right table?")


def checksums(listing: str) -> dict[str, str]:
    """The md5 of each file that a list (path or URL) of 'md5  ./path' lines names, by its path."""
    matches = (_CHECKSUM.fullmatch(line) for line in _lines(listing))
    return {match[2]: match[1].lower() for match in matches if match}


def checksum(known: dict[str, str], name: str, listing: str) -> str:
    """The one of this file; UserError when the list does not name it."""
    if name not in known:
        raise UserError(
            f"{listing}: names no checksum for {name}, so the file cannot be verified; "
            "try again later"
        )
    return known[name]


def _lines(path: str) -> Iterator[str]:
    rest = b""
    for block in read_bytes(path):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")
