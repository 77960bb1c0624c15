"""Is a folder kept for the one run that it belongs to?"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.parallel import hosts
from dnallm_jax.training.workdir import claim, code, versions

ROOT = pathlib.Path(__file__).resolve().parents[3]
IDENTITY = {
    "model": {"width": 32, "layers": 1},
    "pretrain": {"steps": 10, "optimizer": {"beta1": 0.9}},
    "lengths": (300, 500),
    "data": "abc",
}


def refused(folder: pathlib.Path, identity: dict) -> str:
    with pytest.raises(UserError) as raised, claim(folder, identity):
        pass
    return str(raised.value)


def test_the_same_run_may_come_back(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "new" / "run"
    with claim(folder, IDENTITY):
        written = (folder / "run.json").read_bytes()
    with claim(folder, {**IDENTITY, "lengths": [300, 500]}):
        pass
    assert (folder / "run.json").read_bytes() == written
    assert json.loads(written) == {**IDENTITY, "lengths": [300, 500]}


def test_another_config_is_refused_by_the_keys_that_differ(tmp_path: pathlib.Path) -> None:
    with claim(tmp_path, IDENTITY):
        pass
    written = (tmp_path / "run.json").read_bytes()
    other = {**IDENTITY, "data": "abd", "pretrain": {"steps": 20, "optimizer": {"beta1": 0.8}}}
    assert refused(tmp_path, other) == (
        f"{tmp_path} belongs to a run of another config (data: abc -> abd; "
        "pretrain.optimizer.beta1: 0.9 -> 0.8; pretrain.steps: 10 -> 20); choose another "
        "--workdir, or delete the folder"
    )
    many = {**IDENTITY, **{f"key{n}": n for n in range(9)}}
    assert "key4: None -> 4; ...)" in refused(tmp_path, many)
    assert (tmp_path / "run.json").read_bytes() == written


def test_a_claim_ends_with_its_run(tmp_path: pathlib.Path) -> None:
    def fail() -> None:
        with claim(tmp_path, IDENTITY):
            raise RuntimeError("the run failed")

    with pytest.raises(RuntimeError, match="the run failed"):
        fail()
    with claim(tmp_path, IDENTITY):
        pass


@pytest.mark.parametrize("differs", ["code", "jax", "numpy", "python", "data", "config"])
def test_another_host_that_differs_is_named(
    differs: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def three(own: dict[str, str]) -> list[dict[str, str]]:
        return [own, own, {**own, "host": "b", differs: "another"}]

    monkeypatch.setattr(hosts, "everyone", three)
    told = refused(tmp_path / "run", IDENTITY)
    assert told.startswith(f"the hosts differ: process 2 (b) has {differs} another, process 0 (")
    assert told.count(" has ") == 2
    assert not (tmp_path / "run").exists()


def test_a_second_process_is_refused(tmp_path: pathlib.Path) -> None:
    # flock sees two openings of one process as it sees two processes.
    with claim(tmp_path, IDENTITY):
        told = refused(tmp_path, IDENTITY)
    assert told == (
        f"{tmp_path}: another run is writing here (process {os.getpid()}); wait until it is done, "
        "or choose another folder"
    )


def test_a_killed_process_leaves_no_claim(tmp_path: pathlib.Path) -> None:
    script = (
        "import os, pathlib, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from data_pipeline.datasets import sole_writer\n"
        "with sole_writer(sys.argv[2], 'run'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT), str(tmp_path)], timeout=120, check=False
    )
    assert done.returncode == -9
    assert (tmp_path / ".lock").exists()
    with claim(tmp_path, IDENTITY):
        pass


def test_a_broken_run_file_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").write_text('{"model": ')
    assert refused(tmp_path, IDENTITY).startswith(f"{tmp_path / 'run.json'} is not readable JSON")


def test_versions_name_what_numbers_depend_on() -> None:
    assert set(versions()) >= {"dnallm_jax", "python", "jax", "flax", "optax", "numpy", "grain"}
    assert all(version[0].isdigit() for version in versions().values())


def test_the_code_has_a_digest() -> None:
    assert len(code()) == 16
    assert code() == code()
