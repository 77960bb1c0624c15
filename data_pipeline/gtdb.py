"""Which GTDB representatives are wanted, and how do they come out of one archive of hundreds of GB?

The choice is made from GTDB's metadata tables (columns by name), kept in the folder. The archive
of all representatives is read once, as it comes, and never stored: of the genomes on the list, one
at a time lies on the disk as a copy. A dropped connection is taken up where it broke. A killed run
keeps the genomes it has, but reads the archive from its start again, since gzip has no other way
in; it ends with the last genome that is missing.
"""

import contextlib
import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import IO

from data_pipeline.assemblies import UNKNOWN, Assembly, Fetched, read_table, write
from data_pipeline.errors import UserError
from data_pipeline.reading import read_records
from data_pipeline.streaming import WebStream

BASE_URL = "https://data.gtdb.ecogenomic.org/releases/latest"
LICENCE = "GTDB: CC BY-SA 4.0; the genomes come from INSDC and RefSeq, without restrictions on use"
LICENCE_WORD = "CC-BY-SA-4.0"
DOMAINS = ("bac120", "ar53")
CHECKSUMS = "MD5SUM.txt"

_NEEDED = ("accession", "gtdb_representative", "gtdb_taxonomy", "ncbi_taxid", "ncbi_species_taxid")
# CheckM2 since release 220; the newer estimate is taken where both are there.
_QUALITY = (
    ("checkm2_completeness", "checkm2_contamination"),
    ("checkm_completeness", "checkm_contamination"),
)
_OPTIONAL = ("ncbi_assembly_level", "ncbi_seq_rel_date")
_MEMBER = re.compile(r"(?:.*/)?(GC[AF]_\d+\.\d+)_genomic\.fna(?:\.gz)?")


def metadata_name(domain: str, base_url: str) -> str:
    """The metadata table of a domain, from the base address."""
    return f"{domain}_metadata{_release(base_url)}.tsv.gz"


def archive_name(base_url: str) -> str:
    """The archive of all representatives, from the base address."""
    return f"genomic_files_reps/gtdb_genomes_reps{_release(base_url)}.tar.gz"


def without_release(path: str) -> str:
    """bac120_metadata.tsv.gz for ./x/bac120_metadata_r226.tsv.gz: the name it has under latest/."""
    return re.sub(r"_r\d+(?=\.)", "", os.path.basename(path))


def _release(base_url: str) -> str:
    """'_r226' under .../release226/226.0, where the names of files say it; '' under latest/."""
    match = re.search(r"/release(\d+)/", f"{base_url}/")
    return f"_r{match[1]}" if match else ""


def candidates(table: str, base_url: str, left: Counter[str]) -> Iterator[Assembly]:
    """The representatives of a metadata table; `left` counts the genomes that are none.

    The best has the highest completeness - 5 x contamination, the measure by which GTDB itself
    chooses. Raises UserError for a missing column or a quality that is no number.
    """
    url = f"{base_url}/{archive_name(base_url)}"
    qualities = tuple(name for pair in _QUALITY for name in pair)
    for row in read_table(table, _NEEDED, optional=(*qualities, *_OPTIONAL)):
        if row["gtdb_representative"] not in ("t", "f"):
            raise UserError(
                f"{table}: gtdb_representative of {row['accession']} is "
                f"{row['gtdb_representative']!r}, not t or f; the layout of this table has changed"
            )
        if row["gtdb_representative"] == "f":
            left["not a representative"] += 1
            continue
        completeness, contamination = _quality(row, table)
        ranks = {
            word[0]: word[3:].strip()
            for word in row["gtdb_taxonomy"].split(";")
            if word[1:3] == "__"
        }
        accession = re.sub(r"^(RS|GB)_", "", row["accession"])
        species = row["ncbi_species_taxid"]
        yield Assembly(
            accession=accession,
            group=ranks.get("d", "").lower() or UNKNOWN,
            organism=ranks.get("s") or UNKNOWN,
            species_taxid=species if species.isdigit() else UNKNOWN,
            taxid=row["ncbi_taxid"] if row["ncbi_taxid"].isdigit() else UNKNOWN,
            date=row["ncbi_seq_rel_date"].replace("/", "-") or UNKNOWN,
            level=row["ncbi_assembly_level"] or UNKNOWN,
            url=url,
            rank=(5 * contamination - completeness, accession),
            genus=ranks.get("g") or UNKNOWN,
            family=ranks.get("f") or UNKNOWN,
            phylum=ranks.get("p") or UNKNOWN,
            licence=LICENCE_WORD,
        )


def _quality(row: dict[str, str], table: str) -> tuple[float, float]:
    """Completeness and contamination in percent."""
    pair = next((pair for pair in _QUALITY if row[pair[0]] and row[pair[1]]), None)
    if pair is None:
        raise UserError(
            f"{table}: {row['accession']} has no {_QUALITY[0][0]} and {_QUALITY[0][1]} (nor "
            "checkm_...), by which the best genome is chosen; the layout of this table has changed"
        )
    try:
        return float(row[pair[0]]), float(row[pair[1]])
    except ValueError:
        raise UserError(
            f"{table}: {pair[0]} and {pair[1]} of {row['accession']} are {row[pair[0]]!r} and "
            f"{row[pair[1]]!r}, not numbers; the layout of this table has changed"
        ) from None


def fetch(
    assemblies: Sequence[Assembly], folder: str
) -> Generator[tuple[Assembly, Fetched | UserError], None, None]:
    """Yields the genomes as the archive gives them, and last those that it does not hold.

    Raises UserError when the archive cannot be read on; what was yielded is whole.
    """
    wanted = {assembly.accession: assembly for assembly in assemblies}
    url = assemblies[0].url
    copy = os.path.join(folder, ".member.fna.gz")
    try:
        with (
            io.BufferedReader(WebStream(url), 1 << 18) as stream,
            gzip.GzipFile(fileobj=stream, mode="rb") as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as archive,
        ):
            while wanted and (member := archive.next()) is not None:
                # Or it would remember every file it has passed; it has no public way to forget.
                archive.members = []  # type: ignore[attr-defined]  # not in the type stubs
                match = _MEMBER.fullmatch(member.name)
                content = archive.extractfile(member) if match else None
                if match is None or content is None or match[1] not in wanted:
                    continue
                assembly = wanted.pop(match[1])
                md5 = _copy(content, copy)
                yield assembly, _written(assembly, member.name, copy, folder, md5)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as problem:
        raise UserError(
            f"{url}: the archive is damaged or ends early ({problem}); run the same command again"
        ) from problem
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(copy)
    for assembly in wanted.values():
        yield assembly, UserError(f"{url}: holds no genome {assembly.accession}")


def _copy(content: IO[bytes], path: str) -> str:
    """Writes one genome as it lies in the archive; its md5."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "wb") as file:
        while block := content.read(1 << 20):
            digest.update(block)
            try:
                file.write(block)
            except OSError as problem:
                raise UserError(
                    f"{path}: cannot be written ({problem.strerror}); free some space"
                ) from problem
    return digest.hexdigest()


def _written(
    assembly: Assembly, member: str, copy: str, folder: str, md5: str
) -> Fetched | UserError:
    try:
        return write(assembly, read_records([copy]), folder, md5=md5, url=assembly.url)
    except UserError as problem:
        return UserError(str(problem).replace(copy, f"{assembly.url}: {member}"))
