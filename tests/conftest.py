"""Every test sees eight fake CPU devices, parsed absl flags, and the real data where it is."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import pathlib
from collections import Counter

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real genomes beside the checkout; tests that need it are skipped without it."""
    if not DATA.is_dir():
        pytest.skip("the real genomes are not beside this checkout (../shared/data)")
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: these start processes, and begun last they keep one worker busy."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (tests[item.path], item.path))
