"""Do the Snakemake rule and the Nextflow process in docs/workflows run? Skips without engines."""

import gzip
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.dnallm_jax.bundles import random_bases
from tests.end_to_end.conftest import ROOT

WORKFLOWS = ROOT / "docs" / "workflows"
OUTPUTS = [
    f"s1.{end}" for end in ("summary.html", "tsv.gz", "tsv.gz.provenance.json", "viral.fa.gz")
]


@pytest.fixture
def sample(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with the contigs of one sample."""
    (tmp_path / "contigs").mkdir()
    contigs = b"".join(b">c%d\n%s\n" % (number, random_bases(300, number)) for number in range(3))
    (tmp_path / "contigs" / "s1.fa.gz").write_bytes(gzip.compress(contigs))
    return tmp_path


def run(folder: pathlib.Path, environment: dict[str, str], *words: str) -> None:
    """Runs an engine, its home and caches within the folder."""
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed")
    path = os.pathsep.join([os.environ["PATH"], str(pathlib.Path(sys.executable).parent)])
    ended = subprocess.run(
        words,
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if words[0] == "nextflow" and "Cannot download nextflow" in ended.stdout + ended.stderr:
        pytest.skip("nextflow cannot fetch itself here")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(path.name for path in (folder / "scores").iterdir()) == OUTPUTS
    with gzip.open(folder / "scores" / "s1.tsv.gz", "rt") as file:
        assert [line.split("\t")[0] for line in file] == ["sequence_id", "c0", "c1", "c2"]


def test_the_snakemake_rule(
    sample: pathlib.Path, bundle: pathlib.Path, environment: dict[str, str]
) -> None:
    run(
        sample,
        environment,
        *("snakemake", "--snakefile", str(WORKFLOWS / "score.smk"), "--cores", "2"),
        "scores/s1.tsv.gz",
        *("--config", f"dnallm={sys.executable} {ROOT / 'main.py'}", f"options=--bundle={bundle}"),
    )


def test_the_nextflow_process(
    sample: pathlib.Path, bundle: pathlib.Path, environment: dict[str, str]
) -> None:
    run(
        sample,
        environment,
        *("nextflow", "run", str(WORKFLOWS / "score.nf"), "-ansi-log", "false"),
        *("--dnallm", f"{sys.executable} {ROOT / 'main.py'}", "--options", f"--bundle={bundle}"),
    )
