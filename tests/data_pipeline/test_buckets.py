"""Are genomes in buckets found and read as those on a disk are? gs:// and s3://, emulated here."""

import gzip
import importlib.util
import pathlib
from collections.abc import Iterator

import fsspec
import pytest

from data_pipeline import corpus
from data_pipeline.corpus import CorpusOptions, build_corpus
from data_pipeline.errors import UserError
from data_pipeline.opening import expand
from data_pipeline.reading import read_records
from data_pipeline.saving import saved
from tests.data_pipeline.s3_bucket import serving

GENOMES = b">c\nACGT\n>d\n" + b"ACGTTGCA\n" * 300_000
OBJECTS = {
    "lab/x/b.fa.gz": gzip.compress(b">a\nACGT\n>b\nGG\n"),
    "lab/x/c.fa": GENOMES,
    "lab/x/a.tsv": b"x",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with serving(OBJECTS) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN"):
            patch.delenv(name, raising=False)
        yield "s3"


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    for name in ("gcsfs", "gcp_storage_emulator"):  # not to be imported before it is told where
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: requirements-dev.txt")
    from tests.dnallm_jax.training.bucket import emulated

    with emulated("lab"):
        files = fsspec.filesystem("gs", use_listings_cache=False)
        for name, data in OBJECTS.items():
            files.pipe_file(name, data)
        yield "gs"


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    return f"{request.getfixturevalue(request.param)}://lab"


def test_objects_are_found_and_read(bucket: str) -> None:
    assert expand([f"{bucket}/x/b.fa.gz"]) == [f"{bucket}/x/b.fa.gz"]
    assert expand([f"{bucket}/x/"]) == [f"{bucket}/x/b.fa.gz", f"{bucket}/x/c.fa"]
    assert expand([f"{bucket}/*/b*"]) == [f"{bucket}/x/b.fa.gz"]
    found = [(r.id, len(r.bases), r.source) for r in read_records([f"{bucket}/x/"])]
    assert found == [
        ("a", 4, f"{bucket}/x/b.fa.gz"),
        ("b", 2, f"{bucket}/x/b.fa.gz"),
        ("c", 4, f"{bucket}/x/c.fa"),
        ("d", 8 * 300_000, f"{bucket}/x/c.fa"),
    ]


def test_what_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(UserError, match=r"/z/\*: no sequence file is found there; check the addr"):
        expand([f"{bucket}/z/*"])
    with pytest.raises(UserError, match=r"/no\.fa: cannot be read \(.*\); check the address"):
        list(read_records([f"{bucket}/no.fa"]))


def test_prepare_keeps_a_copy(
    bucket: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads its sources more than once."""
    monkeypatch.setattr(corpus, "MARKOV_ORDERS", range(2))
    first = saved([f"{bucket}/x/"], str(tmp_path / "d"))
    assert [pathlib.Path(path).name.split("-", 1)[1] for path in first] == ["b.fa.gz", "c.fa"]
    assert pathlib.Path(first[1]).read_bytes() == GENOMES
    pathlib.Path(first[0]).write_bytes(OBJECTS["lab/x/b.fa.gz"] + b"")
    before = pathlib.Path(first[0]).stat().st_mtime_ns
    assert saved([f"{bucket}/x/"], str(tmp_path / "d")) == first
    assert pathlib.Path(first[0]).stat().st_mtime_ns == before, "fetched once"
    found = build_corpus(CorpusOptions(first, row_length=1_024), str(tmp_path / "corpus"))
    assert found.splits["train"].bases == 10 + 8 * 300_000
    with pytest.raises(UserError, match="cannot be read"):
        saved([f"{bucket}/no.fa"], str(tmp_path / "e"))
    assert [path.suffix for path in (tmp_path / "e").iterdir()] == [".partial"]
