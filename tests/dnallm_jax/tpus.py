"""What would a TPU do? Devices that the TPU compiler describes and compiles for, none at hand."""

import importlib.util

import jax
import pytest

from dnallm_jax.planning.topology import describe

tpu_compiler = pytest.mark.tpu_compiler


def described(name: str, slices: int = 1) -> list[jax.Device]:
    """The devices of a topology such as v5e:2x2; the test is skipped without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed (requirements-tpu.txt)")
    return describe(name, slices).devices
