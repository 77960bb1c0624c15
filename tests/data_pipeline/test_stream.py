"""Are batches made ahead by a thread that ends with the stream, whatever becomes of it?"""

import os
import pathlib
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from data_pipeline.loader import Batch, stream

ROOT = pathlib.Path(__file__).resolve().parents[2]


class BadRowError(Exception):
    pass


def test_what_a_thread_raises_reaches_the_caller_in_its_turn() -> None:
    def batch(number: int) -> Batch:
        if number == 7:
            raise BadRowError("row 7 is broken")
        return {"tokens": np.full(1, number)}

    batches = stream(batch, start=4)
    assert [int(next(batches)["tokens"][0]) for _ in range(3)] == [4, 5, 6]
    with pytest.raises(BadRowError, match="row 7 is broken"):
        next(batches)


def test_batches_are_made_ahead_but_not_without_end() -> None:
    made: list[int] = []

    def batch(number: int) -> Batch:
        made.append(number)
        return {}

    batches = stream(batch, start=0, ahead=4)
    next(batches)
    batches.close()
    assert set(made) <= set(range(5))
    assert 0 in made


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches ahead"]


@pytest.mark.parametrize("end", ["closed", "dropped", "failed"])
def test_the_thread_of_a_stream_ends_with_it(end: str) -> None:
    made = []

    def batch(number: int) -> Batch:
        made.append(number)
        if number == 2 and end == "failed":
            raise BadRowError
        time.sleep(0.3 * (number > 2))
        return {}

    before = set(own_threads())
    batches = stream(batch, start=0)
    next(batches)
    (own,) = set(own_threads()) - before
    while end != "failed" and len(made) < 4:  # it is at the batch that takes long
        time.sleep(0.01)
    if end == "closed":
        batches.close()
    elif end == "failed":
        with pytest.raises(BadRowError):
            list(batches)
    else:
        del batches
    assert not own.is_alive()


def test_a_batch_is_not_kept_once_it_is_handed_over() -> None:
    def batch(number: int) -> Batch:
        return {"tokens": np.full(1, number)}

    batches = stream(batch, start=0)
    given = next(batches)["tokens"]
    kept = weakref.ref(given)
    del given
    assert kept() is None


ABANDONED = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from data_pipeline.loader import stream

def batch(number):
    made.append(number)
    time.sleep(0.05)
    if number == 103: raise KeyError(number)
    return {}

made = []
at_work = stream(batch, start=0, ahead=4)
next(at_work)  # still referred to when the interpreter ends
dropped = stream(batch, start=50, ahead=4)
next(dropped)
del dropped
failed = stream(batch, start=100)
try:
    while True: next(failed)
except KeyError:
    pass
never = stream(batch, start=200)
assert not any(n >= 200 for n in made), made
print("done", flush=True)
"""


def test_abandoned_streams_do_not_hold_up_the_end_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
