"""Is what is saved restored bit for bit, is all damage found, and is the right checkpoint kept?"""

import json
import logging
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh

from data_pipeline.errors import UserError
from dnallm_jax.parallel.mesh import make_mesh, tree_shardings
from dnallm_jax.training import checkpoints
from dnallm_jax.training import manifest as manifests
from dnallm_jax.training.checkpoints import (
    Checkpoints,
    load_bundle,
    newest_whole,
    restore_part,
    save_bundle,
    saved_steps,
)
from dnallm_jax.training.manifest import MANIFEST, Damaged, read_manifest
from dnallm_jax.training.step import state_shardings

METRIC = "bits"
IDENTITY = {"model": {"width": 16}, "data": "abc", "lengths": (300, 500)}
AXES = {
    "backbone": {"embedding": (None, "embed"), "blocks": {"up": ("layers", "embed", "mlp")}},
    "lm_head": ("embed", None),
}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


def params(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "backbone": {"embedding": normal(6, 16), "blocks": {"up": normal(2, 16, 8)}},
        "lm_head": normal(16, 6),
    }


def mesh_of(devices: int = 8, **sizes: int) -> Mesh:
    return make_mesh(**sizes, devices=jax.devices()[:devices])


def state_on(mesh: Mesh, seed: int = 0) -> dict[str, Any]:
    """A train state whose optimizer has seen a gradient, so that no moment is zero."""
    weights = params(seed)
    gradients = jax.tree.map(lambda x: x / 3 + 1, weights)
    _, moments = TX.update(gradients, TX.init(weights), weights)
    state = {"params": weights, "optimizer": moments, "step": np.int32(seed)}
    return jax.device_put(state, state_shardings(mesh, AXES, TX, weights))


def unlike(a: Any, b: Any) -> list[str]:
    """The names of the leaves of two trees that are not equal bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, x), y in pairs
        if np.asarray(x).tobytes() != np.asarray(y).tobytes() or x.dtype != y.dtype
    ]


def opened(folder: pathlib.Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, **{"keep": 2, "metric": METRIC, "identity": IDENTITY} | options)


def save_all(folder: pathlib.Path, metrics: dict[int, dict[str, float]], **options: Any) -> None:
    """Saves the states of seeds 1, 2, ... as those steps, with the metrics given."""
    kept = opened(folder, **options)
    for step, values in metrics.items():
        kept.save(step, state_on(mesh_of(**EIGHT), step), {"kind": "pretrain"}, values)
    kept.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Steps 10 and 20; do not change it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_all(folder, {10: {METRIC: 1.9}, 20: {METRIC: 1.8}})
    return folder


@pytest.fixture
def copied(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "dnallm_jax"):
        yield caplog


def flip(path: pathlib.Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


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


# Damage

Reader = Callable[[pathlib.Path], Any]


def unnoticed(folder: pathlib.Path, read: Reader, *, bits: int = 4) -> list[str]:
    """Files of a checkpoint in which a flipped bit is not found, or another file is named."""
    rng = np.random.default_rng(0)
    missed = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 100 * bits if path.name == MANIFEST else bits):
            flip(path, int(bit))
            try:
                read(folder)
            except Damaged as error:
                if str(path) in str(error):
                    continue
            finally:
                path.write_bytes(whole)
            missed.append(f"{path.name}: bit {bit}")
    return missed


def test_a_flipped_bit_in_any_file_is_found_and_named(copied: pathlib.Path) -> None:
    folder = copied / "20"
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {MANIFEST, "_CHECKPOINT_METADATA", "_METADATA"} < names
    assert unnoticed(folder, read_manifest) == []


def test_planted_readers_that_miss_flipped_bits(copied: pathlib.Path) -> None:
    folder = copied / "20"

    def no_files(folder: pathlib.Path) -> None:
        manifests.parse_manifest(folder)

    def no_manifest(folder: pathlib.Path) -> None:
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
        except ValueError:
            raise Damaged(f"{folder / MANIFEST}") from None
        for name, checksum in manifests.checksums(folder).items():
            if manifest.get("files", {}).get(name, checksum) != checksum:
                raise Damaged(f"{folder / name}")

    assert any("manifest" not in missed for missed in unnoticed(folder, no_files, bits=1))
    assert any("manifest" in missed for missed in unnoticed(folder, no_manifest, bits=1))


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return str(path)


def remove(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.unlink()
    return f"{path} is missing"


def flip_one(folder: pathlib.Path) -> str:
    path = largest(folder)
    flip(path, 1001)
    return f"{path} has changed"


def flip_metadata(folder: pathlib.Path) -> str:
    path = folder / "arrays" / "_CHECKPOINT_METADATA"
    flip(path, 7)
    return f"{path} has changed"


def cut_off(folder: pathlib.Path) -> str:
    (folder / MANIFEST).unlink()
    return f"{folder} has no manifest.json"


def cut_manifest(folder: pathlib.Path) -> str:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-10])
    return f"{path} is not readable JSON"


def empty(folder: pathlib.Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return f"{folder} has no manifest.json"


def renamed(folder: pathlib.Path) -> str:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("10"), folder)
    return f"{folder} holds step 10"


DAMAGE = [truncate, remove, flip_one, flip_metadata, cut_off, cut_manifest, empty, renamed]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_named_and_the_older_one_taken(
    copied: pathlib.Path,
    damage: Callable[[pathlib.Path], str],
    warnings: pytest.LogCaptureFixture,
) -> None:
    told = damage(copied / "20")
    kept = opened(copied)
    restored, manifest = kept.restore(state_on(mesh_of(), seed=99))
    assert manifest["step"] == 10
    assert unlike(restored, state_on(mesh_of(), seed=10)) == []
    assert len(warnings.messages) == 1
    assert told in warnings.messages[0]
    assert saved_steps(copied) == [10]
    kept.save(20, restored, {}, {METRIC: 1.0})
    kept.close()
    assert newest_whole(copied).name == "20"


def test_a_stray_numbered_folder_is_no_checkpoint(
    copied: pathlib.Path, warnings: pytest.LogCaptureFixture
) -> None:
    for name in ("999", "030", "²", "40.orbax-checkpoint-tmp"):
        (copied / name).mkdir()
    assert saved_steps(copied) == [10, 20, 999]
    kept = opened(copied)
    _, manifest = kept.restore(state_on(mesh_of()))
    assert manifest["step"] == 20
    assert f"{copied / '999'} has no manifest.json" in warnings.text
    kept.save(30, state_on(mesh_of()), {}, {})
    kept.close()
    assert newest_whole(copied).name == "30"


def test_what_a_cut_off_save_leaves_is_named_and_no_checkpoint(
    saved: pathlib.Path, tmp_path: pathlib.Path, warnings: pytest.LogCaptureFixture
) -> None:
    """Killed in its first save, a run has nothing to go on from: a fresh start is right."""
    shutil.copytree(saved / "10", tmp_path / "10.unfinished")
    kept = opened(tmp_path)
    assert kept.restore(state_on(mesh_of())) is None
    assert f"that was cut off left: {tmp_path / '10.unfinished'}" in warnings.text
    assert list(tmp_path.iterdir()) == []


def test_nothing_whole_is_an_error_never_a_fresh_start(copied: pathlib.Path) -> None:
    flip_one(copied / "10")
    cut_off(copied / "20")
    with pytest.raises(UserError, match=r"none of the checkpoints \[20, 10\] is whole; move the"):
        opened(copied).restore(state_on(mesh_of()))
    assert saved_steps(copied) == [10, 20], "what may be mended by hand is left"
    with pytest.raises(UserError, match=r"no whole checkpoint \(.*20 has no manifest.*sha256"):
        newest_whole(copied)


def test_a_damaged_best_is_named_and_the_next_best_taken(
    copied: pathlib.Path, warnings: pytest.LogCaptureFixture
) -> None:
    told = flip_one(copied / "20")
    _, manifest = opened(copied).restore_best(state_on(mesh_of()))
    assert manifest["step"] == 10
    assert told in warnings.text


def test_a_checkpoint_of_another_run_is_refused(copied: pathlib.Path) -> None:
    other = {"model": {"width": 32}, "data": "abd", "lengths": [300, 500]}
    with pytest.raises(UserError) as raised:
        opened(copied, identity=other).restore(state_on(mesh_of()))
    assert str(raised.value) == (
        f"{copied / '20'} is a checkpoint of another run (data: abc -> abd; model.width: 16 -> 32)"
        "; move it out of this folder"
    )
    assert opened(copied, identity=IDENTITY).restore(state_on(mesh_of())) is not None


# The backbone alone

HEAD = np.full(16, 7, np.float32)


def target_on(mesh: Mesh) -> dict[str, Any]:
    """A classifier's parameters: the same backbone, another head."""
    tree = {"backbone": params(seed=99)["backbone"], "head": HEAD}
    axes = {"backbone": AXES["backbone"], "head": (None,)}
    return jax.device_put(tree, tree_shardings(mesh, axes))


@pytest.mark.parametrize(("devices", "sizes"), [(8, EIGHT), (2, {"fsdp": 2})])
def test_the_backbone_is_taken_with_an_account_of_every_leaf(
    saved: pathlib.Path, devices: int, sizes: dict[str, int]
) -> None:
    target = target_on(mesh_of(devices, **sizes))
    got, account = restore_part(saved / "20", target, take="backbone", drop=("lm_head",))
    assert unlike(got, {"backbone": params(20)["backbone"], "head": HEAD}) == []
    assert [x.sharding for x in jax.tree.leaves(got)] == [
        x.sharding for x in jax.tree.leaves(target)
    ]
    assert account.loaded == ("backbone/blocks/up", "backbone/embedding")
    assert account.initialised == ("head",)
    assert account.dropped == ("lm_head",)
    assert account.lines() == [
        "loaded        2  backbone/blocks/up, backbone/embedding",
        "initialised   1  head",
        "dropped       1  lm_head",
    ]


def test_a_leaf_that_does_not_fit_is_named(saved: pathlib.Path, copied: pathlib.Path) -> None:
    mesh = mesh_of(1)

    def refused(target: dict[str, Any], *, drop: tuple[str, ...] = ("lm_head",)) -> str:
        with pytest.raises(UserError) as raised:
            restore_part(saved / "20", target, take="backbone", drop=drop)
        return str(raised.value)

    start = f"{saved / '20'} does not fit this model: "
    more = target_on(mesh)
    more["backbone"]["final_norm"] = jnp.ones(16)
    assert refused(more) == start + "missing ['backbone/final_norm'], unexpected -"
    fewer = target_on(mesh)
    del fewer["backbone"]["embedding"]
    assert refused(fewer) == start + "missing -, unexpected ['backbone/embedding']"
    assert refused(target_on(mesh), drop=()) == start + "missing -, unexpected ['lm_head']"
    other = target_on(mesh)
    other["backbone"]["embedding"] = jnp.ones((7, 16))
    assert refused(other) == (
        f"{saved / '20'}: backbone/embedding has shape (6, 16), this model needs (7, 16)"
    )
    told = flip_one(copied / "20")
    with pytest.raises(Damaged, match=told):
        restore_part(copied / "20", target_on(mesh), take="backbone", drop=("lm_head",))


def test_planted_a_restore_that_leaves_a_hole(
    saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax returns the description of a leaf it does not have, and says nothing."""
    restore = ocp.PyTreeCheckpointer.restore

    def forgetful(self: Any, folder: Any, args: Any) -> dict[str, Any]:
        name = "params/backbone/embedding"
        return {**restore(self, folder, args=args), name: args.item[name]}

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", forgetful)
    with pytest.raises(RuntimeError, match="empty place"):
        restore_part(saved / "20", target_on(mesh_of(1)), take="backbone", drop=("lm_head",))


# Bundles


def test_a_bundle_comes_back_on_any_mesh(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "bundle"
    save_bundle(folder, target_on(mesh_of(**EIGHT)), {"kind": "bundle"})
    assert read_manifest(folder)["kind"] == "bundle"
    target = checkpoints.abstract(target_on(mesh_of(4, fsdp=4)))
    got = load_bundle(folder, target)
    assert unlike(got, target_on(mesh_of())) == []
    assert [x.sharding for x in jax.tree.leaves(got)] == [
        x.sharding for x in jax.tree.leaves(target)
    ]
    with ocp.StandardCheckpointer() as checkpointer:
        names = set(checkpointer.metadata(folder / "arrays").item_metadata.tree)
    assert names == {"backbone/blocks/up", "backbone/embedding", "head"}
    assert unnoticed(folder, read_manifest, bits=1) == []


def test_a_bundle_appears_whole_or_not_at_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "bundle", checkpoints.write_manifest

    def kill(path: pathlib.Path, manifest: dict[str, Any]) -> None:
        path.joinpath(MANIFEST + ".tmp").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write_manifest", kill)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(folder, params(1), {"number": 1})
    assert not folder.exists()
    # What the killed run left does not disturb, neither the first time nor over an old bundle.
    monkeypatch.setattr(checkpoints, "write_manifest", write)
    save_bundle(folder, params(1), {"number": 1})
    monkeypatch.setattr(checkpoints, "write_manifest", kill)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(folder, params(2), {"number": 2})
    monkeypatch.setattr(checkpoints, "write_manifest", write)
    assert read_manifest(folder)["number"] == 1
    (tmp_path / "bundle.old").mkdir()
    (tmp_path / "bundle.old" / "file").touch()
    save_bundle(folder, params(3), {"number": 3})
    assert read_manifest(folder)["number"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
