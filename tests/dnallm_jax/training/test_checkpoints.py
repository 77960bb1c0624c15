"""Is what is saved restored bit for bit, when does it count, and is the right one kept?"""

import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.training import checkpoints
from dnallm_jax.training.checkpoints import Checkpoints, newest_whole, saved_steps
from dnallm_jax.training.manifest import MANIFEST
from tests.dnallm_jax.training.saved import (
    EIGHT,
    METRIC,
    flip_one,
    mesh_of,
    opened,
    save_all,
    state_on,
    unlike,
)

# Saving and restoring


@pytest.mark.parametrize(
    ("devices", "sizes"), [(8, EIGHT), (8, {"fsdp": 8}), (4, {"tensor": 2}), (1, {})]
)
def test_what_is_restored_is_what_was_saved_on_any_mesh(
    saved: pathlib.Path, devices: int, sizes: dict[str, int]
) -> None:
    target = state_on(mesh_of(devices, **sizes), seed=99)
    restored, manifest = opened(saved).restore(target)
    expected = state_on(mesh_of(**EIGHT), seed=20)
    assert unlike(restored, expected) == []
    assert [x.sharding for x in jax.tree.leaves(restored)] == [
        x.sharding for x in jax.tree.leaves(target)
    ]
    assert manifest["step"] == 20
    assert manifest["metrics"] == {METRIC: 1.8}
    assert manifest["kind"] == "pretrain"
    assert isinstance(restored["optimizer"], type(expected["optimizer"]))


@pytest.mark.parametrize("leaf", ["params", "optimizer", "step"])
def test_one_changed_bit_would_be_seen(leaf: str) -> None:
    state = state_on(mesh_of())
    changed = dict(state)
    changed[leaf] = jax.tree.map(lambda x: x.at[...].add(jnp.ones((), x.dtype)), state[leaf])
    assert len(unlike(state, changed)) == len(jax.tree.leaves(state[leaf])) > 0
    nudged = jax.tree.map(lambda x: np.nextafter(x, 9) if x.dtype == np.float32 else x, state)
    assert "['params']['lm_head']" in unlike(state, nudged)


def test_an_empty_folder_has_nothing_to_restore(tmp_path: pathlib.Path) -> None:
    state = state_on(mesh_of())
    assert opened(tmp_path / "new").restore(state) is None
    with pytest.raises(UserError, match="holds no whole checkpoint with bits"):
        opened(tmp_path / "new").restore_best(state)
    with pytest.raises(UserError, match=r"no whole checkpoint \(there is none\); run pretrain"):
        newest_whole(tmp_path / "nowhere")


def test_a_step_is_saved_once(copied: pathlib.Path) -> None:
    kept = opened(copied)
    with pytest.raises(RuntimeError, match="step 20 was saved before"):
        kept.save(20, state_on(mesh_of()), {}, {})
    kept.close()


def test_what_was_saved_in_passing_is_saved_again_when_it_was_evaluated(
    tmp_path: pathlib.Path,
) -> None:
    state = state_on(mesh_of())
    first = opened(tmp_path)
    first.save(20, state, {}, {}, passing=True)
    first.close()
    again = opened(tmp_path)
    again.save(20, state, {}, {"bits": 1.5})
    _, manifest = again.restore_best(state)
    assert (manifest["step"], manifest["passing"]) == (20, False)
    with pytest.raises(RuntimeError, match="step 20 was saved before"):
        again.save(20, state, {}, {})
    again.close()


def test_an_error_while_writing_reaches_the_caller(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "write_manifest", fail)
    kept = opened(tmp_path / "c")
    kept.save(1, state_on(mesh_of()), {}, {})
    with pytest.raises(OSError, match="no space left"):
        kept.close()


# The manifest comes last, and at once


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_checkpoint_counts_as_soon_as_its_arrays_are_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before, nor only when the next one is saved."""
    folder, written = tmp_path / "c", threading.Event()
    kept = opened(folder)
    wait = kept._writer.wait_until_finished

    def slowly() -> None:
        if threading.current_thread() is not threading.main_thread():
            written.wait(60)
        wait()

    monkeypatch.setattr(kept._writer, "wait_until_finished", slowly)
    kept.save(1, state_on(mesh_of()), {}, {})
    wait()
    assert (folder / "1.unfinished" / "arrays").is_dir()
    with pytest.raises(UserError, match=r"no whole checkpoint \(there is none\)"):
        newest_whole(folder)
    written.set()
    assert eventually((folder / "1").exists)
    assert newest_whole(folder).name == "1"
    kept.close()


def steps_at_manifests(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The whole checkpoints on disk just before each of three manifests is written, keeping one."""
    seen: list[list[int]] = []
    write = checkpoints.write_manifest

    def record(step_folder: pathlib.Path, manifest: dict[str, Any]) -> None:
        seen.append([s for s in saved_steps(folder) if (folder / str(s) / MANIFEST).exists()])
        write(step_folder, manifest)

    monkeypatch.setattr(checkpoints, "write_manifest", record)
    save_all(folder, {1: {}, 2: {}, 3: {}}, keep=1)
    return seen


def test_nothing_older_goes_before_the_newest_is_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_at_manifests(tmp_path / "c", monkeypatch) == [[], [1], [2]]
    assert saved_steps(tmp_path / "c") == [3]


def test_planted_the_old_one_goes_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed then, a run would have lost everything."""
    complete = Checkpoints._complete

    def eagerly(self: Checkpoints, folder: pathlib.Path, manifest: dict[str, Any]) -> None:
        for step in saved_steps(folder.parent):
            if step < manifest["step"]:
                self._delete(step)
        complete(self, folder, manifest)

    monkeypatch.setattr(Checkpoints, "_complete", eagerly)
    assert steps_at_manifests(tmp_path / "c", monkeypatch) == [[], [], []]


# What is kept


def test_the_best_stays_beside_the_newest(tmp_path: pathlib.Path) -> None:
    metrics = {step: {METRIC: bits} for step, bits in enumerate([3.0, 1.0, 2.0, 5.0, 4.0], 1)}
    save_all(tmp_path / "low", metrics)
    assert saved_steps(tmp_path / "low") == [2, 4, 5]
    target = state_on(mesh_of())
    restored, manifest = opened(tmp_path / "low").restore_best(target)
    assert manifest["step"] == 2
    assert unlike(restored, state_on(mesh_of(), seed=2)) == []
    # Another start knows the best of the steps before it.
    save_all(tmp_path / "low", {6: {METRIC: 1.5}, 7: {METRIC: 9.0}})
    assert saved_steps(tmp_path / "low") == [2, 6, 7]
    # The same figures, were more of it better.
    save_all(tmp_path / "high", metrics, maximise=True, keep=1)
    assert saved_steps(tmp_path / "high") == [4, 5]


def test_every_so_many_steps_one_stays(tmp_path: pathlib.Path) -> None:
    save_all(tmp_path / "c", {step: {} for step in range(1, 8)}, keep=1, keep_every=3)
    assert saved_steps(tmp_path / "c") == [3, 6, 7]


def test_one_in_passing_goes_when_a_newer_one_is_whole(tmp_path: pathlib.Path) -> None:
    """That of a stop is none of those to keep, and the newest until there is another."""
    folder = tmp_path / "c"
    save_all(folder, {2: {}, 4: {}})
    kept = opened(folder)
    kept.save(5, state_on(mesh_of(), 5), {}, {}, passing=True)
    kept.close()
    assert saved_steps(folder) == [2, 4, 5]
    kept = opened(folder)  # another start knows which it was
    _, manifest = kept.restore(state_on(mesh_of()))
    assert manifest["step"] == 5
    kept.save(6, state_on(mesh_of(), 6), {}, {})
    kept.close()
    assert saved_steps(folder) == [4, 6]


def test_what_is_read_back_must_be_what_was_saved(tmp_path: pathlib.Path) -> None:
    state = state_on(mesh_of(**EIGHT), 3)
    kept = opened(tmp_path / "c")
    kept.save(3, state, {}, {})
    kept.verify(3, state)
    other = dict(state, step=state["step"] + 1)
    with pytest.raises(UserError, match="3: step was read back with other bits than were saved"):
        kept.verify(3, other)
    flip_one(tmp_path / "c" / "3")
    with pytest.raises(UserError, match=r"saved, but not whole when read back: .* has changed"):
        kept.verify(3, state)
    kept.close()


def test_without_a_metric_a_checkpoint_is_never_the_best(tmp_path: pathlib.Path) -> None:
    nan = float("nan")
    save_all(tmp_path / "c", {1: {}, 2: {METRIC: 7.0}, 3: {METRIC: nan}, 4: {}, 5: {"x": 0.0}})
    assert saved_steps(tmp_path / "c") == [2, 4, 5]
    _, manifest = opened(tmp_path / "c").restore_best(state_on(mesh_of()))
    assert manifest["step"] == 2


def test_of_equals_the_latest_is_the_best(tmp_path: pathlib.Path) -> None:
    save_all(tmp_path / "c", {step: {METRIC: 1.0} for step in (1, 2, 3)}, keep=1)
    assert saved_steps(tmp_path / "c") == [3]
    _, manifest = opened(tmp_path / "c").restore_best(state_on(mesh_of()))
    assert manifest["step"] == 3
