"""Are the right RefSeq genomes chosen, by the names of columns and by host, and well described?"""

import gzip
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data_pipeline import download, refseq, sources, taxonomy
from data_pipeline.errors import UserError
from data_pipeline.reading import expand, fields, read_records
from data_pipeline.survey import summary as summary_of
from data_pipeline.survey import survey
from tests.data_pipeline import mirror as layout
from tests.data_pipeline.mirror import SUMMARY_COLUMNS, TAXDUMP, Mirror, genome_path, letters

TAKEN = ["GCF_000000001.1", "GCF_000000003.1", "GCF_000000006.1", "GCF_000000011.1"]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Mirror() as server:
        layout.viral(server)
        yield server


def fetch(mirror: Mirror, folder: pathlib.Path, **options: Any) -> dict[str, Any]:
    chosen = {"preset": "refseq-viral", "base_url": mirror.url, "connections": 3} | options
    return sources.fetch(sources.FetchOptions(**chosen), str(folder))


def refused(mirror: Mirror, folder: pathlib.Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        fetch(mirror, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(mirror.url, "URL").replace(str(folder), "DIR")


def manifest(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    """The rows by accession."""
    head, *rows = (folder / sources.MANIFEST).read_text().splitlines()
    columns = head.split("\t")
    table = [dict(zip(columns, row.split("\t"), strict=True)) for row in rows]
    return {row["accession"]: row for row in table}


def genomes(folder: pathlib.Path) -> list[str]:
    """The accessions of the files that prepare would read."""
    files = expand([str(folder / "genomes")])
    return sorted(os.path.basename(file).removesuffix(".fna.gz") for file in files)


# --- what is chosen and written -------------------------------------------------------------------


def check_viral(mirror: Mirror, folder: pathlib.Path) -> None:
    summary = fetch(mirror, folder)
    assert genomes(folder) == TAKEN
    assert (summary["genomes"], summary["sequences"]) == (4, 5)
    assert summary["bases"] == 200 + 161 + 80 + 64 + 5000
    assert summary["groups"] == {"phage": 4}
    assert summary["left_out"] == {
        "another of its species is better": 1,
        "excluded_from_refseq": 1,
        "no ftp_path": 1,
        "version_status is not latest": 1,
        "virus of eukaryotes": 2,
        "virus of unknown host": 1,
    }
    rows = manifest(folder)
    assert {name: (row["status"], row["reason"], row["host"]) for name, row in rows.items()} == {
        "GCF_000000001.1": ("fetched", "-", "bacteria"),
        "GCF_000000003.1": ("fetched", "-", "archaea,bacteria"),
        "GCF_000000004.1": ("left out", "virus of eukaryotes", "human,vertebrates"),
        "GCF_000000005.1": ("left out", "virus of unknown host", "-"),
        "GCF_000000006.1": ("fetched", "-", "-"),  # by its class
        "GCF_000000007.1": ("left out", "virus of eukaryotes", "bacteria,invertebrates"),
        "GCF_000000011.1": ("fetched", "-", "bacteria"),
    }


def test_viruses_of_prokaryotes_are_fetched(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    check_viral(mirror, tmp_path / "out")
    out = tmp_path / "out"
    file = out / "genomes" / "003" / "GCF_000000003.1.fna.gz"
    words = (
        "group=phage label=1 virus=1 cluster=species-102 genome=GCF_000000003.1 "
        "family=Segmentoviridae genus=- phylum=- organism=Organism_102 species_taxid=102 "
        "date=2019-03-04 host=archaea,bacteria licence=NCBI-unrestricted"
    )
    long = letters(161, 3)
    assert gzip.decompress(file.read_bytes()).decode() == (
        f">NC_000003.1 {words} title=Segmented_virus_segment_L,_a=b\n"
        f"{long[:80]}\n{long[80:160]}\n{long[160:]}\n"
        f">NC_000004.1 {words} title=Segmented_virus_segment_S\n{letters(80, 4)}\n"
    )
    source = mirror.files[genome_path("GCF_000000003.1")]
    assert manifest(out)["GCF_000000003.1"] == {
        "accession": "GCF_000000003.1",
        "status": "fetched",
        "reason": "-",
        "group": "phage",
        "host": "archaea,bacteria",
        "organism": "Organism 102",
        "species_taxid": "102",
        "taxid": "1020",
        "genus": "-",
        "family": "Segmentoviridae",
        "phylum": "-",
        "date": "2019-03-04",
        "level": "Complete Genome",
        "sequences": "2",
        "bases": "241",
        "file": "genomes/003/GCF_000000003.1.fna.gz",
        "bytes": str(file.stat().st_size),
        "md5": hashlib.md5(source).hexdigest(),
        "url": mirror.url + genome_path("GCF_000000003.1"),
    }
    # What prepare sees: any letters, soft mask kept, and the words that it can use.
    records = {record.id: record for record in read_records(expand([str(out / "genomes")]))}
    levi = (letters(30, 7) + "NNRY" + letters(30, 8).lower()).encode()
    assert records["NC_000007.1"].bases == levi
    assert fields(records["NC_000001.1"].description)["cluster"] == "Testavirus"
    assert fields(records["NC_000009.1"].description)["cluster"] == "Testavirus"
    kept = json.loads((out / "fetch.json").read_text())
    summary = mirror.files["/genomes/refseq/viral/assembly_summary.txt"]
    assert kept["sources"]["assembly_summary.txt"] == hashlib.sha256(summary).hexdigest()
    assert kept["options"]["include_eukaryote_viruses"] is False
    assert not list(out.rglob("*.part*"))


def test_planted_fault_an_unknown_host_counts_as_a_prokaryote(
    mirror: Mirror, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def host(self: taxonomy.Taxonomy, *taxids: str) -> tuple[str, bool]:
        words: set[str] = set().union(*(self.hosts.get(taxid, set()) for taxid in taxids))
        return ",".join(sorted(words)), words <= taxonomy.PROKARYOTES  # true of no words, too

    monkeypatch.setattr(taxonomy.Taxonomy, "host", host)
    with pytest.raises(AssertionError):
        check_viral(mirror, tmp_path / "out")


def test_planted_fault_the_strain_alone_decides_on_the_host(
    mirror: Mirror, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = taxonomy.Taxonomy.host
    monkeypatch.setattr(taxonomy.Taxonomy, "host", lambda self, *taxids: whole(self, taxids[0]))
    with pytest.raises(AssertionError):
        check_viral(mirror, tmp_path / "out")


def test_viruses_of_eukaryotes_come_when_asked_for(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    summary = fetch(mirror, tmp_path, include_eukaryote_viruses=True)
    assert summary["groups"] == {"euk-virus": 3, "phage": 4}
    records = {r.id: fields(r.description) for r in read_records(expand([f"{tmp_path}/genomes"]))}
    assert {key: (words["group"], words["host"]) for key, words in records.items()} == {
        "NC_000001.1": ("phage", "bacteria"),
        "NC_000003.1": ("phage", "archaea,bacteria"),
        "NC_000004.1": ("phage", "archaea,bacteria"),
        "NC_000005.1": ("euk-virus", "human,vertebrates"),
        "NC_000006.1": ("euk-virus", "-"),
        "NC_000007.1": ("phage", "-"),
        "NC_000008.1": ("euk-virus", "bacteria,invertebrates"),
        "NC_000009.1": ("phage", "bacteria"),
    }
    # What prepare does with them.
    found = survey({"train": expand([f"{tmp_path}/genomes"])}, cluster_key="cluster")
    counts = summary_of(found.records)
    assert counts["clusters"] == 6
    assert counts["groups"]["euk-virus"] == {"records": 3, "bases": 270}


def shuffled(rows: list[dict[str, str]]) -> Callable[[Mirror], None]:
    """The summary of an earlier year: '# ' before the names, another order, one column more."""
    columns = [*reversed([c for c in SUMMARY_COLUMNS if c != "assembly_accession"]), "new_column"]

    def serve(mirror: Mirror) -> None:
        order = ["assembly_accession", *columns]
        layout.add_summary(mirror, "viral", rows, order, mark="# ")

    return serve


def test_columns_are_found_by_name(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    shuffled(layout.viral(mirror))(mirror)
    check_viral(mirror, tmp_path)


def test_planted_fault_columns_are_found_by_number(
    mirror: Mirror, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled(layout.viral(mirror))(mirror)

    def by_number(path: str, *_: Any, **__: Any) -> Iterator[dict[str, str]]:
        for line in pathlib.Path(path).read_text().splitlines()[2:]:
            yield dict(zip(SUMMARY_COLUMNS, line.split("\t"), strict=False))

    monkeypatch.setattr(refseq, "read_table", by_number)
    with pytest.raises((AssertionError, UserError)):
        check_viral(mirror, tmp_path)


def test_bacteria_and_archaea(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    rows = [
        layout.assembly(51, 501, assembly_level="Contig", seq_rel_date="2024/01/01"),
        layout.assembly(52, 501, assembly_level="Chromosome", seq_rel_date="2010/01/01"),
        layout.assembly(53, 502, seq_rel_date="2010/01/01"),
        layout.assembly(54, 502, seq_rel_date="2010/02/01"),
        layout.assembly(55, 503, refseq_category="representative genome", assembly_level="Contig"),
        layout.assembly(56, 503),
        layout.assembly(57, 504, species_taxid="na"),
    ]
    for row in rows:
        name = row["assembly_accession"]
        layout.add_genome(mirror, row, {f"NZ_{name}": "ACGT", f"NZ_{name}p plasmid p": "GGCC"})
    layout.add_summary(mirror, "bacteria", rows)
    layout.add_summary(mirror, "archaea", rows[:1])
    layout.add_taxonomy(mirror, {501: "Ga Fa - Pa", 502: "Ga Fa - Pa", 503: "Gb Fb - Pa"}, {})

    def chosen(folder: str, preset: str = "refseq-bacteria", **options: Any) -> list[int]:
        fetch(mirror, tmp_path / folder, preset=preset, **options)
        return [int(name[4:13]) for name in genomes(tmp_path / folder)]

    # The better level, the newer, the reference: in the reverse order of what weighs more.
    assert chosen("species") == [52, 54, 55, 57]
    assert chosen("genus", one_per="genus") == [54, 55, 57]
    assert chosen("all", one_per="none") == [51, 52, 53, 54, 55, 56, 57]
    assert chosen("level", assembly_levels=("Chromosome", "Contig")) == [52, 55]
    assert chosen("category", refseq_categories=("representative genome",)) == [55]
    assert chosen("limit", limit=2) == [52, 54]
    assert chosen("archaea", "refseq-archaea") == [51]
    summary = json.loads((tmp_path / "level" / "fetch.json").read_text())
    assert summary["left_out"] == {"another of its species is better": 1, "assembly_level": 4}
    (first, second) = read_records([str(tmp_path / "species/genomes/055/GCF_000000055.1.fna.gz")])
    assert fields(first.description)["genome"] == fields(second.description)["genome"]
    assert second.description == (
        "group=bacteria label=0 virus=0 cluster=Gb genome=GCF_000000055.1 family=Fb genus=Gb "
        "phylum=Pa organism=Organism_503 species_taxid=503 date=2020-01-02 "
        "licence=NCBI-unrestricted title=plasmid_p"
    )
    assert refused(mirror, tmp_path / "x", preset="refseq-bacteria", assembly_levels=("Full",)) == (
        "DIR/sources/assembly_summary.txt: no assembly_level is 'Full'; it names 'Chromosome', "
        "'Complete Genome', 'Contig'"
    )


# --- tables of another layout ---------------------------------------------------------------------


def test_a_summary_of_another_layout(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    rows = layout.viral(mirror)
    path = "/genomes/refseq/viral/assembly_summary.txt"
    good = mirror.files[path]

    def message(content: bytes) -> str:
        mirror.files[path] = content
        folder = tmp_path / hashlib.md5(content).hexdigest()
        return refused(mirror, folder)

    layout.add_summary(mirror, "viral", rows, [c for c in SUMMARY_COLUMNS if c != "ftp_path"])
    assert message(mirror.files[path]) == (
        "DIR/sources/assembly_summary.txt, line 2: no column 'ftp_path' among the 37 of the "
        "header; the layout of this table has changed, or it is another table"
    )
    assert message(good + b"GCF_000000099.1\tna\n") == (
        "DIR/sources/assembly_summary.txt, line 14: 2 columns where the header has 38; delete the "
        "file to fetch it again"
    )
    assert message(b"## only a comment\n") == (
        "DIR/sources/assembly_summary.txt: no header with a column 'assembly_accession'; is this "
        "the right table?"
    )
    head = b"\n".join(good.split(b"\n")[:2]) + b"\n"
    assert message(head) == "refseq-viral: no genome remains (the tables are empty)"
    of_animals = [row for row in good.split(b"\n") if row.startswith(b"GCF_000000004.1")]
    assert message(head + of_animals[0] + b"\n") == (
        "refseq-viral: no genome remains (1 virus of eukaryotes)"
    )
    del mirror.files[path]
    assert refused(mirror, tmp_path / "none") == (
        f"URL{path}: the server answers 404 Not Found; check the address"
    )


def test_a_taxonomy_of_another_layout(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    def message(name: str) -> str:
        return refused(mirror, tmp_path / name)

    good = mirror.files[TAXDUMP]
    mirror.files[TAXDUMP] = good + b"x"
    assert "the download has md5" in message("md5")
    layout.add_taxdump(mirror, {"rankedlineage.dmp": b"", "names.dmp": b""})
    assert message("host") == (
        "DIR/sources/new_taxdump.tar.gz: holds no host.dmp; this is not NCBI's new_taxdump.tar.gz"
    )
    layout.add_taxdump(mirror, {"rankedlineage.dmp": b"5\t|\tx\t|\n101\t|\tx\t|\n"})
    assert message("fields") == (
        "DIR/sources/new_taxdump.tar.gz: rankedlineage.dmp, line 2: 2 fields where 8 are needed; "
        "the layout of the taxonomy has changed"
    )
    mirror.files[TAXDUMP] = good[:200]
    digest = hashlib.md5(good[:200]).hexdigest()
    mirror.files[f"{TAXDUMP}.md5"] = f"{digest}  new_taxdump.tar.gz\n".encode()
    assert message("cut").startswith("DIR/sources/new_taxdump.tar.gz: not a readable taxonomy (")
