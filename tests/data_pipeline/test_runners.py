"""Are the files the same whoever writes the shards, and is it noticed when something is lost?"""

import dataclasses
import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from data_pipeline import corpus, pieces, runners, writing
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus, open_corpus
from data_pipeline.errors import UserError
from data_pipeline.writing import IN_PROCESS, Job, divided

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK_BASES = pieces.BLOCK_BASES
LENGTHS = [1_500, 64, 400, 2, 900, 65, 500]
OPTIONS: dict[str, dict[str, Any]] = {
    "nucleotides": {},
    "masked": {"soft_mask_weight": 0.5, "max_bases": 12_000},
    "k-mers in phases": {"tokenizer": {"name": "kmer", "k": 3}, "phases": 3},
    "wrapped": {"wrap_circular": True, "tokenizer": {"name": "kmer", "k": 4}},
    "codons": {"tokenizer": {"name": "codon", "min_codons": 5, "max_overlap": 0.3}},
}


@dataclasses.dataclass(frozen=True)
class Backwards:
    """In this process, in many jobs, the last one first."""

    parts: int

    def __call__(self, jobs: Iterable[Job]) -> None:
        """Does them."""
        for job in list(jobs)[::-1]:
            writing.write(job)


def write_genomes(folder: pathlib.Path) -> CorpusOptions:
    rng = np.random.default_rng(0)
    for name in ("one", "two", "validation"):
        with (folder / f"{name}.fa").open("w") as file:
            for i, length in enumerate(LENGTHS):
                words = f"{name}{i} topology={'circular' if i % 2 else 'linear'} virus={i % 3 // 2}"
                file.write(f">{words}\n{''.join(rng.choice(list('ACGTacgtN'), length))}\n")
    return CorpusOptions(
        (str(folder / "one.fa"), str(folder / "two.fa")),
        (str(folder / "validation.fa"),),
        exclude=("virus=1",),
        row_length=32,
    )


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> CorpusOptions:
    return write_genomes(tmp_path_factory.mktemp("genomes"))


@pytest.fixture(autouse=True)
def _many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MARKOV_ORDERS", range(2))
    monkeypatch.setattr(corpus, "BLOCK_BASES", 84)
    monkeypatch.setattr(pieces, "BLOCK_BASES", 84)
    monkeypatch.setattr(corpus, "LEAST_SHARD_ROWS", 8)


def files(found: Corpus) -> dict[str, str]:
    """The sha256 of each: what pytest would tell of bytes that differ takes it minutes to write."""
    folder = pathlib.Path(found.folder)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("change", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_shard_depends_on_its_job_alone(
    genomes: CorpusOptions, tmp_path: pathlib.Path, change: dict
) -> None:
    options = dataclasses.replace(genomes, **change)
    whole = build_corpus(options, str(tmp_path / "whole"))
    assert len(files(whole)) > 12
    for parts in (3, 1 << 20):
        divided = build_corpus(options, str(tmp_path / str(parts)), Backwards(parts))
        assert files(whole) == files(divided)
        assert whole.manifest["splits"] == divided.manifest["splits"]


def test_planted_fault_what_lies_before_a_job_is_forgotten(
    genomes: CorpusOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_tokens_before", lambda *args: 0)
    with pytest.raises(AssertionError):
        test_a_shard_depends_on_its_job_alone(genomes, tmp_path, OPTIONS["codons"])


def test_parts_are_all_shards() -> None:
    for shards in (1, 2, 7):
        for parts in (1, 2, 3, 7, 100):
            found = divided(shards, parts)
            assert [shard for part in found for shard in part] == list(range(shards))
            assert len(found) == min(parts, shards)


@pytest.fixture
def chromosome(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> CorpusOptions:
    """For other processes, which know nothing of smaller blocks."""
    monkeypatch.setattr(corpus, "BLOCK_BASES", BLOCK_BASES)
    monkeypatch.setattr(pieces, "BLOCK_BASES", BLOCK_BASES)
    monkeypatch.setattr(corpus, "LEAST_SHARD_ROWS", 512)
    rng = np.random.default_rng(0)
    path = tmp_path / "g.fa"
    path.write_text(f">a\n{''.join(rng.choice(list('ACGT'), 400_000))}\n")
    return CorpusOptions((str(path),), row_length=64)


def test_processes_write_the_same(chromosome: CorpusOptions, tmp_path: pathlib.Path) -> None:
    whole = build_corpus(chromosome, str(tmp_path / "whole"))
    by_two = build_corpus(chromosome, str(tmp_path / "two"), runners.Processes(2))
    assert files(whole) == files(by_two)
    assert len(files(whole)) > 5


def lose(what: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Job]], None]:
    """A runner that does the jobs, but for something."""

    class Lossy(writing.array_record_module.ArrayRecordWriter):  # type: ignore[misc]
        dropped = False

        def write(self, row: bytes) -> None:
            if type(self).dropped:
                super().write(row)
            type(self).dropped = True

    def run(jobs: list[Job]) -> None:
        if what == "row":
            monkeypatch.setattr(writing.array_record_module, "ArrayRecordWriter", Lossy)
        for job in jobs[: -1 if what == "job" else None]:
            if what == "shard" and len(job.shards) > 1:
                shorter = range(job.shards.start, job.shards.stop - 1)
                job = dataclasses.replace(job, shards=shorter)
            writing.write(job)

    return run


@pytest.mark.parametrize(
    ("what", "message"),
    [("job", "were not finished"), ("row", "rows were written"), ("shard", "was not written")],
)
def test_planted_faults_stop_the_build(
    genomes: CorpusOptions,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    message: str,
) -> None:
    faulty = dataclasses.make_dataclass("Faulty", [], namespace={"parts": 2})
    run = lose(what, monkeypatch)
    faulty.__call__ = lambda self, jobs: run(list(jobs))
    with pytest.raises(RuntimeError, match=message):
        build_corpus(genomes, str(tmp_path), faulty())
    with pytest.raises(UserError, match="no such file"):
        open_corpus(str(tmp_path))


def test_what_a_process_raises_is_told(genomes: CorpusOptions, tmp_path: pathlib.Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Elsewhere(runners.Processes):
        def __call__(self, jobs: Iterable[Job]) -> None:
            jobs = list(jobs)
            plan = dataclasses.replace(jobs[0].plan, files=("gone.fa", "gone.fa"))
            super().__call__([dataclasses.replace(jobs[0], plan=plan), *jobs[1:]])

    with pytest.raises(UserError, match=r"gone\.fa"):
        build_corpus(genomes, str(tmp_path), Elsewhere(2))


KILLED = """
import multiprocessing, os, pathlib, sys, threading, time
from data_pipeline import corpus, runners

def kill():
    folder = pathlib.Path(sys.argv[2])
    while not list(folder.glob("*/*/incomplete.*/*.counts.json")):
        time.sleep(0.01)
    children = [str(child.pid) for child in multiprocessing.active_children()]
    os.write(1, " ".join(children).encode())  # TFDS has been told to be quiet on sys.stdout
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    threading.Thread(target=kill, daemon=True).start()
    options = corpus.CorpusOptions((sys.argv[1],), row_length=64)
    corpus.LEAST_SHARD_ROWS = 512
    runners.ProcessPoolExecutor.shutdown = lambda *args, **options: time.sleep(60)
    corpus.build_corpus(options, sys.argv[2], runners.Processes(2))
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = pathlib.Path(f"/proc/{pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True


def test_killed_half_way_its_processes_end_and_nothing_looks_whole(
    chromosome: CorpusOptions, tmp_path: pathlib.Path
) -> None:
    (source,), folder = chromosome.sources, tmp_path / "corpus"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), source, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    children = [int(pid) for pid in done.stdout.split()]
    assert children
    deadline = time.monotonic() + 60
    while not all(map(gone, children)):
        assert time.monotonic() < deadline, "the processes outlive the one that asked for them"
        time.sleep(0.1)
    with pytest.raises(UserError, match="no such file"):
        open_corpus(str(folder))
    found = build_corpus(chromosome, str(folder), Backwards(3))
    assert found.splits["train"].bases == 400_000
    assert not list(folder.glob("*/*/incomplete.*"))


# Apache Beam has requirements of its own (requirements-beam.txt), so these run where it is.

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache_beam is not installed: requirements-beam.txt",
)


@needs_beam
@pytest.mark.parametrize("options", [(), ("--runner=BundleBasedDirectRunner",)])
def test_beam_writes_the_same(
    genomes: CorpusOptions, tmp_path: pathlib.Path, options: tuple[str, ...]
) -> None:
    whole = build_corpus(genomes, str(tmp_path / "whole"))
    by_beam = build_corpus(genomes, str(tmp_path / "beam"), runners.Beam(options))
    assert files(whole) == files(by_beam)


@needs_beam
def test_planted_fault_beam_loses_an_element(
    genomes: CorpusOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = runners.write
    monkeypatch.setattr(runners, "write", lambda job: None if job.shards.start == 3 else write(job))
    with pytest.raises(RuntimeError, match="were not finished"):
        build_corpus(genomes, str(tmp_path), runners.Beam())


@needs_beam
def test_the_mode_of_beam_that_loses_elements_is_refused() -> None:
    with pytest.raises(UserError, match="loses elements"):
        runners.Beam(("--direct_running_mode=multi_threading",))


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is not None, reason="apache_beam is installed"
)
def test_without_beam_its_requirements_are_named() -> None:
    with pytest.raises(UserError, match=r"requirements-beam\.txt"):
        runners.Beam()


def test_the_usual_runner_reads_the_sources_once() -> None:
    assert IN_PROCESS.parts == 1


class Chain:
    """A pipeline, or a step of one, that does nothing."""

    def __or__(self, other: "Chain") -> "Chain":
        return self

    def __enter__(self) -> "Chain":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        ("--runner=FlinkRunner", "--flink_master=host:8081", "--parallelism=16"),
        ("--runner=SparkRunner", "--environment_type=LOOPBACK"),
        ("--runner=DataflowRunner", "--project=lab", "--temp_location=gs://b"),
        (),
    ],
    ids=lambda given: given[0][9:] if given else "none",
)
def test_the_pipeline_is_given_the_options(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flink, Spark and Dataflow cannot run here: that they are asked for can be seen."""
    given: list[list[str]] = []

    def pipeline(options: list[str]) -> Chain:
        given.append(options)
        return Chain()

    beam, settings = types.ModuleType("apache_beam"), types.ModuleType("pipeline_options")
    beam.__spec__ = importlib.machinery.ModuleSpec("apache_beam", None)
    steps = dict.fromkeys(("Create", "Reshuffle", "Map"), lambda *_: Chain())
    vars(beam).update(steps, Pipeline=pipeline)
    vars(settings).update(PipelineOptions=list)
    monkeypatch.setitem(sys.modules, "apache_beam", beam)
    monkeypatch.setitem(sys.modules, "apache_beam.options", types.ModuleType("options"))
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", settings)
    runners.Beam(options)([])
    assert given == [list(options) or ["--runner=FnApiRunner"]]
