"""What would a TPU do? Devices that the TPU compiler describes and compiles for, none at hand."""

import importlib.util
from typing import Any

import jax
import pytest

tpu_compiler = pytest.mark.tpu_compiler


def described(name: str, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[jax.Device]:
    """The devices of a topology such as v5e:2x2; the test is skipped without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed (requirements-tpu.txt)")
    # No look for a TPU's metadata server, and no alarm that there is none.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=name, **how).devices
