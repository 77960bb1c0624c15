"""Which mesh, batch and remat policy make a step as fast as it can be, and still fit?

All are estimated by formula, which takes no time and is roughly right; the most promising are
compiled, few of them, because that takes minutes each. What was compiled is compared by its bound.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

from data_pipeline.errors import UserError
from dnallm_jax.config import Config, Mesh
from dnallm_jax.model.gpt import GPTSpec
from dnallm_jax.planning import flops, roofline, trial
from dnallm_jax.planning.chips import GIB
from dnallm_jax.planning.roofline import Work
from dnallm_jax.planning.topology import Topology

REMATS = ("none", "dots", "block")
_ROWS = (1, 2, 4, 8, 16, 32, 64)  # of a batch, for each group of devices that shares a row
_ROOM = 0.92  # of a device's memory: what the estimate may reach


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run the step, and what formulas say of it."""

    config: Config
    memory: float  # bytes of a device
    seconds: float

    @property
    def overrides(self) -> list[str]:
        """The flags that choose it."""
        mesh, training = self.config.mesh, self.config.pretrain
        return [
            *(f"--config.mesh.{axis}={size}" for axis, size in vars(mesh).items() if size != 1),
            *(["--config.mesh.fsdp=1"] if mesh.fsdp == 1 else []),
            f"--config.pretrain.batch_rows={training.batch_rows}",
            f"--config.execution.remat={self.config.execution.remat}",
        ]


@dataclasses.dataclass(frozen=True)
class Found:
    """The best that was compiled and fits; else the last that was tried."""

    overrides: list[str]
    verdict: trial.Verdict


def best(
    config: Config,
    topology: Topology,
    build: Callable[[Config], trial.Step],
    *,
    compiles: int,
    say: Callable[[str], None],
) -> Found:
    """The candidate with the best bound among those that are compiled and fit.

    Args:
      build: the step of a config on the topology; UserError where the mesh does not divide it.
      compiles: at most so many steps are compiled.
    """
    spec = build(_with(config, Mesh(), config.execution.remat, _least_rows(topology))).work.spec
    ranked = sorted(candidates(config, spec, topology), key=lambda c: _pace(c, spec, topology))
    promising = [c for c in ranked if c.memory < _ROOM * topology.chip.memory]
    say(f"search      {len(ranked)} ways, of which {len(promising)} should fit")
    if not promising:
        raise UserError(
            f"{config.name} fits {topology} in no way that was tried: the least would be "
            f"{min(c.memory for c in ranked) / GIB:.1f} GiB of a device; name a larger --topology"
        )
    found: Found | None = None
    while promising and compiles:
        candidate, compiles = promising.pop(0), compiles - 1
        verdict = trial.assess(build(candidate.config), topology)
        told = f"at most {verdict.mfu:.1%} MFU" if verdict.fits else "does not fit"
        say(
            f"            {' '.join(candidate.overrides)}: {told} "
            f"(estimate {_mfu(candidate, spec, topology):.1%})"
        )
        if not verdict.fits:  # nor will what is estimated to want about as much
            promising = [c for c in promising if c.memory < 0.9 * candidate.memory]
        if found is None or verdict.mfu > found.verdict.mfu:
            found = Found(candidate.overrides, verdict)
    assert found
    return found


def _least_rows(topology: Topology) -> int:
    return len(topology.devices)


def _with(config: Config, mesh: Mesh, remat: str, rows: int) -> Config:
    return dataclasses.replace(
        config,
        mesh=mesh,
        execution=dataclasses.replace(config.execution, remat=remat),
        pretrain=dataclasses.replace(config.pretrain, batch_rows=rows, accumulate=1),
    )


def candidates(config: Config, spec: GPTSpec, topology: Topology) -> Iterator[Candidate]:
    """Every mesh that divides the network, with every batch and remat policy."""
    for mesh in meshes(spec, topology):
        for remat, rows in itertools.product(REMATS, _ROWS):
            tried = _with(config, mesh, remat, rows * mesh.data * mesh.fsdp)
            yield estimate(tried, spec, topology)


def meshes(spec: GPTSpec, topology: Topology) -> Iterator[Mesh]:
    """data x fsdp x tensor: slices along data, heads and width divided evenly."""
    devices = len(topology.devices) // topology.slices
    for fsdp, tensor in itertools.product(_divisors(devices), repeat=2):
        if devices % (fsdp * tensor) or spec.width % fsdp:
            continue
        if any(n % tensor for n in (spec.heads, spec.kv_heads, spec.feed_forward)):
            continue
        yield Mesh(data=topology.slices * devices // (fsdp * tensor), fsdp=fsdp, tensor=tensor)


def _divisors(number: int) -> Iterable[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


def estimate(config: Config, spec: GPTSpec, topology: Topology) -> Candidate:
    """Memory and time of a step by formula, for a device.

    Memory: parameters and both moments in float32, gradients in bfloat16, what each policy keeps of
    a layer, one layer's inner activations twice, and one layer's gathered weights twice. Time:
    arithmetic, against the parts that travel: weights gathered twice and gradients scattered once
    (fsdp), gradients summed (data), activations summed four times a layer (tensor).
    """
    mesh, chip = config.mesh, topology.chip
    row, rows = config.corpus.row_length, config.pretrain.batch_rows
    work = Work(spec, rows, row, 1.0, remat=config.execution.remat, tensor=mesh.tensor)
    own = rows // (mesh.data * mesh.fsdp) * row  # tokens of a device
    parameters = flops.matrix_parameters(spec, language_model=True) / mesh.tensor
    narrow = (spec.heads + 2 * spec.kv_heads) * spec.head_width / mesh.tensor
    inner = spec.feed_forward / mesh.tensor
    whole = 2 * (6 * spec.width + 3 * narrow + 4 * inner)  # bytes a token and layer
    kept = {
        "none": whole,
        "dots": 2 * (3 * spec.width + narrow + 2 * inner),
        "block": 2.0 * spec.width,
    }[config.execution.remat]
    memory = (
        14 * parameters / mesh.fsdp
        + 4 * parameters / spec.layers
        + own * (spec.layers * kept + 2 * whole)
        + own * 4 * 3 * 128  # logits, in whole tiles
    )
    rate = chip.link_rate * sum(roofline.links(topology, d) for d in range(len(topology.shape)))
    sent = (
        6 * parameters * (mesh.fsdp - 1) / mesh.fsdp
        + (8 * own * spec.width * spec.layers * 2) * (mesh.tensor - 1) / mesh.tensor
    )
    across = mesh.data // topology.slices
    sent += 4 * parameters / mesh.fsdp * (across - 1) / across
    compute = work.executed(chip.tile) / (len(topology.devices) * chip.flops)
    return Candidate(config, memory, max(compute, sent / rate if rate else 0.0))


def _mfu(candidate: Candidate, spec: GPTSpec, topology: Topology) -> float:
    c = candidate.config
    work = Work(spec, c.pretrain.batch_rows, c.corpus.row_length, 1.0, tensor=c.mesh.tensor)
    return roofline.mfu(work, topology, candidate.seconds)


def _pace(candidate: Candidate, spec: GPTSpec, topology: Topology) -> tuple[float, int, int]:
    """For sorting: the fastest first; of equally fast ones the smallest batch, the fewest axes."""
    mesh = candidate.config.mesh
    return (
        -round(_mfu(candidate, spec, topology), 2),
        candidate.config.pretrain.batch_rows,
        mesh.data * mesh.tensor,
    )
