"""What do NCBI's and GTDB's servers look like, with a few genomes? A mirror on 127.0.0.1.

The layout, the columns and the names are those of the public servers; the letters are made up.
"""

import functools
import gzip
import hashlib
import http.server
import io
import random
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

# As NCBI writes them today: assembly_summary.txt, 38 columns.
SUMMARY_COLUMNS = (
    *("assembly_accession", "bioproject", "biosample", "wgs_master", "refseq_category", "taxid"),
    *("species_taxid", "organism_name", "infraspecific_name", "isolate", "version_status"),
    *("assembly_level", "release_type", "genome_rep", "seq_rel_date", "asm_name"),
    *("asm_submitter", "gbrs_paired_asm", "paired_asm_comp", "ftp_path", "excluded_from_refseq"),
    *("relation_to_type_material", "asm_not_live_date", "assembly_type", "group", "genome_size"),
    *("genome_size_ungapped", "gc_percent", "replicon_count", "scaffold_count", "contig_count"),
    *("annotation_provider", "annotation_name", "annotation_date", "total_gene_count"),
    *("protein_coding_gene_count", "non_coding_gene_count", "pubmed_id"),
)
GTDB_COLUMNS = (
    *("accession", "ambiguous_bases", "checkm2_completeness", "checkm2_contamination"),
    *("checkm_completeness", "checkm_contamination", "contig_count", "genome_size"),
    *("gtdb_genome_representative", "gtdb_representative", "gtdb_taxonomy"),
    *("ncbi_assembly_level", "ncbi_assembly_name", "ncbi_organism_name", "ncbi_seq_rel_date"),
    *("ncbi_species_taxid", "ncbi_taxid"),
)
TAXDUMP = "/pub/taxonomy/new_taxdump/new_taxdump.tar.gz"


class Server(http.server.ThreadingHTTPServer):
    """Of which clients may hang up."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Mirror:
    """Serves `files` with Range and entity tags, and misbehaves where `faults` says so.

    A fault is taken off its path's list at each request: an int hangs up after so many bytes, a
    function answers in the server's place, None lets one request pass.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Any]] = {}
        self.ranges = True
        self.asked: list[tuple[str, str]] = []  # path, Range
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Range", "")))
                fault = outer.faults[self.path].pop(0) if outer.faults.get(self.path) else None
                if callable(fault):
                    fault(self)
                else:
                    outer.send(self, fault)

            def log_message(self, *args: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def send(self, handler: Any, most: int | None = None) -> None:
        """Answers with the file or the part asked for, of which at most so many bytes."""
        content = self.files.get(handler.path)
        handler.close_connection = True
        if content is None:
            handler.send_error(404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        asked = handler.headers.get("Range", "")
        start = 0
        if asked and self.ranges and handler.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][:most])

    def hang(self, path: str, bytes_before: int) -> threading.Event:
        """The next request for `path` gets so many bytes, and no more until the event is set."""
        released = threading.Event()

        def answer(handler: Any) -> None:
            self.send(handler, bytes_before)
            handler.wfile.flush()
            released.wait(60)

        self.faults.setdefault(path, []).append(answer)
        return released

    def count(self, ending: str = "_genomic.fna.gz") -> Counter[str]:
        """How often each file with this ending was asked for, by its name."""
        return Counter(path.rpartition("/")[2] for path, _ in self.asked if path.endswith(ending))


def letters(length: int, seed: int) -> str:
    """Made-up bases."""
    return "".join(random.Random(seed).choices("ACGT", k=length))


def fasta(records: dict[str, str], width: int = 80) -> bytes:
    """Gzipped FASTA; `records` maps header to letters."""
    text = "".join(
        f">{header}\n" + "".join(f"{bases[i : i + width]}\n" for i in range(0, len(bases), width))
        for header, bases in records.items()
    )
    return gzip.compress(text.encode(), mtime=0)


def archive(files: dict[str, bytes]) -> bytes:
    """A tar.gz."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def table(columns: Sequence[str], rows: Sequence[dict[str, str]], mark: str = "") -> bytes:
    """Tab-separated; what a row does not name is 'na'."""
    lines = ["\t".join([mark + columns[0], *columns[1:]])]
    lines += ["\t".join(row.get(name, "na") for name in columns) for row in rows]
    return ("\n".join(lines) + "\n").encode()


# --- NCBI -----------------------------------------------------------------------------------------


def genome_path(accession: str) -> str:
    """The folder and name of an assembly's files, as NCBI makes them."""
    digits = accession[4:13]
    name = f"{accession}_ASM{int(digits)}v1"
    return f"/genomes/all/GCF/{digits[:3]}/{digits[3:6]}/{digits[6:]}/{name}/{name}_genomic.fna.gz"


def assembly(number: int, species: int, **columns: str) -> dict[str, str]:
    """A row of the summary."""
    accession = f"GCF_{number:09}.1"
    folder = genome_path(accession).rpartition("/")[0]
    return {
        "assembly_accession": accession,
        "taxid": str(species),
        "species_taxid": str(species),
        "organism_name": f"Organism {species}",
        "version_status": "latest",
        "assembly_level": "Complete Genome",
        "seq_rel_date": "2020/01/02",
        "ftp_path": f"https://ftp.ncbi.nlm.nih.gov{folder}",
        **columns,
    }


def add_genome(mirror: Mirror, row: dict[str, str], records: dict[str, str]) -> None:
    """The assembly's FASTA file and, beside it, the checksums."""
    path = genome_path(row["assembly_accession"])
    folder, _, name = path.rpartition("/")
    mirror.files[path] = fasta(records)
    digest = hashlib.md5(mirror.files[path]).hexdigest()
    other = hashlib.md5(b"protein").hexdigest()
    mirror.files[f"{folder}/md5checksums.txt"] = (
        f"{other}  ./{name.replace('_genomic.fna', '_cds_from_genomic.fna')}\n"
        f"{digest}  ./{name}\n{other}  ./{name.replace('_genomic.fna', '_protein.faa')}\n"
    ).encode()


def add_summary(
    mirror: Mirror,
    group: str,
    rows: Sequence[dict[str, str]],
    columns: Sequence[str] = SUMMARY_COLUMNS,
    mark: str = "#",
) -> None:
    head = b"##  See https://ftp.ncbi.nlm.nih.gov/genomes/README_assembly_summary.txt for a key\n"
    mirror.files[f"/genomes/refseq/{group}/assembly_summary.txt"] = head + table(
        columns, rows, mark
    )


def add_taxonomy(mirror: Mirror, lineages: dict[int, str], hosts: dict[int, str]) -> None:
    """`lineages` maps taxid to 'genus family class phylum', '-' for none."""

    def dump(rows: list[list[str]]) -> bytes:
        return "".join("\t|\t".join(row) + "\t|\n" for row in rows).encode()

    ranked = []
    for taxid, text in lineages.items():
        genus, family, class_, phylum = ("" if word == "-" else word for word in text.split())
        names = [str(taxid), f"Organism {taxid}", "", genus, family, "", class_, phylum]
        ranked.append([*names, "", "Viruses"])
    add_taxdump(
        mirror,
        {
            "nodes.dmp": b"1\t|\t1\t|\tno rank\t|\n",
            "rankedlineage.dmp": dump(ranked),
            "host.dmp": dump([[str(taxid), words] for taxid, words in hosts.items()]),
        },
    )


def add_taxdump(mirror: Mirror, files: dict[str, bytes]) -> None:
    mirror.files[TAXDUMP] = archive(files)
    digest = hashlib.md5(mirror.files[TAXDUMP]).hexdigest()
    mirror.files[f"{TAXDUMP}.md5"] = f"{digest}  new_taxdump.tar.gz\n".encode()


def viral(mirror: Mirror) -> list[dict[str, str]]:
    """RefSeq's viruses: four genomes to take, and one for each reason to leave one out."""
    rows = [
        assembly(1, 101, refseq_category="reference genome", organism_name="Testa phage one"),
        assembly(2, 101, seq_rel_date="2024/05/06"),  # newer, but not the reference
        assembly(3, 102, seq_rel_date="2019/03/04", taxid="1020"),
        assembly(4, 103),
        assembly(5, 104),
        assembly(6, 105, ftp_path="ftp" + assembly(6, 105)["ftp_path"].removeprefix("https")),
        assembly(7, 106, taxid="1060"),
        assembly(8, 107, version_status="suppressed"),
        assembly(9, 108, excluded_from_refseq="derived from metagenome"),
        assembly(10, 109, ftp_path="na"),
        assembly(11, 110),
    ]
    records = {
        1: {"NC_000001.1 Testa phage one, complete genome": letters(200, 1)},
        3: {
            "NC_000003.1 Segmented virus segment L, a=b": letters(161, 3),
            "NC_000004.1 Segmented virus segment S": letters(80, 4),
        },
        4: {"NC_000005.1 Some virus of animals": letters(90, 5)},
        5: {"NC_000006.1 Some virus": letters(90, 6)},
        6: {"NC_000007.1 Levi": letters(30, 7) + "NNRY" + letters(30, 8).lower()},
        7: {"NC_000008.1 Two hosts": letters(90, 9)},
        11: {"NC_000009.1 Phage": letters(5000, 10)},
    }
    for row in rows:
        number = int(row["assembly_accession"][4:13])
        add_genome(mirror, row, records.get(number, {f"NZ_{number}": "ACGT"}))
    add_summary(mirror, "viral", [row | {"group": "viral"} for row in rows])
    lineages = {
        101: "Testavirus Testaviridae Caudoviricetes Uroviricota",
        102: "- Segmentoviridae - -",
        103: "Fauna Faunaviridae Herviviricetes Peploviricota",
        105: "- - Leviviricetes Lenarviricota",
        106: "- - - -",
        110: "Testavirus Testaviridae Caudoviricetes Uroviricota",
        9999: "Other - - -",
    }
    # 1060 is a strain of 106, of which the hosts differ; of 104 and 105 nothing is said.
    hosts = {101: "bacteria", 1020: "archaea", 102: "bacteria", 103: "vertebrates,human"}
    hosts |= {1060: "bacteria", 106: "invertebrates", 110: "bacteria", 9999: "plants"}
    add_taxonomy(mirror, lineages, hosts)
    return rows


# --- GTDB -----------------------------------------------------------------------------------------


def gtdb_row(accession: str, taxonomy: str, quality: str, **columns: str) -> dict[str, str]:
    """A row of the metadata; `taxonomy` is 'Domain Phylum Family Genus species'."""
    domain, phylum, family, genus, species = taxonomy.split()
    completeness, contamination = quality.split()
    return {
        "accession": accession,
        "checkm2_completeness": completeness,
        "checkm2_contamination": contamination,
        "checkm_completeness": "1",
        "checkm_contamination": "99",
        "gtdb_representative": "t",
        "gtdb_taxonomy": f"d__{domain};p__{phylum};c__C;o__O;f__{family};g__{genus};"
        f"s__{genus} {species}",
        "ncbi_assembly_level": "Contig",
        "ncbi_seq_rel_date": "2021-02-03",
        "ncbi_species_taxid": "7",
        "ncbi_taxid": "77",
        **columns,
    }


BACTERIA = (
    gtdb_row("RS_GCF_000000021.1", "Bacteria Pa Fa Ga a", "99.5 1.0"),
    gtdb_row("GB_GCA_000000022.1", "Bacteria Pa Fa Ga b", "98.0 0.1"),  # best of Ga: 97.5
    gtdb_row("RS_GCF_000000023.1", "Bacteria Pa Fa Ga b", "100 0", gtdb_representative="f"),
    gtdb_row("RS_GCF_000000024.1", "Bacteria Pb Fb Gb c", "90 0", ncbi_species_taxid="none"),
)
ARCHAEA = (gtdb_row("GB_GCA_000000031.1", "Archaea Pc Fc Gc d", "80 2"),)


def gtdb_member(accession: str) -> str:
    """Where the archive holds a genome."""
    digits = accession[4:13]
    folder = "/".join((accession[:3], digits[:3], digits[3:6], digits[6:]))
    return f"gtdb_genomes_reps_r226/database/{folder}/{accession}_genomic.fna.gz"


@functools.cache
def gtdb_members() -> dict[str, bytes]:
    """The archive's files: every representative, and a megabyte of others, which nobody unpacks."""
    members = {f"GCA_{n:09}.1": random.Random(n).randbytes(10_000) for n in range(100, 200)}
    for row in (*BACTERIA, *ARCHAEA):
        if row["gtdb_representative"] == "t":
            accession = row["accession"][3:]
            bases = letters(3000, int(accession[4:13]))
            members[accession] = fasta({f"CTG{accession[4:13]}.1 contig 1": bases})
    return {gtdb_member(accession): content for accession, content in sorted(members.items())}


def gtdb(
    mirror: Mirror,
    base: str = "/releases/latest",
    release: str = "",
    change: Callable[[bytes], bytes] = lambda content: content,
) -> str:
    """GTDB's layout under `base`; the path of the archive."""
    files = {
        f"bac120_metadata{release}.tsv.gz": gzip.compress(table(GTDB_COLUMNS, BACTERIA), mtime=0),
        f"ar53_metadata{release}.tsv.gz": gzip.compress(table(GTDB_COLUMNS, ARCHAEA), mtime=0),
    }
    # Under latest/, too, the list has the release in its names.
    mirror.files[f"{base}/MD5SUM.txt"] = "".join(
        f"{hashlib.md5(content).hexdigest()}  ./{name.replace(release + '.tsv', '_r226.tsv')}\n"
        for name, content in files.items()
    ).encode()
    for name, content in files.items():
        mirror.files[f"{base}/{name}"] = content
    path = f"{base}/genomic_files_reps/gtdb_genomes_reps{release}.tar.gz"
    mirror.files[path] = change(archive(gtdb_members()))
    return path
