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
from dnallm_jax.planning.chips import DCN_BYTES_PER_SECOND, GIB
from dnallm_jax.planning.roofline import Bound, Work
from dnallm_jax.planning.topology import Topology

_ROWS = (1, 2, 4, 8, 16, 32, 64)  # worked on at once by each group of devices that shares a row
_WORTH = 0.02  # MFU by which an estimate must exceed what was found, to be compiled
_ROOM = 0.92  # of a device's memory: what the estimate may reach
# The policies tried, and how often a step of each reads or writes what a layer computes of a token:
# as in programs that were compiled for presets, like the factors of memory in `estimate`.
_PASSES = {"none": 12, "dots": 8, "block": 8}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run the step, and what formulas say of it."""

    config: Config
    work: Work
    memory: float  # bytes of a device
    bound: Bound

    @property
    def overrides(self) -> list[str]:
        """The flags that choose it."""
        mesh, training = self.config.mesh, self.config.pretrain
        return [
            *(f"--config.mesh.{axis}={size}" for axis, size in vars(mesh).items() if size != 1),
            *(["--config.mesh.fsdp=1"] if mesh.fsdp == 1 else []),
            f"--config.pretrain.batch_rows={training.batch_rows}",
            f"--config.pretrain.accumulate={training.accumulate}",
            f"--config.execution.remat={self.config.execution.remat}",
        ]


@dataclasses.dataclass(frozen=True)
class Found:
    """The best that was compiled and fits; else the last that was tried."""

    overrides: list[str]
    verdict: trial.Verdict


def best(
    config: Config,
    spec: GPTSpec,
    topology: Topology,
    build: Callable[[Config], trial.Step],
    *,
    compiles: int,
    say: Callable[[str], None],
) -> Found:
    """The candidate with the best bound among those that are compiled and fit.

    Of each mesh the most promising candidate is compiled, or the next one where that does not fit,
    until none promises more than what was found.

    Args:
      build: the step of a config on the topology.
      compiles: at most so many steps are compiled; 1 or more.
    """

    def pace(candidate: Candidate) -> tuple[float, ...]:
        """The higher the better; of about equals the batch most like the one asked for."""
        rows, asked = candidate.config.pretrain.batch_rows, config.pretrain.batch_rows
        at_most, at_least = _speed(candidate.work, topology, candidate.bound)
        return (
            round(20 * at_most),
            -max(rows / asked, asked / rows),
            at_least,
            -candidate.config.pretrain.accumulate,
        )

    ranked = sorted(candidates(config, spec, topology), key=pace, reverse=True)
    if not ranked:
        raise UserError(
            f"mesh.sequence = {config.mesh.sequence} does not divide both the "
            f"{len(topology.devices) // topology.slices} devices of a slice and the {spec.heads} "
            "heads of the model; set --config.mesh.sequence to a number that does"
        )
    promising = [c for c in ranked if c.memory < _ROOM * topology.chip.memory]
    say(
        f"search      {len(ranked)} ways, of which {len(promising)} should fit; compiling at most "
        f"{compiles}, minutes each"
    )
    if not promising:
        raise UserError(
            f"{config.name} fits {topology} in no way that was tried: the least would be "
            f"{min(c.memory for c in ranked) / GIB:.1f} GiB of a device; name a larger --topology"
        )
    found: Found | None = None
    for number in range(1, compiles + 1):
        if found:
            more = found.verdict.mfu + _WORTH
            promising = [c for c in promising if _speed(c.work, topology, c.bound)[0] >= more]
        if not promising:
            say("            nothing that is left promises more")
            break
        candidate = promising.pop(0)
        say(f"{f'{number} of {compiles}':<12}{' '.join(candidate.overrides)}")
        estimate = _told(candidate.work, topology, candidate.bound, candidate.memory)
        say(f"            estimate: {estimate}")
        verdict = trial.assess(build(candidate.config), topology)
        if verdict.bound:
            told = _told(verdict.step.work, topology, verdict.bound, verdict.peak)
            promising = [c for c in promising if c.config.mesh != candidate.config.mesh]
        else:  # nor will what is estimated to want about as much
            told = f"does not fit: it wants {verdict.peak / GIB:.1f} GiB"
            promising = [c for c in promising if c.memory < 0.9 * candidate.memory]
        say(f"            compiled in {verdict.seconds:.0f} s: {told}")
        if found is None or _better(verdict, found.verdict):
            found = Found(candidate.overrides, verdict)
    assert found
    return found


def _speed(work: Work, topology: Topology, bound: Bound) -> tuple[float, float]:
    """MFU at the bound, and if nothing overlapped: of ways with the same bound the latter decides.

    In whole percent: less is within the error of either.
    """
    at_most, at_least = (
        roofline.mfu(work, topology, seconds) for seconds in (bound.seconds, bound.in_turn)
    )
    return round(at_most, 2), round(at_least, 2)


def _better(one: trial.Verdict, other: trial.Verdict) -> bool:
    if not (one.bound and other.bound):
        return one.bound is not None
    first, second = (_speed(v.step.work, v.topology, v.bound) for v in (one, other) if v.bound)
    return first > second


def _told(work: Work, topology: Topology, bound: Bound, memory: float) -> str:
    at_most, at_least = _speed(work, topology, bound)
    return (
        f"at most {at_most:.0%} MFU ({at_least:.0%} if nothing overlapped), "
        f"{memory / GIB:.1f} GiB of a device"
    )


def candidates(config: Config, spec: GPTSpec, topology: Topology) -> Iterator[Candidate]:
    """Every mesh that divides the network, with every number of rows at once and remat policy.

    The batch stays what it is, and is worked on in parts (accumulate), where so many rows at once
    divide it; else it becomes so many rows.
    """
    asked = config.pretrain.batch_rows
    for mesh in meshes(spec, topology, config.mesh.sequence):
        for remat, each in itertools.product(_PASSES, _ROWS):
            rows = each * mesh.data * mesh.fsdp
            batch = rows if asked % rows else asked
            tried = dataclasses.replace(
                config,
                mesh=mesh,
                execution=dataclasses.replace(config.execution, remat=remat),
                pretrain=dataclasses.replace(
                    config.pretrain, batch_rows=batch, accumulate=batch // rows
                ),
            )
            yield estimate(tried, spec, topology)


def meshes(spec: GPTSpec, topology: Topology, sequence: int = 1) -> Iterator[Mesh]:
    """data x fsdp x tensor: slices along data, heads and width divided evenly; rows as asked."""
    slice_devices = len(topology.devices) // topology.slices
    if sequence < 1 or slice_devices % sequence:
        return
    devices = slice_devices // sequence
    for fsdp, tensor in itertools.product(_divisors(devices), repeat=2):
        if devices % (fsdp * tensor) or spec.width % fsdp or spec.heads % (tensor * sequence):
            continue
        if any(n % tensor for n in (spec.kv_heads, spec.feed_forward)):
            continue
        data = topology.slices * devices // (fsdp * tensor)
        yield Mesh(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)


def _divisors(number: int) -> Iterable[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


def estimate(config: Config, spec: GPTSpec, topology: Topology) -> Candidate:
    """Memory and bound of a step by formula, for a device.

    Memory: parameters and both moments in float32, gradients in bfloat16 (and their sum in float32,
    where there are parts), what each policy keeps of a layer (of all, some in float32), most of one
    layer's inner activations, and one layer's gathered weights twice. Exchanged, for each part of
    the batch: weights gathered twice and gradients scattered once (fsdp), gradients summed (data,
    sequence), activations summed four times a layer (tensor), queries, keys, values and results
    swapped, forwards, backwards and where they are computed again (sequence). Read and written:
    activations, gathered weights thrice, and the optimizer's state.
    """
    mesh, chip, training = config.mesh, topology.chip, config.pretrain
    row, parts, remat = config.corpus.row_length, training.accumulate, config.execution.remat
    work = Work(spec, training.batch_rows, row, 1.0, remat=remat, tensor=mesh.tensor)
    own = work.tokens / (mesh.data * mesh.fsdp * mesh.sequence)  # tokens of a device in a step
    parameters = flops.matrix_parameters(spec, language_model=True) / mesh.tensor
    narrow = (spec.heads + 2 * spec.kv_heads) * spec.head_width / mesh.tensor
    inner = spec.feed_forward / mesh.tensor
    whole = 2 * (6 * spec.width + 3 * narrow + 4 * inner)  # bytes a token and layer
    kept = {
        "none": 1.75 * whole,
        "dots": 2 * (3 * spec.width + narrow + 2 * inner),
        "block": 2.0 * spec.width,
    }[remat]
    memory = (
        (14 if parts == 1 else 18) * parameters / mesh.fsdp
        + 4 * parameters / spec.layers
        + own / parts * (spec.layers * kept + 0.8 * whole)
        + own / parts * 4 * 3 * 128  # logits, in whole tiles
    )

    def among(devices: int) -> float:
        return (devices - 1) / devices

    links = sum(roofline.links(topology, d) for d in range(len(topology.shape)))
    swapped = 2 * (spec.heads + max(spec.kv_heads, mesh.sequence)) * spec.head_width / mesh.tensor
    copies = mesh.data // topology.slices * mesh.sequence  # of parameters within a slice
    summed = 4 * parts * parameters / mesh.fsdp  # bytes of gradients, for their sum
    sent = (
        6 * parts * parameters * among(mesh.fsdp)
        + summed * among(copies)
        + 16 * own * spec.width * spec.layers * among(mesh.tensor)
        + (4 if remat == "none" else 6) * own * spec.layers * swapped * among(mesh.sequence)
    )  # fmt: skip
    # Between slices each device sends its part of what the copies within one have summed.
    across = summed / copies * among(topology.slices) * len(topology.devices) / topology.hosts
    traffic = (
        _PASSES[remat] * own * spec.layers * whole
        + 12 * parts * parameters
        + 28 * parameters / mesh.fsdp
    )  # fmt: skip
    return Candidate(
        config,
        work,
        memory,
        Bound(
            compute=work.executed(chip.tile) / (len(topology.devices) * chip.flops),
            memory=traffic / chip.memory_rate,
            ici=sent / (links * chip.link_rate) if links else 0.0,
            dcn=across / DCN_BYTES_PER_SECOND,
        ),
    )
