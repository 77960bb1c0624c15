"""Does a bundle come back on any mesh, and appear whole or not at all?"""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
import pytest

from dnallm_jax.training import checkpoints
from dnallm_jax.training.checkpoints import load_bundle, save_bundle
from dnallm_jax.training.manifest import MANIFEST, read_manifest
from tests.dnallm_jax.training.saved import EIGHT, mesh_of, params, target_on, unlike, unnoticed


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
