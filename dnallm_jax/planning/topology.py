"""Which devices has a slice of a TPU that is not at hand, and what does its compiler say of a step?

The compiler of TPUs (libtpu) needs none: it describes the devices of any topology and compiles for
them. Nothing that it makes can be run here.
"""

import dataclasses
import difflib
import os
import re
from typing import Any

import jax
import numpy as np

from data_pipeline.errors import UserError
from dnallm_jax.planning.chips import CHIPS, Chip

# libtpu asks the cloud which machine this is; the answers keep it from waiting and complaining.
# It also locks itself against a second process that would use the same TPU; here none is used.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_WRITTEN = re.compile(r"([a-z0-9]+):(\d+(?:x\d+)*)")
# libtpu fits more than this into no program, whatever the topology.
_MOST_CHIPS = 10_000


@dataclasses.dataclass(frozen=True)
class Topology:
    """The devices of one or more equal slices.

    Attributes:
      name: as the user wrote it, "v5e:4x4".
      shape: chips of a slice along each dimension of its torus.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int
    devices: list[jax.Device]

    @property
    def chips(self) -> int:
        return self.slices * int(np.prod(self.shape))

    @property
    def hosts(self) -> int:
        return len({device.process_index for device in self.devices})

    def __str__(self) -> str:
        slices = f" x {self.slices} slices" if self.slices > 1 else ""
        return f"{self.name}{slices}"


def describe(name: str, slices: int = 1) -> Topology:
    """The topology of that name; UserError where there is none, or no compiler of TPUs."""
    generation, shape = parse(name)
    if slices < 1:
        raise UserError(f"--slices={slices}: there is at least one")
    chip = CHIPS[generation]
    options: dict[str, Any] = dict(chip.options)
    if bounds := _host_bounds(chip, shape):
        options["chips_per_host_bounds"] = bounds
    if slices > 1:
        options["num_slices"] = slices
    os.environ.update(ENVIRONMENT)
    from jax.experimental import topologies

    spelt = f"{generation}:{'x'.join(map(str, shape))}"
    try:
        found = topologies.get_topology_desc(spelt, "tpu", **options).devices
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise _refused(name, chip, error) from error
    return Topology(name, chip, shape, slices, list(found))


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """("v5e", (4, 4)) of "v5e:4x4"; UserError with the nearest right names for any other text."""
    examples = [example for chip in CHIPS.values() for example in chip.examples]
    written = _WRITTEN.fullmatch(name.strip().lower())
    if not written:
        near = difflib.get_close_matches(name.lower(), examples, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise UserError(
            f"--topology={name} is no topology; {hint}it is written GENERATION:SHAPE, for example "
            f"{', '.join(chip.examples[-2] for chip in CHIPS.values())}"
        )
    generation = {"7x": "tpu7x", "v7x": "tpu7x", "v5litepod": "v5e"}.get(written[1], written[1])
    shape = tuple(int(size) for size in written[2].split("x"))
    if generation not in CHIPS:
        near = difflib.get_close_matches(generation, CHIPS, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}:{written[2]}"? ' if near else ""
        raise UserError(
            f"--topology={name}: {written[1]} is no generation that is known; {hint}the known are "
            f"{', '.join(CHIPS)}"
        )
    chip = CHIPS[generation]
    if len(shape) != chip.dimensions or min(shape) < 1:
        raise UserError(
            f"--topology={name}: a slice of {generation} has {chip.dimensions} dimensions; for "
            f"example {', '.join(chip.examples)}"
        )
    if np.prod(shape) > _MOST_CHIPS:
        raise UserError(
            f"--topology={name}: {np.prod(shape):,} chips are more than a slice holds; name a "
            "slice, and how many with --slices"
        )
    return generation, shape


def _host_bounds(chip: Chip, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Chips of a host along each dimension, where they differ from those of a large slice."""
    x, y, z = (*shape, 1)[:3]
    if chip.dimensions == 2 and x * y <= 8:  # one host has up to eight chips of a small slice
        return x, y, 1
    if x * y * z < 4:
        return x, y, z
    return None


def _refused(name: str, chip: Chip, error: Exception) -> UserError:
    told = " ".join(str(error).split())
    if "INVALID_ARGUMENT" in told:
        return UserError(
            f"--topology={name}: there is no such slice ({told.removeprefix('INVALID_ARGUMENT: ')}"
            f"); for example {', '.join(chip.examples)}"
        )
    return UserError(
        "the compiler of TPUs is not here: install requirements-tpu.txt, which brings libtpu "
        f"(Linux on x86-64; no TPU is needed) ({told[:200]})"
    )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step, for one device.

    Attributes:
      peak: most bytes of HBM that are in use at a time, arguments among them.
      text: the optimised program, HLO.
    """

    peak: int
    text: str


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A step that does not fit: the bytes of HBM that it wants."""

    wanted: float


def compile_step(function: Any, arguments: tuple[Any, ...]) -> Compiled | TooLarge:
    """Compiles a jitted function for the devices that its arguments' shardings name.

    Args:
      function: a jitted function; arguments: trees of ShapeDtypeStructs with shardings.
    """
    lowered = function.lower(*arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return TooLarge(_wanted(str(error)))
    memory = compiled.memory_analysis()
    return Compiled(memory.peak_memory_in_bytes, compiled.as_text())


def _wanted(message: str) -> float:
    """The bytes of HBM that a program wants, from the compiler's refusal."""
    sizes = re.findall(r"([\d.]+)([KMGT])\b", message)
    return max((float(n) * 1024 ** ("KMGT".index(unit) + 1) for n, unit in sizes), default=0.0)
