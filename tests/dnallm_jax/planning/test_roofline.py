"""Are the bounds of a step those counted by hand?"""

import dataclasses

import pytest

from dnallm_jax.model.gpt import GPTSpec
from dnallm_jax.planning import roofline
from dnallm_jax.planning.chips import CHIPS, DCN_BYTES_PER_SECOND
from dnallm_jax.planning.collectives import DCN, ICI, Collective
from dnallm_jax.planning.roofline import Work
from dnallm_jax.planning.topology import Topology

# Whole tiles of 128 everywhere but in the head.
SPEC = GPTSpec(
    vocab_size=6, width=256, layers=3, heads=2, kv_heads=1, head_width=128, feed_forward=512
)
WORK = Work(SPEC, rows=4, row_length=1024, bases_per_token=1.0)


def topology(generation: str, shape: tuple[int, ...], slices: int = 1) -> Topology:
    @dataclasses.dataclass
    class Device:
        process_index: int

    chip = CHIPS[generation]
    count = slices * chip.devices
    for size in shape:
        count *= size
    return Topology("x", chip, shape, slices, [Device(n // 4) for n in range(count)])  # type: ignore[misc]


def test_executed_is_the_formula_where_tiles_are_whole() -> None:
    block = 256 * 256 + 2 * 256 * 128 + 256 * 256 + 3 * 256 * 512
    attention = 4 * 2 * 128 * 512
    head = 2 * 256 * 6
    assert WORK.flops == 4096 * 3 * (3 * (2 * block + attention) + head)
    # The head fills a tile, and the scores are computed again: half a forward pass of attention.
    filled = 3 * 2 * 256 * 128
    assert WORK.executed(128) == 4096 * (3 * (3 * 2 * block + 3.5 * attention) + filled)
    once = dataclasses.replace(WORK, remat="block").executed(128) - WORK.executed(128)
    assert once == 4096 * 3 * (2 * block + attention)
    scores = dataclasses.replace(WORK, remat="dots").executed(128) - WORK.executed(128)
    assert scores == 4096 * 3 * attention
    # On tiles of 256 a head of 128 leaves half of the unit idle, in keys and in attention.
    wide = WORK.executed(256) - WORK.executed(128)
    assert wide == 4096 * (3 * (3 * 2 * 2 * 256 * 128 + 3.5 * attention) + filled)
    forward = dataclasses.replace(WORK, training=False)
    assert forward.flops * 3 == WORK.flops
    assert forward.executed(128) == 4096 * (3 * (2 * block + attention) + filled / 3)


def test_a_window_leaves_less_attention() -> None:
    windowed = dataclasses.replace(WORK, spec=dataclasses.replace(SPEC, window=128))
    fewer = 512 - (255 - 128 * 127 / 1024) / 2  # of 512 tokens seen on average
    assert WORK.flops - windowed.flops == pytest.approx(4096 * 3 * 3 * 4 * 2 * 128 * fewer)
    busy = WORK.executed(128) - windowed.executed(128)
    assert busy == pytest.approx(4096 * 3 * 3.5 * 4 * 2 * 128 * fewer)


def test_splitting_heads_over_devices_may_empty_tiles() -> None:
    assert dataclasses.replace(WORK, tensor=2).executed(128) > WORK.executed(128)


@pytest.mark.parametrize(
    ("generation", "shape", "dimension", "links"),
    [
        ("v5e", (2, 4), 0, 1),
        ("v5e", (2, 4), 1, 1),
        ("v5e", (16, 16), 0, 2),
        ("v5p", (4, 4, 8), 2, 2),
        ("v5p", (2, 2, 1), 2, 0),
        ("v6e", (8, 16), 0, 1),
    ],
)
def test_links(generation: str, shape: tuple[int, ...], dimension: int, links: int) -> None:
    assert roofline.links(topology(generation, shape), dimension) == links


def test_networks() -> None:
    where = topology("v5p", (4, 4, 4))
    over_all = Collective("all-gather", ICI, 64e6, 64, (0, 1, 2), 10)
    assert over_all.sent == 10 * 63e6
    assert roofline.ici_seconds([over_all], where) == pytest.approx(630e6 / (6 * 90e9))
    # Along one dimension two links carry all; along another, at the same time, others do.
    along = [Collective("all-reduce", ICI, 4e6, 4, (d,), 1) for d in (0, 1)]
    assert roofline.ici_seconds(along, where) == pytest.approx(6e6 / (2 * 90e9))
    inside = Collective("all-reduce", ICI, 4e6, 2, (), 1)  # of one chip
    assert roofline.ici_seconds([inside], where) == 0
    two = topology("v5p", (4, 4, 4), slices=2)
    across = Collective("all-reduce", DCN, 8e6, 2, (), 3)
    bound = roofline.bound(WORK, two, traffic=2.46e9, exchanged=[over_all, across])
    assert bound.dcn == pytest.approx(4 * 3 * 8e6 / DCN_BYTES_PER_SECOND)  # four chips a host
    assert bound.memory == pytest.approx(1e-3)
    assert bound.by == "dcn"
    assert bound.seconds == bound.dcn
    assert bound.in_turn == pytest.approx(bound.compute + 1e-3 + bound.ici + bound.dcn)


def test_mfu_of_a_step_that_only_computes_is_what_is_not_done_twice() -> None:
    where = topology("v5e", (2, 2))
    bound = roofline.bound(WORK, where, traffic=0, exchanged=[])
    share = roofline.mfu(WORK, where, bound.seconds)
    assert share == pytest.approx(WORK.flops / WORK.executed(128))
