"""How long must a step take at least, and so how fast can it be at most?

Three things can hold a step up: arithmetic, memory, and the networks. Each alone takes at least the
time that its share of the step needs at its peak rate; the longest of them bounds the step from
below, as if the others were hidden behind it. Their sum is what it would take if nothing were.
"""

import dataclasses
from collections.abc import Sequence

from dnallm_jax.model.gpt import GPTSpec
from dnallm_jax.planning import flops
from dnallm_jax.planning.chips import DCN_BYTES_PER_SECOND
from dnallm_jax.planning.collectives import DCN, ICI, Collective
from dnallm_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step computes.

    Attributes:
      rows, row_length: of the global batch, in tokens.
      bases_per_token: of the record, which one or more passes over it cover.
      tensor: devices that share each matrix product.
    """

    spec: GPTSpec
    rows: int
    row_length: int
    bases_per_token: float
    causal: bool = True
    language_model: bool = True
    training: bool = True
    remat: str = "none"
    tensor: int = 1

    @property
    def tokens(self) -> int:
        return self.rows * self.row_length

    @property
    def bases(self) -> float:
        return self.tokens * self.bases_per_token

    @property
    def flops(self) -> float:
        """Of a step, by the formula of MFU: recomputation not counted."""
        return self.tokens * flops.flops_per_token(
            self.spec,
            self.row_length,
            causal=self.causal,
            language_model=self.language_model,
            training=self.training,
        )

    def executed(self, tile: int) -> float:
        """FLOPs that the matrix units are busy for: whole tiles, and what is computed again."""
        spec = self.spec

        def product(inputs: int, outputs: int) -> float:
            return 2.0 * _filled(inputs, tile) * _filled(outputs, tile)

        queries, keys = (n * spec.head_width // self.tensor for n in (spec.heads, spec.kv_heads))
        inner = spec.feed_forward // self.tensor
        block = self.tensor * (
            product(spec.width, queries)
            + 2 * product(spec.width, keys)
            + product(queries, spec.width)
            + 2 * product(spec.width, inner)
            + product(inner, spec.width)
        )
        context = flops.context(self.row_length, causal=self.causal, window=spec.window)
        attention = 4 * spec.heads * _filled(spec.head_width, tile) * context
        head = product(spec.width, spec.vocab_size) if self.language_model else 0.0
        if not self.training:
            return self.tokens * (spec.layers * (block + attention) + head)
        # The backward pass of attention has the scores computed again: 5 products for the 4 of the
        # formula, half of a forward pass more.
        again = {"block": block + attention, "none": 0.0}.get(self.remat, attention)
        layer = 3 * block + 3.5 * attention + again
        return self.tokens * (spec.layers * layer + 3 * head)


def _filled(size: int, tile: int) -> int:
    return -(-size // tile) * tile


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that a step takes at least, for each of the things that can hold it up."""

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def seconds(self) -> float:
        return max(dataclasses.astuple(self))

    @property
    def in_turn(self) -> float:
        """Seconds if nothing were done at the same time."""
        return sum(dataclasses.astuple(self))

    @property
    def by(self) -> str:
        """What holds the step up most."""
        return max(vars(self), key=lambda name: getattr(self, name))


def bound(
    work: Work, topology: Topology, *, traffic: float, exchanged: Sequence[Collective]
) -> Bound:
    """The bound of a step on a topology.

    Args:
      traffic: bytes between a device and its memory.
    """
    chip, devices = topology.chip, len(topology.devices)
    sent = sum(c.sent for c in exchanged if c.network == DCN)
    return Bound(
        compute=work.executed(chip.tile) / (devices * chip.flops),
        memory=traffic / chip.memory_rate,
        ici=ici_seconds(exchanged, topology),
        dcn=sent * devices / topology.hosts / DCN_BYTES_PER_SECOND,
    )


def ici_seconds(exchanged: Sequence[Collective], topology: Topology) -> float:
    """Of the busiest dimension of the torus, every exchange spread over all that it has."""
    busy = dict.fromkeys(range(len(topology.shape)), 0.0)
    for c in exchanged:
        own = [d for d in c.dimensions if d in busy]
        if c.network != ICI or not own:  # the two halves of a chip have a wider way
            continue
        share = c.sent / (sum(links(topology, d) for d in own) * topology.chip.link_rate)
        for dimension in own:
            busy[dimension] += share
    return max(busy.values())


def links(topology: Topology, dimension: int) -> int:
    """Links that the chip with the fewest has along a dimension: two of a ring, one of a line."""
    size = topology.shape[dimension]
    return 0 if size < 2 else 2 if size % topology.chip.wraps == 0 else 1


def mfu(work: Work, topology: Topology, seconds: float) -> float:
    """The share of the peak arithmetic, if a step takes so long."""
    return work.flops / (seconds * len(topology.devices) * topology.chip.flops)
