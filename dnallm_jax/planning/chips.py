"""What can one device of each TPU generation do at most, and how is it wired?

Sources: arithmetic, memory and its bandwidth as Google publishes them for each generation
(cloud.google.com/tpu/docs/system-architecture-tpu-vm); usable memory as the compiler itself states
it; links and their bandwidth from "How to Scale Your Model" (jax-ml.github.io/scaling-book), of 7x
from the published 1.2 TB/s a chip. `flops.PEAKS` holds the peak arithmetic, for MFU.
"""

import dataclasses
from collections.abc import Mapping

from dnallm_jax.planning.flops import PEAKS

GIB = 2**30
# What a host sends to hosts of other slices through the data centre's network, about.
DCN_BYTES_PER_SECOND = 25e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a generation: a chip, or one of the two halves of a 7x chip.

    Attributes:
      flops: peak of dense bfloat16 products, FLOP/s.
      memory: usable bytes of HBM, as the compiler counts them.
      memory_rate: bytes a second from and to HBM.
      link_rate: bytes a second over one link between chips, in one direction.
      tile: width of the matrix unit; what is narrower leaves a part of it idle.
      dimensions: of the torus that the chips form.
      wraps: chips along a dimension from which on its ends are joined.
      host: chips of a host of a large slice, along each dimension.
      devices: JAX devices a chip.
      options: what the compiler must be told beside the topology's name.
    """

    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    tile: int
    dimensions: int
    wraps: int
    host: tuple[int, int, int]
    examples: tuple[str, ...]
    devices: int = 1
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


CHIPS: dict[str, Chip] = {
    "v4": Chip(
        PEAKS["TPU v4"], 30.75 * GIB, 1.23e12, 45e9, 128, 3, 4, (2, 2, 1),
        ("v4:2x2x1", "v4:2x2x2", "v4:4x4x4"),
        # Without it each of the chip's two cores is a device; programs see them as one.
        options={"chip_config_name": "megacore"},
    ),
    "v5e": Chip(
        PEAKS["TPU v5e"], 15.75 * GIB, 0.82e12, 45e9, 128, 2, 16, (2, 2, 1),
        ("v5e:1x1", "v5e:2x4", "v5e:4x4", "v5e:16x16"),
    ),
    "v5p": Chip(
        PEAKS["TPU v5p"], 95.74 * GIB, 2.46e12, 90e9, 128, 3, 4, (2, 2, 1),
        ("v5p:2x2x1", "v5p:4x4x4", "v5p:8x8x8"),
    ),
    "v6e": Chip(
        PEAKS["TPU v6e"], 31.25 * GIB, 1.64e12, 90e9, 256, 2, 16, (2, 2, 1),
        ("v6e:1x1", "v6e:2x4", "v6e:4x4", "v6e:16x16"),
    ),
    "tpu7x": Chip(
        PEAKS["TPU7x"], 94.75 * GIB, 3.7e12, 50e9, 256, 3, 4, (2, 2, 1),
        ("7x:2x2x1", "7x:4x4x4"),
        devices=2,
    ),
}  # fmt: skip
