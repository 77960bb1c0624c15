"""Which data do chips exchange in a step, how much of it, and over which network?

From the optimised program. Within a slice data goes over the links between chips (ICI), between
slices through the data centre (DCN). Bytes are those that each device must send, by the cheapest
algorithm: of R bytes that n devices end up with or put in, an all-gather or a reduce-scatter sends
R (n - 1) / n, an all-reduce twice that.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from dnallm_jax.planning import hlo

ICI, DCN = "ICI", "DCN"
KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_DCN_KINDS = {
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange of a compiled program.

    Attributes:
      bytes: of the whole, on one device: what is gathered, or summed.
      devices: that take part together.
      dimensions: of the torus along which they differ; none where they are one chip's.
      times: a step.
    """

    kind: str
    network: str
    bytes: float
    devices: int
    dimensions: tuple[int, ...]
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step."""
        share = (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.times * self.bytes * factor


def collectives(
    module: hlo.Module, devices: Sequence[jax.Device], slices: int = 1
) -> list[Collective]:
    """All exchanges of a step.

    Args:
      devices: in the order of the mesh, which is that of the program's partitions.
    """
    # A program of several slices numbers the devices of its own slice.
    own = [d for d in devices if getattr(d, "slice_index", None) in (None, 0)]
    places = np.array([[*d.coords[:3], getattr(d, "core_on_chip", 0)] for d in own])
    found: list[Collective] = []
    split: dict[tuple[str, str], Collective] = {}
    for name, computation in module.computations.items():
        times = module.times[name]
        for instruction in computation.instructions.values():
            if not times:
                continue
            kind = instruction.opcode.removesuffix("-start")
            if kind == "send" and "_xla_megascale" in instruction.attributes:
                found.append(_between_slices(instruction, computation, slices, times))
            elif kind in KINDS:
                made = _within_slice(kind, instruction, computation, places, times)
                # A collective that is worked on beside other instructions, piece by piece, stands
                # in the text once for each piece.
                chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
                if chain is None:
                    found.append(made)
                else:
                    key = (instruction.named("channel_id"), chain[1])
                    split[key] = max(split.get(key, made), made, key=lambda c: c.times)
    return [c for c in (*found, *split.values()) if c.devices > 1]


def _put_in(instruction: hlo.Instruction, computation: hlo.Computation) -> float:
    return sum(computation.instructions[name].bytes for name in instruction.operands)


def _within_slice(
    kind: str,
    instruction: hlo.Instruction,
    computation: hlo.Computation,
    places: np.ndarray,
    times: int,
) -> Collective:
    size = _put_in(instruction, computation)
    members = _together(instruction.attributes, len(places))
    if kind == "all-gather":
        size *= len(members)
    elif kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # which the compiler writes as a sum of which each keeps a part
    differ = places[members].min(0) != places[members].max(0)
    dimensions = tuple(np.flatnonzero(differ[:3]).tolist())
    return Collective(kind, ICI, size, len(members), dimensions, times)


def _between_slices(
    instruction: hlo.Instruction, computation: hlo.Computation, slices: int, times: int
) -> Collective:
    told = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    kind = _DCN_KINDS.get(told[1] if told else "", "collective-permute")
    size = computation.instructions[instruction.operands[0]].bytes
    if kind == "all-gather":
        size *= slices
    return Collective(kind, DCN, size, slices, (), times)


_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"  # 0, 1, ... in this shape, its axes in that order


def _iota(shape: str, order: str | None) -> np.ndarray:
    sizes = [int(size) for size in shape.split(",")]
    numbers = np.arange(np.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(axis) for axis in order.split(",")]) if order else numbers


def _together(attributes: str, count: int) -> list[int]:
    """The first group of devices that exchange with one another; all where none is named."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return [int(pairs[1]), int(pairs[2])]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return [int(number) for number in listed[1].split(",")]
    if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={_IOTA}", attributes):
        return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))[0].tolist()
    if meshed := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:{_IOTA}|([\d,]+))\))?"
        r" \{([^}]*)\}",
        attributes,
    ):
        axes, shape, order, listed_ids, names = meshed.groups()
        sizes = {n: int(size) for n, size in re.findall(r"'([^']+)'=(\d+)", axes)}
        if listed_ids:
            numbers = np.array([int(number) for number in listed_ids.split(",")])
        else:
            numbers = _iota(shape or ",".join(map(str, sizes.values())), order)
        over = set(re.findall(r"'([^']+)'", names))
        whole = numbers.reshape(list(sizes.values()))
        return whole[tuple(slice(None) if name in over else 0 for name in sizes)].ravel().tolist()
    if "replica_groups={}" in attributes or "replica_groups" not in attributes:
        return list(range(count))
    raise ValueError(f"groups of devices written in an unknown way: {attributes[:300]}")


@dataclasses.dataclass(frozen=True)
class Sum:
    """All collectives of a kind over one network."""

    network: str
    kind: str
    times: int
    sent: float
    largest: float  # bytes of the largest single one


def summed(found: Sequence[Collective]) -> list[Sum]:
    """By network and kind, the heaviest first."""

    def of(c: Collective) -> tuple[str, str]:
        return c.network, c.kind

    def rows() -> Iterator[Sum]:
        for (network, kind), group in itertools.groupby(sorted(found, key=of), of):
            members = list(group)
            yield Sum(
                network,
                kind,
                sum(c.times for c in members),
                sum(c.sent for c in members),
                max(c.bytes for c in members),
            )

    return sorted(rows(), key=lambda row: (row.network != ICI, -row.sent))


def sent(found: Sequence[Collective], network: str) -> float:
    """Bytes that each device sends over a network in a step."""
    return sum(c.sent for c in found if c.network == network)


def in_one_piece(found: Sequence[Collective], size: float) -> list[Collective]:
    """Gathers and sums that carry half of `size` bytes or more at once.

    Of a whole set of parameters there must be none: it would need that much memory on every device,
    and nothing could be computed meanwhile.
    """
    return [c for c in found if c.kind in ("all-gather", "all-reduce") and 2 * c.bytes >= size]
