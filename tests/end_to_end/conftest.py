"""The program as a user starts it: a process of its own, in another folder."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.dnallm_jax.bundles import write_tiny_bundle

ROOT = pathlib.Path(__file__).resolve().parents[2]
Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment, without accelerator, with an empty cache of compiled code."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    # Without bytecode every start is three times slower.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def program(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Runs `main.py WORDS`; `given` goes to its standard input."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(
        *words: str | pathlib.Path, given: bytes = b"", folder: pathlib.Path = elsewhere
    ) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, ROOT / "main.py", *words],
            input=given,
            capture_output=True,
            cwd=folder,
            env=environment,
            check=False,
            timeout=880,
        )
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )

    return run


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A bundle of a small random network."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write_tiny_bundle(folder)
    return folder
