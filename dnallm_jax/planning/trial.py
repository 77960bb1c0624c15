"""Does a step fit a topology, and how fast can it be there? Compiled, read, and told."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dnallm_jax.planning import collectives, flops, hlo, roofline, traffic
from dnallm_jax.planning.chips import GIB
from dnallm_jax.planning.collectives import DCN, ICI, Collective
from dnallm_jax.planning.roofline import Bound, Work
from dnallm_jax.planning.topology import Compiled, TooLarge, Topology, compile_step


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that can be compiled: a jitted function and the shapes that it is called with.

    Attributes:
      name: of the recipe and what it does.
      held: what lies in memory between steps, tree by tree ("parameters", "optimizer", ...).
      reasons: why it runs as it does, in lines for a person.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    held: Mapping[str, Any]
    work: Work
    mesh: Mesh
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the compiler, and arithmetic on what it made, say of a step.

    Attributes:
      seconds: that compiling took.
      traffic: bytes between a device and its memory in a step.
    """

    step: Step
    topology: Topology
    seconds: float
    compiled: Compiled | TooLarge
    exchanged: tuple[Collective, ...] = ()
    traffic: float = 0.0
    bound: Bound | None = None
    endless: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return isinstance(self.compiled, Compiled)

    @property
    def peak(self) -> float:
        """Most bytes of a device's memory at a time."""
        found = self.compiled
        return found.wanted if isinstance(found, TooLarge) else found.peak

    @property
    def mfu(self) -> float:
        """At most so much; 0 where it does not fit."""
        if self.bound is None:
            return 0.0
        return roofline.mfu(self.step.work, self.topology, self.bound.seconds)

    def price(self, dollars_per_chip_hour: float) -> float:
        """Dollars per billion bases, at the bound."""
        assert self.bound
        hours = self.bound.seconds / 3600 * self.topology.chips
        return dollars_per_chip_hour * hours / self.step.work.bases * 1e9


def assess(step: Step, topology: Topology) -> Verdict:
    """Compiles a step for a topology and reads what came out."""
    start = time.perf_counter()
    compiled = compile_step(step.function, step.arguments)
    seconds = time.perf_counter() - start
    if isinstance(compiled, TooLarge):
        return Verdict(step, topology, seconds, compiled)
    module = hlo.read(compiled.text)
    exchanged = collectives.collectives(module, list(step.mesh.devices.flat), topology.slices)
    moved = traffic.memory_traffic(module)
    return Verdict(
        step,
        topology,
        seconds,
        compiled,
        tuple(exchanged),
        moved,
        roofline.bound(step.work, topology, traffic=moved, exchanged=exchanged),
        module.endless,
    )


def on_device(tree: Any) -> int:
    """Bytes of a tree of ShapeDtypeStructs with shardings that lie on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def too_large(verdict: Verdict) -> str:
    """One sentence: what a step wants, what there is, and what to change."""
    step, usable = verdict.step, verdict.topology.chip.memory
    assert isinstance(verdict.compiled, TooLarge)
    state = sum(map(on_device, step.held.values()))
    if state > usable:
        change = (
            "parameters and optimizer alone are more: split them over more devices "
            "(--config.mesh.fsdp, a larger --topology)"
        )
    elif step.work.training and step.work.remat in ("none", "dots"):
        change = "set --config.execution.remat=block, or use a smaller batch or a larger --topology"
    else:
        change = (
            "use a smaller batch (--config.pretrain.batch_rows, or more --config.pretrain."
            "accumulate), more of --config.mesh.fsdp or tensor, or a larger --topology"
        )
    return (
        f"{step.name} does not fit {verdict.topology}: it wants "
        f"{verdict.compiled.wanted / GIB:.1f} GiB of the {usable / GIB:.2f} GiB of a device; "
        f"{change} (--search looks for what fits)"
    )


def lines(verdict: Verdict, price: float | None) -> Iterable[str]:
    """The verdict on a step that fits, for a person."""
    step, topology, bound = verdict.step, verdict.topology, verdict.bound
    work, chip = step.work, topology.chip
    assert bound
    devices = len(topology.devices)
    yield f"plan        {step.name}"
    yield (
        f"topology    {topology}: {_count(topology.chips, 'chip')} of "
        f"{_count(topology.hosts, 'host')}, a device {_si(chip.flops)}FLOP/s in bfloat16, "
        f"{chip.memory / GIB:.2f} GiB at {_si(chip.memory_rate)}B/s"
    )
    yield from step.reasons
    yield (
        f"batch       {work.rows:,} rows of {work.row_length:,} tokens = {_si(work.tokens)}tokens "
        f"= {_si(work.bases)}bases a step"
    )
    yield f"compiled    in {verdict.seconds:.0f} s, by the compiler of TPUs"
    yield (
        f"fits        yes: at most {verdict.peak / GIB:.2f} of {chip.memory / GIB:.2f} GiB of a "
        f"device ({verdict.peak / chip.memory:.0%})"
    )
    held = {name: on_device(tree) for name, tree in step.held.items()}
    rest = max(0, verdict.peak - sum(held.values()))
    told = ", ".join(f"{name} {size / GIB:.3f}" for name, size in held.items())
    yield f"memory      {told}, the rest {rest / GIB:.2f} GiB (activations, gradients, weights)"
    for row in collectives.summed(verdict.exchanged):
        yield (
            f"{row.network}         {row.kind:<18} {row.times:>6,} a step, a device sends "
            f"{_si(row.sent)}B, the largest of {_si(row.largest)}B"
        )
    if not verdict.exchanged:
        yield "network     nothing is exchanged"
    for name in verdict.endless:
        yield f"            of a loop ({name}) the turns are not known: it counts once"
    told = flops.formula(causal=work.causal, training=work.training, window=work.spec.window)
    yield f"arithmetic  {_si(work.flops)}FLOP a step: a token {told}"
    yield (
        f"            {_si(work.executed(chip.tile))}FLOP with what is computed again, in whole "
        f"tiles of {chip.tile}"
    )
    yield (
        f"at least    arithmetic {bound.compute * 1e3:.3g} ms, memory {bound.memory * 1e3:.3g} ms "
        f"({_si(verdict.traffic)}B), ICI {bound.ici * 1e3:.3g} ms, DCN {bound.dcn * 1e3:.3g} ms"
    )
    serial = roofline.mfu(work, topology, bound.in_turn)
    yield (
        f"bound       {bound.seconds * 1e3:.3g} ms a step, by {_BY[bound.by]}: at most "
        f"{verdict.mfu:.1%} MFU ({serial:.1%} if nothing overlapped)"
    )
    yield (
        f"speed       at most {_si(work.tokens / bound.seconds)}tokens/s, "
        f"{_si(work.bases / bound.seconds)}bases/s, {_si(work.tokens / bound.seconds / devices)}"
        "tokens/s a device"
    )
    if price is not None:
        yield (
            f"price       at least ${verdict.price(price):.3g} per billion bases, at ${price:g} a "
            "chip and hour"
        )


_BY = {"compute": "arithmetic", "memory": "memory", "ici": "ICI", "dcn": "DCN"}


def network_bytes(verdict: Verdict) -> dict[str, float]:
    """Bytes that each device sends in a step, by network."""
    return {name: collectives.sent(verdict.exchanged, name) for name in (ICI, DCN)}


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' if number > 1 else ''}"


def _si(value: float) -> str:
    """1234567 -> '1.23 M'."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g} "
