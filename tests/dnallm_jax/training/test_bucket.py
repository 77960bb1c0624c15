"""Does a workdir in a bucket keep what one on a disk keeps, with neither renames nor locks?

The bucket is an emulator's (`bucket.py`), to which everything speaks as it speaks to Google.
"""

import logging
import pathlib
import shutil
from collections.abc import Iterator

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.commands import checkpoints as command
from dnallm_jax.training import storage
from dnallm_jax.training.checkpoints import load_bundle, newest_whole, save_bundle, saved_steps
from dnallm_jax.training.manifest import MANIFEST, Damaged, read_manifest
from dnallm_jax.training.telemetry import Telemetry, read_metrics
from tests.dnallm_jax.training.bucket import emulated
from tests.dnallm_jax.training.place import Place, assert_equal_runs
from tests.dnallm_jax.training.saved import (
    EIGHT,
    METRIC,
    cut_off,
    mesh_of,
    opened,
    save_all,
    state_on,
    target_on,
    unlike,
)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with emulated("lab") as environment:
        yield environment


@pytest.fixture(scope="module")
def bucket(environment: dict[str, str]) -> pathlib.Path:
    return storage.folder("gs://lab")


@pytest.fixture(scope="module")
def saved(bucket: pathlib.Path) -> pathlib.Path:
    """Steps 10 (the best), 30 and 40."""
    folder = bucket / "saved" / "pretrain" / "checkpoints"
    save_all(folder, {10: {METRIC: 1.0}, 20: {}, 30: {}, 40: {}}, keep=2)
    return folder


def flip_one(folder: pathlib.Path) -> str:
    """Flips a bit in the largest object below a folder."""
    sizes = storage.files(folder)
    path = folder / max(sizes, key=sizes.__getitem__)
    data = bytearray(path.read_bytes())
    data[125] ^= 2
    path.write_bytes(bytes(data))
    return f"{path} has changed"


def test_checkpoints_are_kept_listed_and_restored(
    saved: pathlib.Path, bucket: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saved_steps(saved) == [10, 30, 40]
    restored, manifest = opened(saved).restore(state_on(mesh_of(4, tensor=2), seed=99))
    assert manifest["step"] == 40
    assert unlike(restored, state_on(mesh_of(**EIGHT), seed=40)) == []
    command.run(["gs://lab/saved"])
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    names = [f"pretrain/checkpoints/{step}" for step in (10, 30, 40)]
    assert [line[0] for line in lines] == names
    assert all(float(line[1]) > 0 and line[3].startswith("whole  pretrain") for line in lines)
    folder = bucket / "saved" / "bundle"
    for number in (1, 2):
        save_bundle(folder, target_on(mesh_of(**EIGHT)), {"number": number})
        assert read_manifest(folder)["number"] == number
    assert unlike(load_bundle(folder, target_on(mesh_of())), target_on(mesh_of())) == []


def test_damage_and_what_was_cut_off_are_named(
    saved: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, removing, ended = (saved / f"{step}.unfinished" for step in (40, 35, 10))
    # Killed: in a save before its manifest, in a removal, in a save between manifest and mark.
    (saved / "40" / MANIFEST).unlink()
    for mark in (begun, removing, ended):
        mark.write_bytes(b"")
    assert saved_steps(saved) == [30]
    assert newest_whole(saved).name == "30"
    with caplog.at_level(logging.WARNING, "dnallm_jax"):
        _, manifest = opened(saved).restore(state_on(mesh_of()))
        assert manifest["step"] == 30
        assert f"that was cut off left: {saved / '40'}" in caplog.text
        assert saved_steps(saved) == [10, 30]
        assert sorted(path.name for path in saved.iterdir()) == ["10", "30"]
        told = flip_one(saved / "30")
        _, manifest = opened(saved).restore(state_on(mesh_of()))
        assert manifest["step"] == 10
        assert told in caplog.text
    cut_off(saved / "10")  # without a mark: it was whole, and is damaged
    with pytest.raises(UserError, match=r"none of the checkpoints \[10\] is whole; move the"):
        opened(saved).restore(state_on(mesh_of()))
    with pytest.raises(Damaged, match=r"10 has no manifest\.json"):
        read_manifest(saved / "10")


def test_metrics_go_on_where_the_checkpoint_was(bucket: pathlib.Path) -> None:
    folder = bucket / "metrics"

    def said(start: int, *, killed: bool) -> list[int]:
        telemetry = Telemetry(folder, start_step=start, main=True)
        for step in range(start + 1, start + 4):
            telemetry.metrics(step, {"loss": step})
            if step == start + 2:
                telemetry.keep()
        if not killed:
            telemetry.close()
        shutil.rmtree(telemetry._folder, ignore_errors=True)
        return [line["step"] for line in read_metrics(folder / "metrics.jsonl")]

    assert said(0, killed=True) == [1, 2]
    assert said(2, killed=False) == [1, 2, 3, 4, 5]
    assert said(3, killed=False) == [1, 2, 3, 4, 5, 6]
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.timeout(900)
def test_a_run_killed_in_its_first_save_ends_with_the_same_bits(
    environment: dict[str, str], bucket: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    environment = {**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    place, there = Place(tmp_path, 8, environment), "gs://lab/killed"
    place.run("prepare", "whole")
    place.run("pretrain", "whole")
    place.run("prepare", there)
    mark = bucket / "killed" / "pretrain" / "checkpoints" / "4.unfinished"
    place.kill_when(mark.exists, "pretrain", there)
    shutil.rmtree(tmp_path / "cache")  # another machine, without the data
    said = place.run("pretrain", there)
    assert f"that was cut off left: {mark.with_name('4')}" in said
    assert "start       from scratch" in said
    assert "(restored)" in place.run("pretrain", there)
    there_and_back = tmp_path / "copy"
    for name in storage.files(bucket / "killed" / "pretrain"):
        (there_and_back / name).parent.mkdir(parents=True, exist_ok=True)
        (there_and_back / name).write_bytes((bucket / "killed" / "pretrain" / name).read_bytes())
    assert_equal_runs(tmp_path / "whole" / "pretrain", there_and_back)
    said = place.run("doctor", there)
    assert "ok    workdir   gs://lab/killed: written, read, leased and deleted" in said
