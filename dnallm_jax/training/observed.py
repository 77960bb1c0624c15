"""What did the command line say about watching this run? Read before JAX is loaded."""

import dataclasses
import re
from collections.abc import Sequence

from data_pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class Observed:
    """What a command knows of its start, and of what shall be looked at."""

    begun: float | None = None  # `time.perf_counter()`, from which on time is the run's; None: now
    changes: Sequence[str] = ()  # what the command line changed in the recipe
    profile: tuple[int, int] | None = None  # the first and the last step of a profile


NOTHING = Observed()


def profiled_steps(text: str) -> tuple[int, int] | None:
    """ "10:15" -> the steps 10 to 15, both included; "" -> none; UserError for anything else."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"--profile={text} is not FIRST:LAST, the numbers of two steps, for example 10:15"
        )
    return int(found[1]), int(found[2])
