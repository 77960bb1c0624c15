"""Has validation stopped getting better?"""

from collections.abc import Sequence


def since_best(evaluations: Sequence[tuple[int, float]]) -> int:
    """How many of the evaluations (step, value; more is better) came after the first best one."""
    values = [value for _, value in evaluations]
    return len(values) - 1 - values.index(max(values)) if values else 0


def exhausted(evaluations: Sequence[tuple[int, float]], patience: int) -> bool:
    """Whether `patience` evaluations brought none that is better; never if it is 0."""
    return 0 < patience <= since_best(evaluations)
