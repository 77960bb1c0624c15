"""Is every exchange of a compiled program found, as often as it happens, with its bytes?"""

import dataclasses
import pathlib
from typing import Any

import pytest

from dnallm_jax.planning import collectives, hlo, traffic
from dnallm_jax.planning.collectives import DCN, ICI, Collective, Sum

# As the compiler of TPUs writes programs: eight devices of 4 x 2 chips, a loop of six turns that
# gathers weights (in pieces, beside other work) and scatters gradients, and one sum at the end.
TEXT = (pathlib.Path(__file__).parent / "exchanges.hlo").read_text()


@dataclasses.dataclass(frozen=True)
class Device:
    coords: tuple[int, int, int]
    slice_index: int = 0


DEVICES: Any = [Device((x, y, 0), s) for s in range(2) for x in range(4) for y in range(2)]


def test_exchanges_of_a_program() -> None:
    module = hlo.read(TEXT)
    assert module.times["body"] == 6
    assert not module.endless
    found = collectives.collectives(module, DEVICES, slices=2)
    weights = 64 * 8 * 2
    assert set(found) == {
        Collective("reduce-scatter", ICI, weights, 8, (0, 1), 6),
        Collective("all-gather", ICI, weights, 8, (0, 1), 6),
        Collective("collective-permute", ICI, 1024, 2, (1,), 1),
        Collective("all-reduce", ICI, 1024, 2, (0,), 1),  # devices 0 and 4: two columns apart
        Collective("all-reduce", DCN, 1024, 2, (), 1),
    }
    assert collectives.summed(found)[0] == Sum(ICI, "all-gather", 6, 6 * weights * 7 / 8, weights)
    assert collectives.sent(found, ICI) == 2 * 6 * weights * 7 / 8 + 1024 + 1024
    assert collectives.sent(found, DCN) == 1024


def test_planted_faults_are_seen() -> None:
    """A loop counted once, or a piece counted as a whole, would pass for a faster step."""
    once = collectives.collectives(hlo.read(TEXT.replace("constant(6)", "constant(1)")), DEVICES, 2)
    whole = collectives.collectives(hlo.read(TEXT), DEVICES, 2)
    assert collectives.sent(once, ICI) < collectives.sent(whole, ICI)
    pieces = collectives.collectives(hlo.read(TEXT.replace('chain_id="0"', "")), DEVICES, 2)
    assert len(pieces) == len(whole) + 1


def test_a_loop_of_unknown_length_is_told() -> None:
    module = hlo.read(TEXT.replace("direction=LT", "direction=NE"))
    assert module.endless == ("loop",)
    assert module.times["body"] == 1
    known = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"4"}}')
    assert hlo.read(known).times["body"] == 4


def test_groups_in_every_spelling() -> None:
    for written, group in (
        ("replica_groups={{0,2},{1,3}}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", list(range(8))),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, x={1}", [0, 1]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [0, 2, 4, 6]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", [3, 2]),
        ("replica_groups={}", list(range(8))),
    ):
        assert collectives._together(written, 8) == group
    with pytest.raises(ValueError, match="unknown way"):
        collectives._together("replica_groups=something", 8)


def test_memory_traffic_by_hand() -> None:
    # In each of six turns a layer's 128 bytes are read from the stack at a place of four, the 1,024
    # gathered are written, and read for their sum, of which the parts stay on the chip, as do the
    # parts that are gathered; 17 bytes are of the counter and its test.
    turns = 6 * (128 + 4 + 1024 + 1024 + 17)
    # Outside: the constant spread out, four arrays read and written, and one sent away.
    outside = (4 + 1024) + 4 * 2048 + 2 * 1024 + 4
    assert traffic.memory_traffic(hlo.read(TEXT)) == turns + outside
    whole = TEXT.replace("dynamic-slice(%stack", "reverse(%stack")  # read as a whole each turn
    assert traffic.memory_traffic(hlo.read(whole)) == turns + outside + 6 * (768 - 128)
