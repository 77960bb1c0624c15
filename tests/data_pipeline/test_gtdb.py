"""Do the wanted representatives, and no others, come out of GTDB's archive as it streams by?"""

import gc
import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from data_pipeline import download, gtdb, sources
from data_pipeline.errors import UserError
from data_pipeline.reading import expand, fields, read_records
from data_pipeline.streaming import WebStream
from tests.data_pipeline import mirror as layout
from tests.data_pipeline.mirror import Mirror
from tests.data_pipeline.test_refseq import genomes, manifest, refused

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAKEN = ["GCA_000000022.1", "GCA_000000031.1", "GCF_000000024.1"]
ARCHIVE = "/releases/latest/genomic_files_reps/gtdb_genomes_reps.tar.gz"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Mirror() as server:
        layout.gtdb(server)
        yield server


def fetch(mirror: Mirror, folder: pathlib.Path, **options: Any) -> dict[str, Any]:
    chosen = {"preset": "gtdb", "base_url": f"{mirror.url}/releases/latest"} | options
    return sources.fetch(sources.FetchOptions(**chosen), str(folder))


def fails(mirror: Mirror, folder: pathlib.Path, **options: Any) -> str:
    return refused(
        mirror,
        folder,
        **({"preset": "gtdb", "base_url": f"{mirror.url}/releases/latest"} | options),
    )


def check_gtdb(mirror: Mirror, folder: pathlib.Path, **options: Any) -> None:
    summary = fetch(mirror, folder, **options)
    assert genomes(folder) == TAKEN
    assert summary["groups"] == {"archaea": 1, "bacteria": 2}
    assert summary["bases"] == 9000
    assert summary["left_out"] == {"another of its genus is better": 1, "not a representative": 1}
    for accession in TAKEN:
        content = layout.gtdb_members()[layout.gtdb_member(accession)]
        assert manifest(folder)[accession]["md5"] == hashlib.md5(content).hexdigest()
        (record,) = read_records([str(folder / manifest(folder)[accession]["file"])])
        assert record.bases.decode() == layout.letters(3000, int(accession[4:13]))
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".member")]


def test_one_representative_per_genus(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    check_gtdb(mirror, tmp_path)
    records = {r.id: fields(r.description) for r in read_records(expand([f"{tmp_path}/genomes"]))}
    assert records["CTG000000022.1"] == {
        "group": "bacteria",
        "label": "0",
        "virus": "0",
        "cluster": "Ga",
        "genome": "GCA_000000022.1",
        "family": "Fa",
        "genus": "Ga",
        "phylum": "Pa",
        "organism": "Ga_b",
        "species_taxid": "7",
        "date": "2021-02-03",
        "licence": "CC-BY-SA-4.0",
        "title": "contig_1",
    }
    row = manifest(tmp_path)["GCF_000000024.1"]
    assert (row["species_taxid"], row["taxid"], row["organism"]) == ("-", "77", "Gb c")
    assert row["url"] == mirror.url + ARCHIVE
    kept = json.loads((tmp_path / "fetch.json").read_text())
    assert sorted(kept["sources"]) == ["ar53_metadata.tsv.gz", "bac120_metadata.tsv.gz"]
    mirror.asked.clear()
    check_gtdb(mirror, tmp_path)
    assert mirror.asked == []


def test_other_choices(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    fetch(mirror, tmp_path / "species", one_per="species")
    assert genomes(tmp_path / "species") == sorted([*TAKEN, "GCF_000000021.1"])
    fetch(mirror, tmp_path / "limit", limit=1)
    assert genomes(tmp_path / "limit") == TAKEN[:1]
    # CheckM 1 alone, as before release 220, and one release by its own address.
    old = [name for name in layout.GTDB_COLUMNS if not name.startswith("checkm2")]
    rows = [row | {"checkm_contamination": f"{n}"} for n, row in enumerate(layout.BACTERIA)]
    base = "/releases/release226/226.0"
    layout.gtdb(mirror, base, "_r226")
    table = gzip.compress(layout.table(old[:1] + old[:0:-1], rows))
    mirror.files[f"{base}/bac120_metadata_r226.tsv.gz"] = table
    listing = mirror.files[f"{base}/MD5SUM.txt"].split(b"\n")
    listing[0] = f"{hashlib.md5(table).hexdigest()}  ./bac120_metadata_r226.tsv.gz".encode()
    mirror.files[f"{base}/MD5SUM.txt"] = b"\n".join(listing)
    fetch(mirror, tmp_path / "old", base_url=f"{mirror.url}{base}/")
    assert genomes(tmp_path / "old") == ["GCA_000000031.1", "GCF_000000021.1", "GCF_000000024.1"]


def test_members_are_forgotten(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    """TarFile remembers every file it has passed, which for GTDB's archive takes 200 MB."""
    found = [
        next(gtdb.candidates(str(path), f"{mirror.url}/releases/latest", sources.Counter()))
        for path in [tmp_path / "x.tsv"]
        if path.write_bytes(
            layout.table(layout.GTDB_COLUMNS, [layout.BACTERIA[3]])  # the last in the archive
        )
    ]
    for _ in gtdb.fetch(found, str(tmp_path)):
        headers = sum(isinstance(thing, tarfile.TarInfo) for thing in gc.get_objects())
        assert headers < 10


def test_the_archive_is_read_no_further_than_needed(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    released = mirror.hang(ARCHIVE, len(mirror.files[ARCHIVE]) // 2)
    fetch(mirror, tmp_path, limit=1)
    released.set()
    assert genomes(tmp_path) == TAKEN[:1]


# --- faults of the server -------------------------------------------------------------------------


def test_a_dropped_connection_is_taken_up(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    mirror.faults[ARCHIVE] = [30_000, 30_000]
    check_gtdb(mirror, tmp_path)
    assert [asked for path, asked in mirror.asked if path == ARCHIVE] == [
        "",
        "bytes=30000-",
        "bytes=60000-",
    ]


def test_a_server_without_ranges_is_followed(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    mirror.ranges = False
    mirror.faults[ARCHIVE] = [30_000]
    check_gtdb(mirror, tmp_path)


def test_two_versions_are_never_joined(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    def changed(handler: Any) -> None:
        mirror.files[ARCHIVE] += b"x"
        mirror.send(handler)

    mirror.faults[ARCHIVE] = [30_000, changed]
    assert fails(mirror, tmp_path) == (
        f"URL{ARCHIVE}: after 30000 bytes the file changed, or the server cannot go on in the "
        "middle of a file; run the same command again"
    )


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_streams_give_every_byte_once(mirror: Mirror, size: int) -> None:
    content = mirror.files[ARCHIVE]
    mirror.faults[ARCHIVE] = [0, 1, 7, 1000, lambda handler: handler.send_error(503), 50_000]
    stream = io.BufferedReader(WebStream(mirror.url + ARCHIVE), size)
    assert stream.read(5) == content[:5]
    assert stream.read() == content[5:]


def test_a_stream_is_given_up_at_last(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    mirror.faults[ARCHIVE] = [30_000] + [0] * (download.TRIES + 1)
    size = len(mirror.files[ARCHIVE])
    assert fails(mirror, tmp_path) == (
        f"URL{ARCHIVE}: the download stopped after 30000 bytes (the connection dropped at 30000 of "
        f"{size} bytes); try again later"
    )
    del mirror.files[ARCHIVE]
    assert fails(mirror, tmp_path) == (
        f"URL{ARCHIVE}: the server answers 404 Not Found; check the address"
    )


def test_a_broken_archive(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    good = mirror.files[ARCHIVE]
    mirror.files[ARCHIVE] = good[:500_000]
    assert fails(mirror, tmp_path) == (
        f"URL{ARCHIVE}: the archive is damaged or ends early (Compressed file ended before the "
        "end-of-stream marker was reached); run the same command again"
    )
    mirror.files[ARCHIVE] = gzip.compress(gzip.decompress(good)[: 512 * 20 + 99])
    assert "the archive is damaged or ends early" in fails(mirror, tmp_path)
    mirror.files[ARCHIVE] = b"<html>no</html>"
    assert "the archive is damaged or ends early" in fails(mirror, tmp_path)


def test_a_genome_that_is_not_there_or_not_dna(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    members = dict(layout.gtdb_members())
    gone, odd = (layout.gtdb_member(TAKEN[n]) for n in (0, 1))
    del members[gone]
    kept = "that are here are kept: run the same command again)"
    mirror.files[ARCHIVE] = layout.archive(members)
    assert fails(mirror, tmp_path) == (
        f"1 genome of 3 could not be fetched, the first because: URL{ARCHIVE}: holds no genome "
        f"{TAKEN[0]} (the 2 {kept}"
    )
    members = dict(layout.gtdb_members()) | {odd: gzip.compress(b">a\nAC5T\n")}
    mirror.files[ARCHIVE] = layout.archive(members)
    message = fails(mirror, tmp_path / "odd")
    assert f"URL{ARCHIVE}: {odd}" in message
    assert "line 2" in message
    assert genomes(tmp_path / "odd") == [TAKEN[0], TAKEN[2]]
    layout.gtdb(mirror)
    check_gtdb(mirror, tmp_path)
    check_gtdb(mirror, tmp_path / "odd")


def test_metadata_of_another_layout(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    def message(columns: Any = layout.GTDB_COLUMNS, **changed: str) -> str:
        rows = [row | changed for row in layout.BACTERIA]
        table = gzip.compress(layout.table(columns, rows), mtime=0)
        mirror.files["/releases/latest/bac120_metadata.tsv.gz"] = table
        line = f"{hashlib.md5(table).hexdigest()}  ./bac120_metadata.tsv.gz\n"
        mirror.files["/releases/latest/MD5SUM.txt"] = line.encode()
        return fails(mirror, tmp_path / hashlib.md5(table).hexdigest())

    table = "DIR/sources/bac120_metadata.tsv.gz"
    changed = "the layout of this table has changed"
    without = [c for c in layout.GTDB_COLUMNS if c != "gtdb_taxonomy"]
    assert message(without) == (
        f"{table}, line 1: no column 'gtdb_taxonomy' among the 16 of the header; {changed}, or it "
        "is another table"
    )
    assert message([c for c in layout.GTDB_COLUMNS if "checkm" not in c]) == (
        f"{table}: RS_GCF_000000021.1 has no checkm2_completeness and checkm2_contamination (nor "
        f"checkm_...), by which the best genome is chosen; {changed}"
    )
    assert message(checkm2_completeness="good") == (
        f"{table}: checkm2_completeness and checkm2_contamination of RS_GCF_000000021.1 are 'good' "
        f"and '1.0', not numbers; {changed}"
    )
    assert message(gtdb_representative="yes") == (
        f"{table}: gtdb_representative of RS_GCF_000000021.1 is 'yes', not t or f; {changed}"
    )
    listing = "/releases/latest/MD5SUM.txt"
    assert message() == (
        f"URL{listing}: names no checksum for ar53_metadata.tsv.gz, so the file cannot be "
        "verified; try again later"
    )
    mirror.files[listing] = b"0" * 32 + b"  ./bac120_metadata_r226.tsv.gz\n"
    assert "the download has md5" in fails(mirror, tmp_path / "md5")


def test_planted_fault_contamination_is_not_looked_at(
    mirror: Mirror, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gtdb, "_quality", lambda row, table: (float(row["checkm2_completeness"]), 0.0)
    )
    with pytest.raises(AssertionError):
        check_gtdb(mirror, tmp_path)


def test_planted_fault_the_stream_begins_anew(
    mirror: Mirror, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = WebStream._connect

    def connect(self: WebStream) -> Any:
        self.passed = 0
        return whole(self)

    monkeypatch.setattr(WebStream, "_connect", connect)
    with pytest.raises(UserError):
        test_a_dropped_connection_is_taken_up(mirror, tmp_path)


# --- going on -------------------------------------------------------------------------------------


def test_killed_half_way_it_goes_on(mirror: Mirror, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(ROOT / "main.py"), "fetch", "--preset=gtdb"]
    command += [f"--output={tmp_path}", f"--base_url={mirror.url}/releases/latest"]
    released = mirror.hang(ARCHIVE, len(mirror.files[ARCHIVE]) // 2)
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        journal = tmp_path / sources.JOURNAL
        end = time.monotonic() + 60
        while not (journal.exists() and journal.read_text().count("\n") == 2):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        released.set()
    assert genomes(tmp_path) == TAKEN[:2]
    assert not (tmp_path / "manifest.tsv").exists()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("GC*.fna.gz")}
    check_gtdb(mirror, tmp_path)
    assert len(times) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
