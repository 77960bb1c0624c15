"""Is a folder without locks held by one run, freed when that was killed, and kept from a second?"""

import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.training import lease
from dnallm_jax.training.lease import leased

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEWED", 0.05), ("FREE", 0.5), ("_SETTLES", 0.0)):
        monkeypatch.setattr(lease, name, seconds)


def left(folder: pathlib.Path, **changed: Any) -> pathlib.Path:
    """The lease of a process that has ended, of this machine if nothing is changed."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = folder / ".lease"
    path.write_text(json.dumps({**lease._process(), "process": ended.pid, "token": "x"} | changed))
    return path


def test_it_is_renewed_and_given_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / ".lease"
    with leased(tmp_path):
        first = path.read_bytes()
        waited = threading.Event()
        while path.read_bytes() in (first, b""):
            waited.wait(0.01)
    assert not path.exists()
    with leased(tmp_path):
        pass


def test_one_that_is_renewed_elsewhere_is_refused(tmp_path: pathlib.Path) -> None:
    path, over = left(tmp_path, host="other"), threading.Event()

    def renew() -> None:
        number = 0
        while not over.wait(0.02):
            number += 1
            os.replace(left(tmp_path, host="other", process=7, number=number), path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(UserError) as refused, leased(tmp_path):
            pass
    finally:
        over.set()
        thread.join()
    assert str(refused.value) == (
        f"{tmp_path}: another run is writing here (process 7 on other); wait until it is done, or "
        "choose another folder"
    )


def test_one_that_a_killed_process_left_is_taken(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left(tmp_path)
    with leased(tmp_path):
        assert capsys.readouterr().err == "", "of this machine: at once"
    left(tmp_path, host="other", process=7)
    with leased(tmp_path):
        assert ".lease is of process 7 on other: waits 0.5 s for a sign of it" in (
            capsys.readouterr().err
        )
    (tmp_path / ".lease").write_text("half of")
    with leased(tmp_path):
        pass


def test_of_two_that_take_it_at_once_one_keeps_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease.time, "sleep", lambda _: left(tmp_path, host="later", process=8))
    with pytest.raises(UserError, match="process 8 on later"), leased(tmp_path):
        pass


def test_a_process_whose_lease_was_taken_ends(tmp_path: pathlib.Path) -> None:
    program = (
        "import json, pathlib, sys, time\n"
        "from dnallm_jax.training import lease\n"
        "lease.RENEWED, folder = 0.05, pathlib.Path(sys.argv[1])\n"
        "with lease.leased(folder):\n"
        "    taken = json.dumps({'token': 'y', 'process': 9, 'host': 'other'})\n"
        "    (folder / '.lease').write_text(taken)\n"
        "    time.sleep(60)\n"
    )
    line = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "another run is writing here (process 9 on other)" in done.stderr
    assert done.stderr.strip().endswith("this one ends")
    assert json.loads((tmp_path / ".lease").read_text())["process"] == 9
