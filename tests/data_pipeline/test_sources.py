"""Do genomes come whole, verified and once, whatever the server does, whenever a run is killed?"""

import hashlib
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from data_pipeline import assemblies, download, refseq, sources
from data_pipeline.reading import read_records
from tests.data_pipeline import mirror as layout
from tests.data_pipeline.mirror import TAXDUMP, Mirror, genome_path
from tests.data_pipeline.test_refseq import TAKEN, check_viral, genomes, refused

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Mirror() as server:
        layout.viral(server)
        yield server


def listing(number: int) -> str:
    return genome_path(f"GCF_{number:09}.1").rpartition("/")[0] + "/md5checksums.txt"


# --- faults of the server -------------------------------------------------------------------------


def check_wrong_md5(mirror: Mirror, folder: pathlib.Path) -> None:
    path = genome_path("GCF_000000006.1")
    good = mirror.files[path]
    mirror.files[path] = layout.fasta({"NC_000007.1": "ACGT"})
    found, told = (hashlib.md5(content).hexdigest() for content in (mirror.files[path], good))
    assert refused(mirror, folder) == (
        f"1 genome of 4 could not be fetched, the first because: URL{path}: the download has md5 "
        f"{found}, not {told} as the URL says; the file was changed or damaged: ask its source "
        "which is right (the 3 that are here are kept: run the same command again)"
    )
    assert genomes(folder) == [name for name in TAKEN if name != "GCF_000000006.1"]
    assert not (folder / "manifest.tsv").exists()
    assert not (folder / "fetch.json").exists()
    mirror.files[path] = good


def test_a_wrong_md5_is_refused_and_only_that_genome_is_fetched_again(
    mirror: Mirror, tmp_path: pathlib.Path
) -> None:
    check_wrong_md5(mirror, tmp_path)
    mirror.asked.clear()
    check_viral(mirror, tmp_path)
    assert list(mirror.count()) == ["GCF_000000006.1_ASM6v1_genomic.fna.gz"]


def test_planted_fault_the_md5_is_not_looked_at(
    mirror: Mirror, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        refseq, "read_records", lambda urls: read_records([url.split("#")[0] for url in urls])
    )
    with pytest.raises(pytest.fail.Exception):
        check_wrong_md5(mirror, tmp_path)


def test_a_missing_genome_and_a_missing_checksum(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    path = genome_path("GCF_000000001.1")
    content = mirror.files.pop(path)
    kept = "(the 3 that are here are kept: run the same command again)"
    assert refused(mirror, tmp_path) == (
        f"1 genome of 4 could not be fetched, the first because: URL{path}: the server answers 404 "
        f"Not Found; check the address {kept}"
    )
    mirror.files[path] = content
    checksums = mirror.files[listing(1)]
    mirror.files[listing(1)] = checksums.replace(b"_genomic.fna", b"_genomic.gff")
    assert refused(mirror, tmp_path) == (
        f"1 genome of 4 could not be fetched, the first because: URL{listing(1)}: names no "
        "checksum for GCF_000000001.1_ASM1v1_genomic.fna.gz, so the file cannot be verified; try "
        f"again later {kept}"
    )
    del mirror.files[listing(1)]
    assert f"URL{listing(1)}: the server answers 404 Not Found" in refused(mirror, tmp_path)
    mirror.files[listing(1)] = checksums
    check_viral(mirror, tmp_path)


def test_a_run_with_many_failures_is_given_up(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    rows = [layout.assembly(number, number) for number in range(1000, 1040)]
    layout.add_summary(mirror, "bacteria", rows)
    message = refused(mirror, tmp_path, preset="refseq-bacteria", connections=1)
    assert message.startswith(
        f"20 genomes of 40 could not be fetched, the first because: URL{listing(1000)}: the server "
    )
    assert sum(path.endswith("md5checksums.txt") for path, _ in mirror.asked) < 40


def test_a_dropped_connection_is_taken_up(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    path = genome_path("GCF_000000011.1")
    mirror.faults[path] = [700]
    mirror.faults[TAXDUMP] = [100]
    check_viral(mirror, tmp_path)
    assert [asked for p, asked in mirror.asked if p == path] == ["", "bytes=700-"]
    assert [asked for p, asked in mirror.asked if p == TAXDUMP] == ["", "bytes=100-"]


def test_broken_fasta_with_the_right_md5(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    layout.add_genome(mirror, layout.assembly(1, 101), {"NC_000001.1": "ACGT!"})
    message = refused(mirror, tmp_path)
    assert f"URL{genome_path('GCF_000000001.1')}" in message
    assert "line 2" in message
    assert genomes(tmp_path) == TAKEN[1:]


# --- going on -------------------------------------------------------------------------------------


def test_what_is_whole_is_not_fetched_again(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    check_viral(mirror, tmp_path)
    names = (*tmp_path.rglob("*.gz"), tmp_path / "manifest.tsv")
    before = {path: path.read_bytes() for path in (*names, tmp_path / "fetch.json")}
    mirror.asked.clear()
    check_viral(mirror, tmp_path)
    assert mirror.asked == []
    assert all(path.read_bytes() == content for path, content in before.items())

    short, gone = (tmp_path / f"genomes/00{n}/GCF_00000000{n}.1.fna.gz" for n in (1, 3))
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    with open(tmp_path / sources.JOURNAL, "a") as journal:
        journal.write('{"accession": "GCF_0000')  # as a kill leaves it
    check_viral(mirror, tmp_path)
    assert sorted(mirror.count()) == [
        "GCF_000000001.1_ASM1v1_genomic.fna.gz",
        "GCF_000000003.1_ASM3v1_genomic.fna.gz",
    ]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_killed_half_way_it_goes_on(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "main.py"), "fetch", "--preset=refseq-viral"]
    command += [f"--output={out}", f"--base_url={mirror.url}", "--connections=1"]
    released = mirror.hang(genome_path("GCF_000000006.1"), 20)  # the third of four
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        journal = out / sources.JOURNAL
        end = time.monotonic() + 60
        while not (journal.exists() and journal.read_text().count("\n") == 2):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        released.set()
    assert genomes(out) == TAKEN[:2]
    assert not (out / "manifest.tsv").exists()
    # The summary of today may be another one: the choice stays what it was.
    layout.add_summary(mirror, "viral", [layout.assembly(77, 77)])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.replace(str(out), "DIR").splitlines() == [
        "4 genomes are wanted, 2 are here",
        "4 of 4 genomes",
        "DIR: 4 genomes, 5 sequences, 5,505 bases (NCBI places no restrictions on the use or "
        "distribution of RefSeq data)",
        "  left out: 1 (another of its species is better)",
        "  left out: 1 (excluded_from_refseq)",
        "  left out: 1 (no ftp_path)",
        "  left out: 1 (version_status is not latest)",
        "  left out: 2 (virus of eukaryotes)",
        "  left out: 1 (virus of unknown host)",
    ]
    check_viral(mirror, out)
    asked = mirror.count()
    assert sorted(asked.values()) == [1, 1, 1, 2]
    assert asked["GCF_000000006.1_ASM6v1_genomic.fna.gz"] == 2
    assert mirror.count("assembly_summary.txt").total() == 1


def test_a_folder_holds_one_fetch(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    check_viral(mirror, tmp_path / "out")
    assert refused(mirror, tmp_path / "out", include_eukaryote_viruses=True) == (
        "DIR: holds a fetch with include_eukaryote_viruses=False, not True; choose another folder, "
        "or delete this one"
    )
    (tmp_path / "own" / "genomes").mkdir(parents=True)
    assert refused(mirror, tmp_path / "own") == (
        "DIR: holds genomes of unknown origin; choose another folder"
    )
    with sources.datasets.sole_writer(str(tmp_path / "out"), "fetch"):
        assert "another fetch" in refused(mirror, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"preset": "refseq-fungi"},
            "preset is 'refseq-fungi'; choose one of refseq-viral, refseq-bacteria, "
            "refseq-archaea, gtdb",
        ),
        ({"one_per": "family"}, "one_per is 'family'; choose one of species, genus, none"),
        ({"limit": -1}, "limit is -1; choose 0 (no limit) or more"),
        ({"connections": 99}, "connections is 99; choose 1 to 16"),
        ({"base_url": "ftp://x"}, "base_url is 'ftp://x'; it begins with http:// or https://"),
        (
            {"preset": "gtdb", "assembly_levels": ("Contig",)},
            "assembly_levels and refseq_categories are RefSeq's; GTDB's representatives are chosen "
            "by completeness and contamination",
        ),
        (
            {"preset": "gtdb", "include_eukaryote_viruses": True},
            "include_eukaryote_viruses: the preset gtdb holds no viruses",
        ),
    ],
)
def test_bad_options(
    mirror: Mirror, tmp_path: pathlib.Path, options: dict[str, Any], message: str
) -> None:
    assert refused(mirror, tmp_path, **options) == message
    assert mirror.asked == []


def test_the_public_addresses() -> None:
    viral = sources.FetchOptions("refseq-viral")
    assert f"{viral.address}/{refseq.summary_path('refseq-viral')}" == (
        "https://ftp.ncbi.nlm.nih.gov/genomes/refseq/viral/assembly_summary.txt"
    )
    assert sources.FetchOptions("gtdb").address == (
        "https://data.gtdb.ecogenomic.org/releases/latest"
    )
    assert assemblies.Assembly("GCF_000819615.1", *"abcdefg", ()).file == (
        "genomes/615/GCF_000819615.1.fna.gz"
    )
