"""Does a user's mistake end with one line that names it, exit code 2, and nothing left behind?"""

import dataclasses
import gzip
import pathlib
import subprocess
import sys

import pytest

from tests.dnallm_jax.bundles import random_bases
from tests.end_to_end.conftest import ROOT, Program

GOOD = b">a\n" + random_bases(300, 1) + b"\n>b\n" + random_bases(300, 2) + b"\n"
FILES = {
    "good.fa": GOOD,
    "empty.fa": b"",
    "blank.fa": b"\n\n",
    "words.txt": b"Dear all,\nplease find the genomes attached.\n",
    "page.fa": b"<!DOCTYPE html>\n<html>404</html>\n",
    "protein.fa": b">p1\nMSTNPKPQRKTKRNTNRRPQDVKFPGGGQIVGGVYLLPRRGPRLGVRATRK\n",
    "cut.fa.gz": gzip.compress(GOOD)[:-20],
    "twice.fa": GOOD.replace(b">b", b">a"),
    "later.fa": GOOD + b">c\nACGTEFILPQ\n",
    "recipe.py": (
        b"from dnallm_jax.config import default_config\n"
        b"def get_config():\n"
        b"    c = default_config()\n"
        b"    c.corpus.sources = ('twice.fa',)\n"
        b"    return c\n"
    ),
}


@pytest.fixture
def inputs(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def faults(ended: subprocess.CompletedProcess[str], words: list[str]) -> list[str]:
    """What a user would have against the way that the program ended."""
    found = []
    if ended.returncode != 2:
        found.append(f"exit code {ended.returncode}")
    if len(ended.stderr.splitlines()) != 1:
        found.append(f"{len(ended.stderr.splitlines())} lines on standard error")
    if "Traceback" in ended.stderr + ended.stdout:
        found.append("a traceback")
    found += [f"does not say {word!r}" for word in words if word not in ended.stderr]
    return found


@dataclasses.dataclass(frozen=True)
class Mistake:
    words: str  # of the command line; {bundle}, {new} and {other} are folders
    told: list[str]  # what the line on standard error must hold


# These are found before JAX is loaded, within a second.
SOON = {
    "unknown command": Mistake("scoer x.fa", ["unknown command 'scoer'", "score"]),
    "unknown flag": Mistake("score --bundel=x good.fa", ["bundel"]),
    "no input": Mistake("score --bundle={bundle}", ["no input", "- for standard input"]),
    "no such file": Mistake("score --bundle={bundle} x.fa", ["x.fa: no such file"]),
    "no match": Mistake("score --bundle={bundle} *.fna", ["*.fna: no file matches"]),
    "empty file": Mistake("score --bundle={bundle} empty.fa", ["empty.fa: no records"]),
    "blank files": Mistake("score --bundle={bundle} empty.fa blank.fa", ["blank.fa: no records"]),
    "empty input": Mistake("score --bundle={bundle} -", ["-: no records"]),
    "not FASTA": Mistake("score --bundle={bundle} words.txt", ["words.txt", "line 1", "not FASTA"]),
    "web page": Mistake("score --bundle={bundle} page.fa", ["page.fa: this is HTML"]),
    "protein": Mistake("score --bundle={bundle} protein.fa", ["'p1'", "line 2", "protein"]),
    "truncated": Mistake("score --bundle={bundle} cut.fa.gz", ["cut.fa.gz: truncated"]),
    "output is an input": Mistake(
        "score --bundle={bundle} --output=good.fa good.fa", ["good.fa is also an input"]
    ),
    "evaluate without config": Mistake("evaluate --workdir={new}", ["--config is missing"]),
    "evaluate without workdir": Mistake("evaluate --config=recipe.py", ["--workdir is missing"]),
    "no such config": Mistake("evaluate --config=no.py --workdir={new}", ["no.py: no such file"]),
    "no such split": Mistake("evaluate --split=train", ["--split", "validation|test"]),
    "plan of no topology": Mistake("plan --config=recipe.py", ["--topology is missing"]),
    "a misspelt topology": Mistake(
        "plan --config=recipe.py --topology=v5x:4x4", ["v5x", 'did you mean "v5p:4x4"', "v6e"]
    ),
    "stray word": Mistake("demo workdir", ["unexpected 'workdir'"]),
    "demo in a folder of others": Mistake(
        "demo --workdir=.", ["is not a demo's folder", "good.fa", "choose another --workdir"]
    ),
    "demo in a file": Mistake("demo --workdir=good.fa", ["good.fa is not a demo's folder"]),
}
# These load JAX, a bundle or TFDS first.
LATE = {
    "no such bundle": Mistake("score --bundle={new} good.fa", ["new: no such bundle"]),
    "a folder that is no bundle": Mistake("score --bundle=. good.fa", ["is not a whole bundle"]),
    "a fault half-way": Mistake(
        "score --bundle={bundle} --output={new}/scores.tsv later.fa", ["'c'", "line 6", "protein"]
    ),
    "duplicate ids in prepare": Mistake(
        "prepare --config=recipe.py --workdir={new}", ["twice.fa: record 'a', line 3", "line 1"]
    ),
    "prepare in a file": Mistake(
        "prepare --config=recipe.py --config.corpus.sources=good.fa --workdir=good.fa/x",
        ["good.fa/x", "cannot be made (Not a directory)"],
    ),
    "nothing to prepare": Mistake(
        "prepare --config=recipe.py --config.corpus.sources=() --workdir={new}",
        ["config.corpus.sources", "config.contigs.train", "nothing to prepare"],
    ),
    "contigs that are not there": Mistake(  # told before the corpus is built
        "prepare --config=recipe.py --config.corpus.sources=good.fa --config.contigs.train=no.fa "
        "--workdir={new}",
        ["no.fa: no such file"],
    ),
    "a list of files": Mistake(
        "prepare --config=recipe.py --config.corpus.sources=@blank.fa --workdir={new}",
        ["blank.fa: the list names no file"],
    ),
    "nothing prepared": Mistake(
        "evaluate --config=recipe.py --workdir={new}", ["contigs.json: no such file", "run prepare"]
    ),
}


@pytest.mark.parametrize("name", [*SOON, *LATE])
def test_a_mistake_is_one_line(
    name: str, program: Program, bundle: pathlib.Path, inputs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    mistake = (SOON | LATE)[name]
    words = mistake.words.format(bundle=bundle, new=tmp_path / "new").split()
    ended = program(*words, folder=inputs)
    assert faults(ended, mistake.told) == [], ended.stderr
    left = {path.name for path in inputs.iterdir() if path.name != "__pycache__"}
    assert left == set(FILES)
    assert {name: (inputs / name).read_bytes() for name in FILES} == FILES
    # A workdir may have been begun; nothing in it may look like a result.
    assert not [*tmp_path.glob("new/*.tsv*"), *tmp_path.glob("new/data/*/*.json")]


def test_the_check_sees_a_program_that_just_breaks(tmp_path: pathlib.Path) -> None:
    broken = subprocess.CompletedProcess([], 1, "", "Traceback ...\nKeyError: 'x'\n")
    assert len(faults(broken, ["x.fa"])) == 4


def test_no_command_and_help(program: Program) -> None:
    asked, bare = program("--help"), program()
    assert (asked.returncode, bare.returncode) == (0, 2)
    assert asked.stdout == bare.stdout
    of_score = program("score", "--help")
    assert of_score.returncode == 0
    assert of_score.stdout.startswith("python main.py score")
    assert of_score.stderr == "" == asked.stderr


PRINTS = """
import main
from dnallm_jax.commands import checkpoints
checkpoints.run = lambda rest: [print("a line") for _ in range(100_000)]
main.run(["main.py", "checkpoints"])
"""


def test_a_reader_that_has_seen_enough_is_no_failure(environment: dict[str, str]) -> None:
    def shell(line: str) -> tuple[bytes, bytes]:
        ended = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        return ended.stdout, ended.stderr

    assert shell(f"{sys.executable} -c '{PRINTS}' | head -n 1") == (b"a line\n", b"")
    # The usage is written when the reader has already gone.
    assert shell(f"{sys.executable} main.py --help | true") == (b"", b"")


def test_a_disk_that_fills_up_is_told_in_one_line(
    environment: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """No file may grow beyond 100 KiB, which to the writer of rows is a full disk."""
    (tmp_path / "a.fa").write_bytes(b">a\n" + random_bases(1_000_000, 1) + b"\n")
    words = (
        "prepare --config=configs/smoke.py --workdir=$0/w --config.root=$0 "
        '"--config.corpus.sources=(\'a.fa\',)" "--config.corpus.validation_sources=()" '
        "--config.corpus.validation_fraction=0 --config.corpus.cluster_key= "
        '"--config.contigs.train=()" "--config.contigs.validation=()"'
    )
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -f 100; {sys.executable} main.py {words}", tmp_path],
        cwd=ROOT,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("dnallm_jax prepare: no room to write (")
    assert "make some and run the same command again" in line
    assert not list(tmp_path.rglob("*array_record*"))  # nothing that looks whole
