"""Do two processes train as one does, also when they are killed, stopped, or not alike?

Real processes, two of four fake devices each, which meet on this machine.
"""

import os
import pathlib
import shutil
import signal

import numpy as np
import pytest

from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.training.checkpoints import saved_steps
from dnallm_jax.training.telemetry import read_metrics
from tests.dnallm_jax.training.place import SAVE_EVERY, Place, arrays, assert_equal_runs

STEPS = 8
PAIR = {"devices": 4, "processes": 2}
pytestmark = pytest.mark.timeout(1500)  # on a busy machine; half a minute on two idle cores
COMMANDS = ("pretrain", "finetune")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Trained in `one` by one process of eight devices, in `two` by two of four each."""
    place = Place(tmp_path_factory.mktemp("hosts"), STEPS)
    place.run("prepare", "one")
    for name in ("two", "ended"):
        shutil.copytree(place.folder / "one", place.folder / name)
    for command in COMMANDS:
        place.run(command, "one", devices=8)
        place.run(command, "two", **PAIR)
    return place


def assert_alike(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same steps and metrics, and the same last parameters, up to the order of sums."""
    lines = [read_metrics(run / "metrics.jsonl") for run in (one, other)]
    assert len(lines[0]) == len(lines[1])
    for ours, theirs in zip(*lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    last = [arrays(run / "checkpoints" / str(STEPS)) for run in (one, other)]
    for name, values in last[0].items():
        np.testing.assert_allclose(last[1][name], values, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("command", COMMANDS)
def test_two_processes_train_as_one_does(place: Place, command: str) -> None:
    assert_alike(*(place.folder / name / command for name in ("one", "two")))


def test_what_one_process_saved_two_go_on_from_and_only_the_first_speaks(place: Place) -> None:
    shutil.copytree(place.folder / "one", place.folder / "joined")
    run = place.folder / "joined" / "pretrain"
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    assert f"start       step {STEPS - SAVE_EVERY} (restored)" in place.run(
        "pretrain", "joined", **PAIR
    )
    assert_alike(place.folder / "one" / "pretrain", run)
    assert "step " in place.said("joined", 0).read_text()
    assert "step " not in place.said("joined", 1).read_text()


def test_doctor_asks_both(place: Place) -> None:
    lines = place.run("doctor", "two", **PAIR).splitlines()
    checked = {line.split()[1]: line for line in lines if line.startswith("ok  ")}
    assert len(checked) == 13, lines
    assert "2 processes answer" in checked["hosts"]
    assert "all 2 processes reach a port of every other" in checked["ports"]
    assert "every host sees the same workdir" in checked["shared"]


def test_asked_of_one_both_stop_and_go_on_exactly(place: Place) -> None:
    run = place.folder / "ended" / "pretrain"
    started = place.start("pretrain", "ended", **PAIR)
    place.until(started, lambda: b"start  " in place.said("ended").read_bytes())
    os.kill(started[1].pid or 0, signal.SIGTERM)
    assert place.ended(started) == [STOPPED, STOPPED], place.said("ended").read_text()
    stopped = max(saved_steps(run / "checkpoints"))
    assert stopped < STEPS


@pytest.mark.parametrize(
    ("command", "number", "moment"),
    [
        ("pretrain", signal.SIGSTOP, f"{SAVE_EVERY}"),
        ("finetune", signal.SIGKILL, f"{2 * SAVE_EVERY}.unfinished"),  # in a save
    ],
)
def test_a_hung_or_lost_process_ends_the_other_and_both_go_on_exactly(
    place: Place, command: str, number: signal.Signals, moment: str
) -> None:
    run = place.folder / "ended" / command
    started = place.start(command, "ended", **PAIR)
    place.until(started, (run / "checkpoints" / moment).exists)
    os.kill(started[1].pid or 0, number)
    started[0].join(600)
    started[1].kill()
    assert place.ended(started) == [STOPPED, -signal.SIGKILL], place.said("ended").read_text()
    last = place.said("ended").read_text().splitlines()[-1]
    assert "another process of this run is lost: it ended, or said nothing for 5 s" in last
    elsewhere = shutil.copytree(place.folder / "ended", place.folder / f"{command}ed")
    assert "(restored)" in place.run(command, "ended", **PAIR)
    assert_equal_runs(place.folder / "two" / command, run)
    # Another number of processes and devices sees the same batches.
    assert "(restored)" in place.run(command, elsewhere.name, devices=2)
    assert_alike(place.folder / "two" / command, elsewhere / command)


def test_hosts_that_differ_are_named(place: Place) -> None:
    shutil.copytree(place.folder / "one" / "data", place.folder / "differing" / "data")
    started = place.start("pretrain", "differing", "--config.pretrain.seed={process}", **PAIR)
    assert place.ended(started) == [2, 2]
    for process in (0, 1):
        said = place.said("differing", process).read_text().splitlines()[-1]
        assert "the hosts differ: process 1 (" in said
        assert ") has config " in said
        assert "Make all of them equal and start again" in said


def test_what_one_host_lacks_ends_all_of_them(place: Place) -> None:
    shutil.copytree(place.folder / "one" / "data", place.folder / "lacks0" / "data")
    started = place.start("pretrain", "lacks{process}", **PAIR)
    assert place.ended(started) == [2, 2]
    said = place.said("lacks{process}").read_text().splitlines()[-1]
    assert said.startswith("dnallm_jax pretrain: process 1: ")
    assert "lacks1/data/corpus" in said
    assert "there is no prepared data set; run prepare" in said
