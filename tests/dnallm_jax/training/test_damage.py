"""Is all damage to checkpoints found and named, and the newest whole one taken?"""

import json
import pathlib
import shutil
from collections.abc import Callable

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.training import manifest as manifests
from dnallm_jax.training.checkpoints import newest_whole, saved_steps
from dnallm_jax.training.manifest import MANIFEST, Damaged, read_manifest
from tests.dnallm_jax.training.saved import (
    IDENTITY,
    METRIC,
    cut_off,
    flip,
    flip_one,
    largest,
    mesh_of,
    opened,
    state_on,
    unlike,
    unnoticed,
)


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


def truncate(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return str(path)


def remove(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.unlink()
    return f"{path} is missing"


def flip_metadata(folder: pathlib.Path) -> str:
    path = folder / "arrays" / "_CHECKPOINT_METADATA"
    flip(path, 7)
    return f"{path} has changed"


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
