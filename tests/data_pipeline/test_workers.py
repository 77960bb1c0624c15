"""Do processes make the very batches of the thread, and end with the stream, whatever ends it?"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from data_pipeline.errors import LostError, UserError
from data_pipeline.loader import Batch, CorpusBatches, stream
from data_pipeline.tokenizers import Kmer, Nucleotide
from data_pipeline.views import Bases, Composition, Frames
from tests.data_pipeline import test_loader, test_mixing
from tests.data_pipeline.windows import same, windows_of

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Together:
    """Batches of several kinds as one, lest processes be started for each."""

    kinds: Mapping[str, Callable[[int], Batch]]

    def __call__(self, number: int) -> Batch:
        made = {name: batch(number) for name, batch in self.kinds.items()}
        return {f"{name}/{key}": v for name, own in made.items() for key, v in own.items()}


def every_kind() -> Together:
    def rows(process: int, processes: int) -> CorpusBatches:
        return test_loader.batches_of(
            test_loader.Rows(Nucleotide()), process=process, processes=processes
        )

    return Together(
        {
            "rows": rows(0, 1),
            "a part of the rows": rows(1, 2),
            "mixture": test_mixing.batches(),
            "bases": windows_of(view=Bases(Kmer(3)), mutate=0.1),
            "frames": windows_of(view=Frames(Kmer(3)), unknown=0.1),
            "composition": windows_of(view=Composition(), process=1, processes=2),
        }
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_batches_are_those_of_one_thread(workers: int) -> None:
    batches = every_kind()
    start = int(np.random.default_rng(workers).integers(10**6))
    with contextlib.closing(stream(batches, start=start, workers=workers)) as made:
        read = list(itertools.islice(made, 9))
    for number, found in enumerate(read, start):
        assert same(found, batches(number)), number
    # Owned, although the stream and the memory that it shared with the processes are gone.
    arrays = [array for found in read for array in found.values()]
    assert all(type(a) is np.ndarray and a.flags.owndata and a.flags.writeable for a in arrays)
    assert multiprocessing.active_children() == []


class Counting:
    """Planted: what it makes depends on what was made before."""

    made = 0

    def __call__(self, number: int) -> Batch:
        self.made += 1
        return {"tokens": np.array([number, self.made])}


def told(number: int) -> Batch:
    if number == 7:
        raise UserError("record r3 is damaged")
    return {"tokens": np.full(1, number)}


def test_what_a_process_raises_reaches_the_caller_in_its_turn(
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = stream(told, start=4, workers=2)
    assert [int(next(made)["tokens"][0]) for _ in range(3)] == [4, 5, 6]
    with pytest.raises(UserError, match=r"^record r3 is damaged$"):
        next(made)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


def devices(number: int) -> Batch:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return {"started": np.array(bool(bridge and bridge._backends))}


def test_planted_batches_that_are_no_function_of_their_number_and_no_device_is_touched() -> None:
    batches = Together({"counting": Counting(), "devices": devices})
    with contextlib.closing(stream(batches, start=0, workers=2)) as made:
        read = list(itertools.islice(made, 4))
    assert [int(found["counting/tokens"][1]) for found in read] != [1, 2, 3, 4]
    assert not any(found["devices/started"] for found in read)


def slow(number: int) -> Batch:
    time.sleep(0.01)
    return {"tokens": np.full(1000, number)}


def test_a_process_that_is_killed_ends_the_stream() -> None:
    made = stream(slow, start=0, workers=2)
    next(made)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(LostError, match="a process that makes batches"):
        list(made)
    assert time.monotonic() - begun < 60
    assert multiprocessing.active_children() == []


SIGNALLED = """
import itertools, multiprocessing, os, signal, sys, time
from data_pipeline.loader import stream
from tests.data_pipeline.test_workers import slow

def main():
    heard = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: heard.append(1))
    made = stream(slow, start=0, workers=2)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.5)  # while the processes start
    next(made)
    for number in (signal.SIGTERM, signal.SIGINT) * 3:
        os.killpg(0, number)
        time.sleep(0.1)
    found = [int(next(made)["tokens"][0]) for _ in range(20)]
    assert found == list(range(1, 21)), found
    assert len(heard) >= 5, heard
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if sys.argv[1] == "wait":
        time.sleep(600)
    sys.exit()  # with the stream at work

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_processes_hear_no_signals_and_do_not_outlive_their_parent(
    end: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    program = subprocess.Popen(
        [sys.executable, tmp_path / "signalled.py", "wait" if end == "killed" else ""],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert program.stdout
    workers = [int(word) for word in program.stdout.readline().split()]
    if end == "killed":
        program.kill()
    _, said = program.communicate(timeout=120)  # until all who hold the pipe have ended
    assert len(workers) == 2, said
    assert not any(map(alive, workers))
    if end == "ended":
        assert (program.returncode, said) == (0, "")


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has asked for its exit code does not."""
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
