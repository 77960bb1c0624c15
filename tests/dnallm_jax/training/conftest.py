"""Checkpoints that are there already, to be read or to be damaged."""

import logging
import pathlib
import shutil
from collections.abc import Iterator

import pytest

from tests.dnallm_jax.training.saved import METRIC, save_all


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
