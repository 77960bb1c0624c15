"""Does the list of checkpoints name every one, with what it holds and whether it is whole?"""

import json
import pathlib

import jax
import numpy as np
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.commands import checkpoints as command
from dnallm_jax.parallel.mesh import make_mesh, sharding
from dnallm_jax.training.checkpoints import Checkpoints, save_bundle


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    state = {"params": jax.device_put(np.ones(9, np.float32), sharding(make_mesh()))}
    kept = Checkpoints(tmp_path / "pretrain" / "checkpoints", keep=3, metric="bits", identity={})
    kept.save(9, state, {"kind": "pretrain", "bases_seen": 12_345}, {"bits": 1.9})
    kept.save(10, state, {"kind": "pretrain", "bases_seen": 13_000}, {}, passing=True)
    kept.close()
    save_bundle(tmp_path / "bundle", state, {"kind": "bundle"})
    (tmp_path / "bundle.unfinished" / "arrays").mkdir(parents=True)
    (tmp_path / "bundle.unfinished" / "arrays" / "half").touch()
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: pathlib.Path) -> list[list[str]]:
    command.run([str(argument) for argument in arguments])
    return [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]


def test_every_checkpoint_is_a_line(
    workdir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = listed(capsys, workdir)
    assert [line[0] for line in lines] == [
        "pretrain/checkpoints/9",
        "pretrain/checkpoints/10",
        "bundle",
    ]
    assert all(float(line[1]) > 0 and line[2] == "kB" for line in lines)
    assert [line[3] for line in lines] == [
        "whole  pretrain, 12,345 bases seen, bits 1.9000",
        "whole  pretrain, 13,000 bases seen, saved at a stop",
        "whole  bundle",
    ]


def test_a_damaged_one_is_named_and_ends_with_an_error(
    workdir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "pretrain" / "checkpoints" / "9" / "manifest.json").unlink()
    with pytest.raises(UserError, match="1 damaged; a run passes over them"):
        command.run([str(workdir)])
    first = capsys.readouterr().out.splitlines()[0]
    assert "DAMAGED" in first
    assert "9 has no manifest.json (its saving was cut off)" in first


def test_one_of_them_is_explained_by_its_manifest(
    workdir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run([str(workdir / "pretrain" / "checkpoints" / "9")])
    *text, last = capsys.readouterr().out.splitlines()
    manifest = json.loads("\n".join(text))
    assert list(manifest)[:3] == ["kind", "step", "metrics"]
    assert manifest["metrics"] == {"bits": 1.9}
    assert last.endswith("files, each with its sha256 in manifest.json; all of them are whole")


def test_a_folder_without_any_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no checkpoint or bundle here; name a workdir"):
        command.run([str(tmp_path)])
    with pytest.raises(UserError, match="no folder; name a workdir"):
        command.run([])
