"""Which public genomes make a corpus, and how do they come here, whole and without repetition?

    python main.py fetch --preset=refseq-viral --output=genomes/viral

writes, under the folder:

    genomes/615/GCF_000819615.1.fna.gz   one file a genome, described in its headers (assemblies.py)
    manifest.tsv                         every genome fetched, and every one left out for its host
    fetch.json                           counts, reasons, options, checksums of the tables, licence
    sources/                             the tables by which the choice was made
    options.json, fetched.jsonl          what was asked for, and what is here so far

`manifest.tsv` and `fetch.json` appear, each in one step, when all is there. A run that was killed
is taken up by the same command: the tables are kept, so the choice stays the same, and a genome
that is whole is not fetched again. Other options need another folder, so that two choices never
mix; newer tables do, too.

Viruses of eukaryotes, and viruses whose host is not known, are left out unless
`include_eukaryote_viruses` is set; then their headers say group=euk-virus. taxonomy.py says how the
host is found.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_pipeline import datasets, gtdb, refseq
from data_pipeline.assemblies import UNKNOWN, Assembly, Fetched, checksum, checksums
from data_pipeline.download import download
from data_pipeline.errors import UserError
from data_pipeline.taxonomy import read_taxonomy

GTDB = "gtdb"
PRESETS = (*refseq.GROUPS, GTDB)
ONE_PER = ("species", "genus", "none")
FORMAT = 2  # raise it when the same options write other files
MOST_FAILURES = 20  # genomes that may fail before a run is given up

MANIFEST, SUMMARY, OPTIONS, JOURNAL = "manifest.tsv", "fetch.json", "options.json", "fetched.jsonl"
COLUMNS = (
    *("accession", "status", "reason", "group", "host", "organism", "species_taxid", "taxid"),
    *("genus", "family", "phylum", "date", "level", "sequences", "bases", "file", "bytes"),
    *("md5", "url"),
)


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """What is asked for. All but the address and the connections decide what the folder holds."""

    preset: str
    base_url: str = ""  # of a mirror with the same layout; "" is the public server
    limit: int = 0  # genomes, the first by accession; 0 is no limit
    one_per: str = ""  # species, genus or none; "" is species, for GTDB genus
    assembly_levels: tuple[
        str, ...
    ] = ()  # RefSeq: those to keep, e.g. "Complete Genome"; () is any
    refseq_categories: tuple[str, ...] = ()  # RefSeq: e.g. "reference genome"; () is any
    include_eukaryote_viruses: bool = False
    connections: int = 4  # at a time

    def check(self) -> None:
        """Raises UserError for options that make no sense, alone or together."""
        if self.preset not in PRESETS:
            raise UserError(f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.one_per and self.one_per not in ONE_PER:
            raise UserError(f"one_per is {self.one_per!r}; choose one of {', '.join(ONE_PER)}")
        if self.limit < 0:
            raise UserError(f"limit is {self.limit}; choose 0 (no limit) or more")
        if not 1 <= self.connections <= 16:
            raise UserError(f"connections is {self.connections}; choose 1 to 16")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise UserError(f"base_url is {self.base_url!r}; it begins with http:// or https://")
        if self.preset == GTDB and (self.assembly_levels or self.refseq_categories):
            raise UserError(
                "assembly_levels and refseq_categories are RefSeq's; GTDB's representatives are "
                "chosen by completeness and contamination"
            )
        if self.preset != "refseq-viral" and self.include_eukaryote_viruses:
            raise UserError(f"include_eukaryote_viruses: the preset {self.preset} holds no viruses")

    @property
    def each(self) -> str:
        """What gives one genome."""
        return self.one_per or ("genus" if self.preset == GTDB else "species")

    @property
    def address(self) -> str:
        """The base address, without a slash at its end."""
        public = gtdb.BASE_URL if self.preset == GTDB else refseq.BASE_URL
        return (self.base_url or public).rstrip("/")

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on in a folder."""
        return {
            "format": FORMAT,
            "preset": self.preset,
            "limit": self.limit,
            "one_per": self.each,
            "assembly_levels": sorted(self.assembly_levels),
            "refseq_categories": sorted(self.refseq_categories),
            "include_eukaryote_viruses": self.include_eukaryote_viruses,
        }


@dataclasses.dataclass(frozen=True)
class Choice:
    """The genomes to fetch, by accession; those left out for their host; all others, counted."""

    chosen: list[Assembly]
    left_out: list[tuple[Assembly, str]]
    passed_over: Counter[str]


def fetch(
    options: FetchOptions, folder: str, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Fetches what the options ask for into `folder`; the content of its fetch.json.

    `report` is given a line of progress now and then. Raises UserError for bad options, tables of
    another layout, a folder with another fetch, and, once all else is there, for genomes that could
    not be fetched; the same command then tries those again.
    """
    options.check()
    datasets.make_folder(os.path.join(folder, "sources"))
    with datasets.sole_writer(folder, "fetch"):
        _claim(folder, options.identity())
        choice = _choose(options, folder, report)
        done = _done(folder, {assembly.accession: assembly for assembly in choice.chosen})
        missing = [assembly for assembly in choice.chosen if assembly.accession not in done]
        report(f"{len(choice.chosen)} genomes are wanted, {len(done)} are here")
        if missing:
            for name in (SUMMARY, MANIFEST):
                _remove(os.path.join(folder, name))
            _fetch_missing(options, folder, missing, done, report)
        _write_manifest(os.path.join(folder, MANIFEST), choice, done)
        summary = _summary(options, folder, choice, done)
        datasets.write_pointer(os.path.join(folder, SUMMARY), summary)
    return summary


def _claim(folder: str, identity: Mapping[str, Any]) -> None:
    """Marks the folder as one for this choice, or makes sure that it is."""
    path = os.path.join(folder, OPTIONS)
    known = datasets.read_pointer(path)
    if known is None:
        if os.path.exists(os.path.join(folder, "genomes")):
            raise UserError(f"{folder}: holds genomes of unknown origin; choose another folder")
        datasets.write_pointer(path, identity)
    elif known != identity:
        name = next(n for n in (*identity, *known) if known.get(n) != identity.get(n))
        raise UserError(
            f"{folder}: holds a fetch with {name}={known.get(name)!r}, not {identity.get(name)!r}; "
            "choose another folder, or delete this one"
        )


# --- choosing -------------------------------------------------------------------------------------


def _choose(options: FetchOptions, folder: str, report: Callable[[str], None]) -> Choice:
    left: Counter[str] = Counter()
    left_out: list[tuple[Assembly, str]] = []
    if options.preset == GTDB:
        each = "none" if options.each == "species" else options.each  # they are one a species
        found = list(_best(_gtdb_candidates(options, folder, report, left), each, left))
    else:
        found, left_out = _refseq_candidates(options, folder, report, left)
        if options.each == "genus":
            found = list(_best(found, "genus", left))
    found.sort(key=lambda assembly: assembly.accession)
    if options.limit and len(found) > options.limit:
        left["over the limit"] += len(found) - options.limit
        found = found[: options.limit]
    if not found:
        reasons = left + Counter(reason for _, reason in left_out)
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        raise UserError(f"{options.preset}: no genome remains ({told or 'the tables are empty'})")
    return Choice(found, left_out, left)


def _gtdb_candidates(
    options: FetchOptions, folder: str, report: Callable[[str], None], left: Counter[str]
) -> Iterator[Assembly]:
    base = options.address
    listing = f"{base}/{gtdb.CHECKSUMS}"
    known: dict[str, str] | None = None
    for domain in gtdb.DOMAINS:
        name = gtdb.metadata_name(domain, base)
        plain = gtdb.without_release(name)
        path = os.path.join(folder, "sources", plain)
        if not os.path.exists(path):
            if known is None:
                known = {gtdb.without_release(p): md5 for p, md5 in checksums(listing).items()}
            _keep(f"{base}/{name}#md5={checksum(known, plain, listing)}", path, report)
        yield from gtdb.candidates(path, base, left)


def _refseq_candidates(
    options: FetchOptions, folder: str, report: Callable[[str], None], left: Counter[str]
) -> tuple[list[Assembly], list[tuple[Assembly, str]]]:
    """The genomes with their lineage, and those left out for their host."""
    base = options.address
    table = os.path.join(folder, "sources", "assembly_summary.txt")
    dump = os.path.join(folder, "sources", os.path.basename(refseq.TAXONOMY))
    _keep(f"{base}/{refseq.summary_path(options.preset)}", table, report)
    if not os.path.exists(dump):
        listing = f"{base}/{refseq.TAXONOMY}.md5"
        md5 = checksum(checksums(listing), os.path.basename(dump), listing)
        _keep(f"{base}/{refseq.TAXONOMY}#md5={md5}", dump, report)
    possible = refseq.candidates(
        table,
        options.preset,
        base,
        levels=options.assembly_levels,
        categories=options.refseq_categories,
        left=left,
    )
    found = list(possible if options.each == "none" else _best(possible, "species", left))
    taxonomy = read_taxonomy(dump, {t for a in found for t in (a.taxid, a.species_taxid)})
    chosen, left_out = [], []
    for assembly in found:
        taxids = (assembly.taxid, assembly.species_taxid)
        rank = taxonomy.lineage(*taxids)
        assembly = dataclasses.replace(
            assembly, genus=rank["genus"], family=rank["family"], phylum=rank["phylum"]
        )
        if assembly.group == "euk-virus":
            host, prokaryotic = taxonomy.host(*taxids)
            group = "phage" if prokaryotic else "euk-virus"
            assembly = dataclasses.replace(assembly, host=host, group=group)
        if assembly.group != "euk-virus" or options.include_eukaryote_viruses:
            chosen.append(assembly)
        else:
            known = assembly.host != UNKNOWN
            left_out.append((assembly, f"virus of {'eukaryotes' if known else 'unknown host'}"))
    return chosen, left_out


def _best(found: Iterable[Assembly], each: str, left: Counter[str]) -> Iterable[Assembly]:
    """The best of each species or genus; "none" keeps all."""
    if each == "none":
        return found
    best: dict[str, Assembly] = {}
    for assembly in found:
        key = assembly.species_taxid if each == "species" else assembly.cluster
        other = best.setdefault(key, assembly)
        if other is not assembly:
            left[f"another of its {each} is better"] += 1
            best[key] = min(assembly, other, key=lambda assembly: assembly.rank)
    return best.values()


def _keep(url: str, path: str, report: Callable[[str], None]) -> None:
    """Fetches a table unless it is here."""
    if not os.path.exists(path):
        report(f"fetching {url.partition('#')[0]}")
        download(url, f"{path}.part")
        os.replace(f"{path}.part", path)


# --- fetching -------------------------------------------------------------------------------------


def _done(folder: str, chosen: Mapping[str, Assembly]) -> dict[str, Fetched]:
    """The genomes that are here, whole, by accession; leftovers of a killed run are removed."""
    for part in glob.glob(os.path.join(glob.escape(folder), "**", "*.part"), recursive=True):
        os.remove(part)
    done: dict[str, Fetched] = {}
    path = os.path.join(folder, JOURNAL)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for line in file:
                try:
                    fetched = Fetched(**json.loads(line))
                except (ValueError, TypeError):  # the run was killed while it wrote this line
                    break
                target = os.path.join(folder, fetched.file)
                if fetched.accession in chosen and os.path.exists(target):
                    if os.path.getsize(target) == fetched.bytes:
                        done[fetched.accession] = fetched
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.writelines(_journal_line(fetched) for fetched in done.values())
    os.replace(partial, path)
    return done


def _journal_line(fetched: Fetched) -> str:
    return json.dumps(dataclasses.asdict(fetched)) + "\n"


def _fetch_missing(
    options: FetchOptions,
    folder: str,
    missing: Sequence[Assembly],
    done: dict[str, Fetched],
    report: Callable[[str], None],
) -> None:
    """Fetches these genomes and adds each to `done` and to the journal as soon as it is whole."""
    if options.preset == GTDB:
        coming = gtdb.fetch(missing, folder)
    else:
        coming = refseq.fetch(missing, folder, options.connections)
    total = len(missing) + len(done)
    failures: list[UserError] = []
    with (
        contextlib.closing(coming),
        open(os.path.join(folder, JOURNAL), "a", encoding="utf-8") as journal,
    ):
        for assembly, result in coming:
            if isinstance(result, UserError):
                failures.append(result)
                if len(failures) == MOST_FAILURES:
                    break
                continue
            journal.write(_journal_line(result))
            journal.flush()
            done[assembly.accession] = result
            if len(done) % 100 == 0 or len(done) == total:
                report(f"{len(done)} of {total} genomes")
    if failures:
        several = f"{len(failures)} genomes" if len(failures) > 1 else "1 genome"
        raise UserError(
            f"{several} of {total} could not be fetched, the first because: {failures[0]} "
            f"(the {len(done)} that are here are kept: run the same command again)"
        )


# --- telling --------------------------------------------------------------------------------------


def _write_manifest(path: str, choice: Choice, done: Mapping[str, Fetched]) -> None:
    rows = [(a, "fetched", UNKNOWN) for a in choice.chosen]
    rows += [(a, "left out", reason) for a, reason in choice.left_out]
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for assembly, status, reason in sorted(rows, key=lambda row: row[0].accession):
            fetched = done.get(assembly.accession)
            values: dict[str, Any] = {
                **dict.fromkeys(COLUMNS, UNKNOWN),
                **{name: getattr(assembly, name, UNKNOWN) for name in COLUMNS if name != "file"},
                **(dataclasses.asdict(fetched) if fetched else {}),
                "status": status,
                "reason": reason,
            }
            cells = (" ".join(str(values[name]).split()) or UNKNOWN for name in COLUMNS)
            file.write("\t".join(cells) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.partial", path)


def _summary(
    options: FetchOptions, folder: str, choice: Choice, done: Mapping[str, Fetched]
) -> dict[str, Any]:
    reasons = choice.passed_over + Counter(reason for _, reason in choice.left_out)
    tables = sorted(os.listdir(os.path.join(folder, "sources")))
    return {
        "preset": options.preset,
        "base_url": options.address,
        "licence": gtdb.LICENCE if options.preset == GTDB else refseq.LICENCE,
        "genomes": len(done),
        "sequences": sum(fetched.sequences for fetched in done.values()),
        "bases": sum(fetched.bases for fetched in done.values()),
        "groups": dict(sorted(Counter(a.group for a in choice.chosen).items())),
        "left_out": dict(sorted(reasons.items())),
        "options": options.identity(),
        "sources": {name: _sha256(os.path.join(folder, "sources", name)) for name in tables},
    }


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)
