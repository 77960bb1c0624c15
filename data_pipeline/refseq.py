"""Which RefSeq genomes of viruses, bacteria or archaea are wanted, and how do they come from NCBI?

The choice is made from NCBI's assembly summary (columns by name) and its taxonomy dump, both kept
in the folder, so that a run that is taken up again chooses the same genomes. A genome is checked
against the md5checksums.txt that lies beside it before a letter of it is read.
"""

import concurrent.futures
import os
import urllib.parse
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence

from data_pipeline.assemblies import (
    Assembly,
    Fetched,
    checksum,
    checksums,
    read_table,
    write,
)
from data_pipeline.errors import UserError
from data_pipeline.reading import read_records

BASE_URL = "https://ftp.ncbi.nlm.nih.gov"
LICENCE = "NCBI places no restrictions on the use or distribution of RefSeq data"
LICENCE_WORD = "NCBI-unrestricted"
GROUPS = {"refseq-viral": "viral", "refseq-bacteria": "bacteria", "refseq-archaea": "archaea"}
TAXONOMY = "pub/taxonomy/new_taxdump/new_taxdump.tar.gz"

_NEEDED = (
    *("assembly_accession", "refseq_category", "taxid", "species_taxid", "organism_name"),
    *("version_status", "assembly_level", "seq_rel_date", "ftp_path", "excluded_from_refseq"),
)
_CATEGORIES = ("reference genome", "representative genome")
_LEVELS = ("Complete Genome", "Chromosome", "Scaffold", "Contig")
_NOTHING = ("", "na", "-")


def summary_path(preset: str) -> str:
    """Where the summary of a preset lies, from the base address."""
    return f"genomes/refseq/{GROUPS[preset]}/assembly_summary.txt"


def candidates(
    table: str,
    preset: str,
    base_url: str,
    *,
    levels: Collection[str],
    categories: Collection[str],
    left: Counter[str],
) -> Iterator[Assembly]:
    """The assemblies of a summary that may be fetched; `left` counts the others by reason.

    `levels` and `categories` are those to keep, any if empty. A virus has the group of viruses of
    eukaryotes until its host is known. Raises UserError for a level or category that never occurs.
    """
    seen: dict[str, set[str]] = {"assembly_level": set(), "refseq_category": set()}
    for row in read_table(table, _NEEDED):
        for column, values in seen.items():
            values.add(row[column])
        if row["version_status"] != "latest":
            left["version_status is not latest"] += 1
        elif row["excluded_from_refseq"] not in _NOTHING:
            left["excluded_from_refseq"] += 1
        elif levels and row["assembly_level"] not in levels:
            left["assembly_level"] += 1
        elif categories and row["refseq_category"] not in categories:
            left["refseq_category"] += 1
        elif row["ftp_path"] in _NOTHING:
            left["no ftp_path"] += 1
        else:
            yield _assembly(row, preset, base_url)
    for column, wanted in (("assembly_level", levels), ("refseq_category", categories)):
        for value in wanted:
            if value not in seen[column]:
                known = ", ".join(repr(name) for name in sorted(seen[column]))
                raise UserError(f"{table}: no {column} is {value!r}; it names {known}")


def _assembly(row: dict[str, str], preset: str, base_url: str) -> Assembly:
    # Summaries of early years say ftp://; a mirror keeps the paths under its own address.
    folder = urllib.parse.urlsplit(row["ftp_path"]).path.rstrip("/")
    species = row["species_taxid"] if row["species_taxid"] not in _NOTHING else row["taxid"]
    date = row["seq_rel_date"].replace("/", "-")
    level = row["assembly_level"]
    return Assembly(
        accession=row["assembly_accession"],
        group="euk-virus" if GROUPS[preset] == "viral" else GROUPS[preset],
        organism=row["organism_name"],
        species_taxid=species,
        taxid=row["taxid"],
        date=date,
        level=level,
        url=f"{base_url}{folder}/{os.path.basename(folder)}_genomic.fna.gz",
        rank=(
            _place(row["refseq_category"], _CATEGORIES),
            _place(level, _LEVELS),
            -int("".join(filter(str.isdigit, date)) or 0),
            row["assembly_accession"],
        ),
        licence=LICENCE_WORD,
    )


def _place(value: str, order: tuple[str, ...]) -> int:
    return order.index(value) if value in order else len(order)


def fetch(
    assemblies: Sequence[Assembly], folder: str, connections: int
) -> Generator[tuple[Assembly, Fetched | UserError], None, None]:
    """Fetches the genomes, several at a time, and yields each as it is done, or why it failed.

    Closed early, it lets the downloads under way end and begins no other.
    """
    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        waiting = {pool.submit(_fetch, assembly, folder): assembly for assembly in assemblies}
        try:
            for future in concurrent.futures.as_completed(waiting):
                problem = future.exception()
                if problem is not None and not isinstance(problem, UserError):
                    raise problem
                yield waiting.pop(future), problem or future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch(assembly: Assembly, folder: str) -> Fetched:
    place, _, name = assembly.url.rpartition("/")
    listing = f"{place}/md5checksums.txt"
    md5 = checksum(checksums(listing), name, listing)
    records = read_records([f"{assembly.url}#md5={md5}"])
    return write(assembly, records, folder, md5=md5, url=assembly.url)
