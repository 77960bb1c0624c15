"""How many bytes pass between a device and its memory in a step?

From the optimised program: what each instruction reads from HBM and writes to it, as often as it
runs. What is kept on the chip between two instructions costs nothing, of an array that is sliced
only the slice is read, and one that is updated in place is written only where it changes. A Pallas
kernel counts as reading each of its inputs once, so this is a lower bound.
"""

from dnallm_jax.planning import hlo

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("while", "conditional", "call", "opt-barrier", "partition-id", "replica-id", "domain"),
}
_SLICING = {"dynamic-slice", "slice", "gather"}


def memory_traffic(module: hlo.Module) -> float:
    """Bytes read and written by one device."""
    fused = {
        instruction.named("calls")
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode == "fusion"
    }
    total = 0.0
    for name, computation in module.computations.items():
        if not module.times[name] or name in fused:
            continue
        moved = sum(
            _moved(module, computation, instruction)
            for instruction in computation.instructions.values()
        )
        total += module.times[name] * moved
    return total


def _in_memory(instruction: hlo.Instruction) -> float:
    return sum(array.bytes for array in instruction.arrays if array.space == 0)


def _moved(module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    opcode, known = instruction.opcode, computation.instructions
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0.0
    operands = [_in_memory(known[name]) for name in instruction.operands if name in known]
    if opcode in _SLICING:
        return 2 * _in_memory(instruction) if operands[0] else 0.0
    if opcode == "dynamic-update-slice":
        return 2 * operands[1] if _in_memory(instruction) else 0.0
    if opcode in ("copy-start", "slice-start"):
        # (to, from, ...) of a copy, ((from), to, ...) of a slice: both ends are as large as `to`.
        ends = instruction.arrays[:2]
        to = ends[opcode == "slice-start"]
        return to.bytes * sum(array.space == 0 for array in ends)
    if opcode.endswith("-start"):
        return sum(operands)
    if opcode == "fusion":
        return _of_fusion(module.computations[instruction.named("calls")], instruction, operands)
    return sum(operands) + _in_memory(instruction)


def _of_fusion(
    inside: hlo.Computation, instruction: hlo.Instruction, operands: list[float]
) -> float:
    users: dict[str, list[hlo.Instruction]] = {}
    for user in inside.instructions.values():
        for name in user.operands:
            users.setdefault(name, []).append(user)

    def uses(name: str) -> list[hlo.Instruction]:
        """Who reads an array, seen through mere changes of its type's spelling."""
        found = []
        for user in users.get(name, []):
            found += uses(user.name) if user.opcode == "bitcast" else [user]
        return found

    total = 0.0
    parameters = [i for i in inside.instructions.values() if i.opcode == "parameter"]
    for parameter in parameters:
        size = operands[int(parameter.literal)] if int(parameter.literal) < len(operands) else 0.0
        readers = [user for user in uses(parameter.name) if user.opcode != "tuple"]
        if not size or not readers:
            continue
        partly = 0.0
        for user in readers:
            if user.opcode in _SLICING and _reads_first(inside, user, parameter):
                partly += user.bytes
            elif user.opcode == "dynamic-update-slice" and _reads_first(inside, user, parameter):
                continue  # changed in place
            else:
                partly = size
                break
        total += min(size, partly)
    root = inside.instructions[inside.root]
    results = (
        [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    written = [array.bytes if array.space == 0 else 0.0 for array in instruction.arrays]
    for result, size in zip(results, written, strict=False):
        while result.opcode == "bitcast":
            result = inside.instructions[result.operands[0]]
        if result.opcode == "parameter":
            continue
        if result.opcode == "dynamic-update-slice":
            size = min(size, inside.instructions[result.operands[1]].bytes)
        total += size
    return total


def _reads_first(
    inside: hlo.Computation, user: hlo.Instruction, parameter: hlo.Instruction
) -> bool:
    """Whether a parameter is what is sliced or updated, and not where or with what."""
    first = inside.instructions[user.operands[0]]
    while first.opcode == "bitcast":
        first = inside.instructions[first.operands[0]]
    return first.name == parameter.name
