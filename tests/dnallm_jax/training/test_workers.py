"""Do runs whose batches are made by processes (--workers) end as runs without them do?

Real processes: stopped together, as Ctrl-C and SLURM do it, killed, and given a damaged data set.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from dnallm_jax.parallel.hosts import STOPPED
from tests.dnallm_jax.training.place import Place, assert_equal_runs

ROOT = pathlib.Path(__file__).resolve().parents[3]
STEPS = 400


class Run:
    """A command of its own group of processes, as a shell starts it."""

    def __init__(self, place: Place, command: str, workdir: str, *words: str) -> None:
        self.said = place.said(workdir)
        line = [sys.executable, ROOT / "main.py", command, f"--config={place.folder / 'tiny.py'}"]
        line += [f"--config.root={place.folder}", f"--workdir={place.folder / workdir}", *words]
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(place.folder / "compiled")}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **compiled}
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                line, stdout=said, stderr=said, env=environment, start_new_session=True
            )

    def until_trained(self) -> None:
        """Until the first step is told of."""
        deadline = time.monotonic() + 300
        while f"/{STEPS}  ".encode() not in self.said.read_bytes():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def workers(self) -> list[int]:
        """The processes of its group that make batches."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                group = int((path / "stat").read_text().rpartition(")")[2].split()[2])
                line = (path / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if group == self.process.pid and b"spawn_main" in line:
                found.append(int(path.name))
        return found

    def text(self) -> str:
        return self.said.read_text()

    def ended(self) -> int:
        """Its exit code; nothing of its group is left."""
        code = self.process.wait(300)
        assert self.workers() == []
        return code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("workers"), STEPS)
    place.run("prepare", "whole")
    for name in ("stopped", "lost", "damaged"):
        shutil.copytree(place.folder / "whole", place.folder / name)
    return place


SPARING = ("--config.{}.log_every=50", "--config.{}.eval_every=200", "--config.{}.save_every=200")


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_stopped_with_all_its_processes_a_run_ends_with_the_same_bits(
    place: Place, command: str
) -> None:
    words = [word.format(command) for word in SPARING]
    words += ["--config.finetune.backbone=random"]
    assert Run(place, command, "whole", *words).ended() == 0
    run = Run(place, command, "stopped", "--workers=2", *words)
    run.until_trained()
    assert len(run.workers()) == 2
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.ended() == STOPPED, run.text()
    assert "Traceback" not in run.text()
    run = Run(place, command, "stopped", "--workers=3", *words)
    assert run.ended() == 0, run.text()
    assert "(restored)" in run.text()
    assert_equal_runs(*(place.folder / name / command for name in ("whole", "stopped")))


def test_a_process_that_is_killed_ends_the_run_which_may_be_started_again(place: Place) -> None:
    run = Run(place, "pretrain", "lost", "--workers=2", "--config.pretrain.eval_every=400")
    run.until_trained()
    os.kill(run.workers()[0], signal.SIGKILL)
    assert run.ended() == STOPPED, run.text()
    *_, last = run.text().splitlines()
    assert last.startswith("dnallm_jax pretrain: a process that makes batches (--workers) was")
    assert "Traceback" not in run.text()


def test_a_damaged_row_is_told_as_without_processes(place: Place) -> None:
    (shard,) = (place.folder / "damaged/data/corpus").rglob("*-train.array_record*")
    stored = bytearray(shard.read_bytes())
    stored[1500:2500] = bytes(1000)
    shard.write_bytes(stored)
    ends = []
    for words in ((), ("--workers=2",)):
        run = Run(place, "pretrain", "damaged", *words)
        ends.append((run.ended(), run.text().splitlines()[-1]))
        assert "Traceback" not in run.text()
    assert ends[0] == ends[1]
    assert ends[0][0] == 2
    assert "run prepare again" in ends[0][1]
