"""What does a compiled program consist of, and how often is each part of it run?

Reads the text of an optimised HLO module: computations of instructions, of which some call other
computations. The compiler's own analysis counts the body of a loop once; here it counts as often as
the loop turns.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2", "f8e8m0fnu"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 4),
    **dict.fromkeys(("s2", "u2"), 2),
    "c128": 128,
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_TRIPS = re.compile(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result; space 0 is HBM, the others lie on the chip."""

    bytes: float
    space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`%name = type opcode(operands), attributes`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str  # of a constant: what stands between its parentheses
    attributes: str

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """What it gives, array by array."""
        found = []
        for kind, dimensions, layout in _ARRAY.findall(self.type):
            size = math.prod(map(int, filter(None, dimensions.split(","))))
            space = _SPACE.search(layout)
            found.append(Array(size * _BITS.get(kind, 0) / 8, int(space[1]) if space else 0))
        return tuple(found)

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    def named(self, key: str) -> str:
        """The computation or number under an attribute; "" where there is none."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order; `root` is the one whose result it gives."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, each before those that call it; the last is run once a step.

    Attributes:
      times: how often a step runs each computation.
      endless: names of loops whose turns could not be told; they count once.
    """

    computations: Mapping[str, Computation]
    times: Mapping[str, int]
    endless: tuple[str, ...]


def read(text: str) -> Module:
    """The module of `compiled.as_text()`."""
    computations = {c.name: c for c in _computations(text)}
    times = dict.fromkeys(computations, 0)
    times[next(reversed(computations))] = 1
    endless = []
    for name in reversed(computations):
        for instruction in computations[name].instructions.values():
            turns = 1
            if instruction.opcode == "while":
                known = trips(computations, computations[name], instruction)
                turns = known or 1
                if known is None:
                    endless.append(instruction.name)
            for called in _called(instruction):
                times[called] += times[name] * turns
    return Module(computations, times, tuple(endless))


def _computations(text: str) -> Iterator[Computation]:
    name, root, instructions = "", "", dict[str, Instruction]()
    last: Computation | None = None  # the entry, wherever it stands
    entry = False
    for line in text.splitlines():
        if header := _HEADER.match(line):
            entry, name, instructions = bool(header[1]), header[2], {}
        elif line.startswith("}"):
            made = Computation(name, instructions, root)
            if entry:
                last = made
            else:
                yield made
        elif " = " in line and line.startswith("  "):
            instruction = _instruction(line)
            instructions[instruction.name] = instruction
            if line.startswith("  ROOT"):
                root = instruction.name
    assert last is not None, "a module without an entry"
    yield last


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().removeprefix("ROOT ").partition(" = ")
    # A tuple type holds blanks and parentheses: the opcode comes after its end.
    start = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    opcode = _OPCODE.match(right, start)
    assert opcode, line[:200]
    opened = opcode.end() - 1
    closed = _closing(right, opened)
    between = right[opened + 1 : closed]
    return Instruction(
        left.removeprefix("%"),
        right[:start],
        opcode[1],
        tuple(_NAME.findall(between)),
        between,
        right[closed + 1 :],
    )


def _closing(text: str, at: int) -> int:
    """Where the parenthesis closes that opens at `at`."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a parenthesis is never closed: {text[:200]}")


def _called(instruction: Instruction) -> list[str]:
    """Computations that it runs; those that only say how to combine two numbers are left out."""
    if instruction.opcode == "while":
        return [instruction.named("body"), instruction.named("condition")]
    if instruction.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        if branches:
            return _NAME.findall(branches[1])
        return [instruction.named(f"{which}_computation") for which in ("true", "false")]
    if instruction.opcode == "call":
        return [instruction.named("to_apply")]
    called = instruction.named("calls") or instruction.named("called_computation")
    if not called and instruction.opcode == "call-start":
        called = instruction.named("to_apply")
    return [called] if called else []


def trips(
    computations: Mapping[str, Computation], inside: Computation, loop: Instruction
) -> int | None:
    """How often a loop turns; None where that is not a constant of the program."""
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition = computations[loop.named("condition")]
    test = condition.instructions[condition.root]
    if test.opcode != "compare" or test.named("direction") != "LT":
        return None
    counter, limit = (condition.instructions[name] for name in test.operands)
    stop = _constant(limit)
    if counter.opcode != "get-tuple-element" or stop is None:
        return None
    start = 0
    carried = inside.instructions[loop.operands[0]]
    if carried.opcode == "tuple":
        first = inside.instructions[carried.operands[int(counter.named("index"))]]
        while first.opcode in ("copy", "bitcast"):
            first = inside.instructions[first.operands[0]]
        start = _constant(first) or 0
    return stop - start


def _constant(instruction: Instruction) -> int | None:
    if instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.literal):
        return None
    return int(instruction.literal)
