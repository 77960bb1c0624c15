"""Does a run that was killed or stopped end with the same bits as one that never was?

Real processes, killed with SIGKILL or asked to stop, and started again by the same command.
Everything that they leave is compared with what an uninterrupted run leaves.
"""

import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest

from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.training.checkpoints import saved_steps
from dnallm_jax.training.manifest import read_manifest
from dnallm_jax.training.telemetry import read_metrics
from tests.dnallm_jax.training.place import (
    SAVE_EVERY,
    Place,
    arrays,
    assert_equal_runs,
    differing,
)

STEPS = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("resume"), STEPS)
    place.run("prepare", "whole")
    for name in ("killed", "stopped"):
        shutil.copytree(place.folder / "whole", place.folder / name)
    return place


def kill_again_and_again(place: Place, command: str) -> None:
    """In `killed`: before the first step, inside a save, after one, and inside another."""
    checkpoints = place.folder / "killed" / command / "checkpoints"
    for moment in (
        lambda: b"start  " in place.said("killed").read_bytes(),
        (checkpoints / f"{SAVE_EVERY}.unfinished").exists,
        (checkpoints / str(SAVE_EVERY)).exists,
        (checkpoints / f"{2 * SAVE_EVERY}.unfinished").exists,
    ):
        place.kill_when(moment, command, "killed")
        saved = saved_steps(checkpoints)
        assert not saved or saved[-1] < STEPS


@pytest.fixture(scope="module")
def pretrained(place: Place) -> Place:
    """Pre-trained in `whole` without a stop, in `killed` with several."""
    place.run("pretrain", "whole")
    kill_again_and_again(place, "pretrain")
    run = place.folder / "killed" / "pretrain"
    # What else a killed run, or a stray hand, may leave.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "bits_per_ba')
    (run / "checkpoints" / "999").mkdir()
    said = place.run("pretrain", "killed")
    assert "999 has no manifest.json (its saving was cut off)" in said
    assert any(f"start       step {s} (restored)" in said for s in range(0, STEPS, SAVE_EVERY)[1:])
    return place


def test_pretraining_ends_with_the_same_bits(pretrained: Place) -> None:
    whole, killed = (pretrained.folder / name / "pretrain" for name in ("whole", "killed"))
    assert_equal_runs(whole, killed)
    assert (whole / "result.json").read_bytes() == (killed / "result.json").read_bytes()
    names = arrays(whole / "checkpoints" / str(STEPS))
    assert any(name.startswith("optimizer/") and "/mu/" in name for name in names)
    assert any(name.startswith("ema/") for name in names)
    assert int(names["step"]) == STEPS


def test_where_the_time_went_is_said_of_all_starts_together(pretrained: Place) -> None:
    said = {name: pretrained.said(name).read_text() for name in ("whole", "killed")}
    assert f"changed     root: . -> {pretrained.folder}\n" in said["killed"]
    for name, starts in (("whole", {1}), ("killed", {2, 3, 4, 5})):  # one may die at once
        last = read_metrics(pretrained.folder / name / "pretrain" / "speed.jsonl")[-1]
        assert last["step"] == STEPS
        assert last["starts"] in starts
        assert 0 < last["step_seconds"] < last["run_seconds"]
        assert last["goodput"] == pytest.approx(last["step_seconds"] / last["run_seconds"])
    assert "starts together, went into steps that count" in said["killed"]


def test_a_finished_run_says_its_result_again(pretrained: Place) -> None:
    result = pretrained.folder / "whole" / "pretrain" / "result.json"
    before = result.read_bytes()
    said = pretrained.run("pretrain", "whole")
    assert f"start       step {STEPS} (restored)" in said
    assert "validation bits per base: model" in said
    assert result.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "number"), [("pretrain", signal.SIGTERM), ("finetune", signal.SIGINT)]
)
def test_asked_to_stop_a_run_saves_and_says_so_by_its_exit_code(
    pretrained: Place, command: str, number: signal.Signals
) -> None:
    if command == "finetune":
        pretrained.run("finetune", "whole")
    run = pretrained.folder / "stopped" / command
    started = pretrained.start(command, "stopped")
    pretrained.until(started, lambda: b"/16  " in pretrained.said("stopped").read_bytes())
    os.kill(started[0].pid or 0, number)
    assert pretrained.ended(started) == [STOPPED], pretrained.said("stopped").read_text()
    said = pretrained.said("stopped").read_text()
    assert f"{number.name}: saves after this step and ends; again: ends at once" in said
    assert "stopped: the same command goes on" in said
    assert 0 < max(saved_steps(run / "checkpoints")) < STEPS
    pretrained.run(command, "stopped")
    assert_equal_runs(pretrained.folder / "whole" / command, run)


def test_an_evaluation_that_a_stop_put_off_is_made_by_the_next_start(place: Place) -> None:
    words = [f"--config.pretrain.{every}_every=1" for every in ("log", "eval")]
    for name in ("evaluated", "put_off"):
        shutil.copytree(place.folder / "whole" / "data", place.folder / name / "data")
    place.run("pretrain", "evaluated", *words)
    run = place.folder / "put_off" / "pretrain"
    started = place.start("pretrain", "put_off", *words)
    place.until(started, lambda: b"/16  " in place.said("put_off").read_bytes())
    os.kill(started[0].pid or 0, signal.SIGTERM)
    assert place.ended(started) == [STOPPED]
    step = saved_steps(run / "checkpoints")[-1]
    manifest = read_manifest(run / "checkpoints" / str(step))
    assert manifest["progress"]["unevaluated"]
    assert manifest["passing"]
    said = place.run("pretrain", "put_off", *words)
    assert f"step {step:>6}/{STEPS}  validation" in said
    assert_equal_runs(place.folder / "evaluated" / "pretrain", run)


def test_finetuning_ends_with_the_same_bits(pretrained: Place) -> None:
    kill_again_and_again(pretrained, "finetune")
    said = pretrained.run("finetune", "killed")
    assert "(restored)" in said
    whole, killed = (pretrained.folder / name for name in ("whole", "killed"))
    assert_equal_runs(whole / "finetune", killed / "finetune")
    assert differing(arrays(whole / "bundle"), arrays(killed / "bundle")) == []
    manifests = [read_manifest(place / "bundle") for place in (whole, killed)]
    for manifest in manifests:  # of the files the names are random, the arrays in them equal
        del manifest["files"], manifest["sha256"]
    assert manifests[0] == manifests[1]
    bundled = arrays(whole / "bundle")
    assert any("head_kernel" in name for name in bundled)
    assert not any("lm_head" in name or "optimizer" in name for name in bundled)


def test_planted_differences_are_seen(pretrained: Place, tmp_path: pathlib.Path) -> None:
    run = pretrained.folder / "whole" / "pretrain"
    steps = saved_steps(run / "checkpoints")
    first, last = (arrays(run / "checkpoints" / str(step)) for step in (steps[0], steps[-1]))
    assert set(differing(first, last)) == set(first), "every array moves, the step counter too"
    name = "params/backbone/embedding"
    nudged = {**last, name: np.nextafter(last[name], 9)}
    assert differing(last, nudged) == [name]
    assert differing(last, {k: v for k, v in last.items() if k != name}) == [name]
    copy = shutil.copytree(run, tmp_path / "run")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    doubled = json.loads(lines[-1])
    (copy / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(doubled), ""]))
    with pytest.raises(AssertionError):
        assert_equal_runs(run, copy)


def test_doctor_says_what_is_well_and_what_is_not(pretrained: Place) -> None:
    said = pretrained.run("doctor", "whole", devices=2)
    names = ("devices", "hosts", "ports", "versions", "cache", "workdir", "shared", "corpus")
    names += ("contigs", "mesh", "execution", "memory", "disk")
    assert [line.split()[:2] for line in said.splitlines()] == [["ok", name] for name in names]
    assert not list((pretrained.folder / "whole").glob(".doctor*"))
    sick = shutil.copytree(pretrained.folder / "whole", pretrained.folder / "sick")
    begun = json.loads((sick / "pretrain" / "run.json").read_text())
    (sick / "pretrain" / "run.json").write_text(json.dumps({**begun, "data": "0" * 64}))
    next((sick / "data" / "contigs").rglob("*.array_record*")).unlink()
    started = pretrained.start("doctor", "sick", "--config.pretrain.batch_rows=7", devices=2)
    assert pretrained.ended(started) == [2]
    said = pretrained.said("sick").read_text()
    failed = {line.split()[1]: line for line in said.splitlines() if line.startswith("FAIL")}
    assert set(failed) == {"corpus", "contigs", "mesh"}
    assert "began with 000000000000; choose another --workdir" in failed["corpus"]
    assert "missing or cut short; prepare the data again" in failed["contigs"]
    assert "pretrain.batch_rows = 7 does not divide over the 2 parts" in failed["mesh"]
    assert said.splitlines()[-1] == "dnallm_jax doctor: 3 of 13 checks failed"
