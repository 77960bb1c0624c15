"""Is a topology known by its name, and is what is not one told with the way out?"""

import importlib.util
import re

import numpy as np
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.planning import topology
from dnallm_jax.planning.chips import CHIPS

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def test_names() -> None:
    assert topology.parse("v5e:4x4") == ("v5e", (4, 4))
    assert topology.parse(" 7x:2x2x1 ") == ("tpu7x", (2, 2, 1))
    for chip in CHIPS.values():
        for example in chip.examples:
            topology.parse(example)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v5x:4x4", 'did you mean "v5p:4x4"'),
        ("v5e4x4", 'did you mean "v5e:4x4"'),
        ("v5e:4x", "GENERATION:SHAPE"),
        ("v5litepod-16", "for example v4:2x2x2"),
        ("v5e:4x4x4", "2 dimensions"),
        ("v4:4x4", "3 dimensions"),
        ("v5e:0x4", "2 dimensions"),
        ("v5e:512x512", "--slices"),
        ("", "GENERATION:SHAPE"),
    ],
)
def test_what_is_no_topology(name: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        topology.parse(name)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax.experimental import topologies

    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("Could not find libtpu")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"requirements-tpu\.txt"):
        topology.describe("v5e:2x2")


def test_the_size_of_what_is_too_large() -> None:
    told = "the total memory required for HLO temporaries (800.00G) exceeds available HBM (15.75G)."
    assert topology._wanted(told) == 800 * 2**30
    assert topology._wanted("no number at all") == 0


@pytest.mark.tpu_compiler
@needs_libtpu
def test_described_by_the_compiler() -> None:
    for name, slices, chips, hosts, devices in (
        ("v5e:1x1", 1, 1, 1, 1),
        ("v5e:2x4", 1, 8, 1, 8),
        ("v6e:4x4", 2, 32, 8, 32),
        ("v4:2x2x2", 1, 8, 2, 8),
        ("v5p:2x2x1", 1, 4, 1, 4),
        ("7x:2x2x1", 1, 4, 1, 8),
        ("v5p:16x16x24", 1, 6144, 1536, 6144),
    ):
        found = topology.describe(name, slices)
        assert (found.chips, found.hosts, len(found.devices)) == (chips, hosts, devices), name
        assert int(np.prod(found.shape)) * slices == chips
    with pytest.raises(UserError, match="there is no such slice"):
        topology.describe("v5e:3x5")
    with pytest.raises(UserError, match="at least one"):
        topology.describe("v5e:2x2", 0)


@pytest.mark.tpu_compiler
@needs_libtpu
def test_memory_of_each_generation() -> None:
    """What the compiler says that a device has is what CHIPS says."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    for chip in CHIPS.values():
        device = topology.describe(chip.examples[0]).devices[0]
        huge = jax.ShapeDtypeStruct(
            (400, 1024, 1024, 256), jnp.float32, sharding=SingleDeviceSharding(device)
        )
        with pytest.raises(jax.errors.JaxRuntimeError) as error:
            jax.jit(lambda x: x * 2).lower(huge).compile()
        told = re.search(r"available HBM \(([0-9.]+)G\)", str(error.value))
        assert told, error.value
        # Compilers of different years differ in the last digit.
        assert float(told[1]) == pytest.approx(chip.memory / 2**30, abs=0.02)
