"""How fast is a run, where does its time go, and what memory does it hold?"""

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dnallm_jax.training.units import clock

# What a run spends its time on: waiting for the next batch, steps (their dispatch, and the wait for
# their sums), validation, checkpoints, writing a profile, and compiling, wherever that happens.
PHASES = ("input", "step", "evaluation", "save", "profile", "compile")
_COMPILING = "/jax/core/compile/"  # begins the names of JAX's own measurements


class Stopwatch:
    """Where the time of a run went, in this process and, in sum, in all that worked on the run.

    Args:
      begun: the `time.perf_counter()` from which on time is the run's; None: now.
    """

    def __init__(self, begun: float | None = None) -> None:
        self._begun = time.perf_counter() if begun is None else begun
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._lap, self._spent_at_lap = self._begun, dict(self._spent)
        self._earlier, self._steps, self._starts = 0.0, 0.0, 1
        self._compilations: list[tuple[float, float]] = []  # (begun, seconds) of the outermost
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Tracing, lowering and compiling. JAX tells of what lies inside of another first."""
        if not event.startswith(_COMPILING):
            return
        begun = time.perf_counter() - duration_secs
        while self._compilations and self._compilations[-1][0] >= begun:
            self._spent["compile"] -= self._compilations.pop()[1]
        self._compilations.append((begun, duration_secs))
        self._spent["compile"] += duration_secs

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of a block, less what is compiled in it; a profile shows its name."""
        begun, compiled = time.perf_counter(), self._spent["compile"]
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            compiled = self._spent["compile"] - compiled
            self._spent[name] += max(0.0, time.perf_counter() - begun - compiled)

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last call, and of all that passed: `wall`."""
        now, before = time.perf_counter(), self._spent_at_lap
        lap = {name: self._spent[name] - before[name] for name in PHASES} | {
            "wall": now - self._lap
        }
        self._lap, self._spent_at_lap = now, dict(self._spent)
        return lap

    def go_on(self, run_seconds: float, step_seconds: float, starts: int) -> None:
        """Adds to the totals what `starts` earlier processes of the same run have spent."""
        self._earlier, self._starts = run_seconds, starts + 1
        self.go_back(step_seconds)

    def go_back(self, step_seconds: float) -> None:
        """The run goes back to where so much time had been spent in steps; the rest was in vain."""
        self._steps = step_seconds - self._spent["step"]

    def totals(self) -> dict[str, float]:
        """Of all processes together: `run_seconds`, those in steps that count, and their share.

        The time between the end of a process and the start of the next counts nothing, and so does
        what one that was killed did after its last line.
        """
        run = self._earlier + time.perf_counter() - self._begun
        steps = self._steps + self._spent["step"]
        return {
            "run_seconds": run,
            "step_seconds": steps,
            "goodput": steps / max(run, 1e-9),
            "starts": self._starts,
        }

    def lines(self) -> list[str]:
        """Where the time went, for a person."""
        wall = time.perf_counter() - self._begun
        shares = {name: seconds / wall for name, seconds in self._spent.items() if seconds}
        shares["start and all else"] = 1 - sum(shares.values())
        words = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        total = self.totals()
        of = clock(total["run_seconds"])
        often = "" if self._starts == 1 else f", of {self._starts} starts together,"
        return [
            f"time        {clock(wall)}: {words}",
            f"goodput     {total['goodput']:.1%} of {of}{often} went into steps that count",
        ]


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a token of this run is worth."""

    bases_per_token: float
    flops_per_token: float
    peak_flops: float

    def rates(self, tokens: float, steps: int, lap: Mapping[str, float]) -> dict[str, float]:
        """How fast the steps of a lap were; `tokens` are those of one step.

        Neither validation nor checkpoints nor compilation count, waiting for batches does.
        """
        others = sum(lap[name] for name in ("evaluation", "save", "profile", "compile"))
        seconds = max(lap["wall"] - others, 1e-9) / steps
        rate = tokens / seconds
        return {
            "seconds_per_step": seconds,
            "tokens_per_second": rate,
            "bases_per_second": rate * self.bases_per_token,
            "mfu": rate * self.flops_per_token / self.peak_flops,
        }


def memory() -> dict[str, float]:
    """Bytes: the most that this process held; what its fullest device holds, held at most, and has.

    Of a device only where JAX knows: not of a CPU.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    held = {"host_bytes_peak": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
    fullest: dict[str, Any] = max(
        (device.memory_stats() or {} for device in jax.local_devices()),
        key=lambda known: known.get("peak_bytes_in_use", 0),
    )
    for name, key in (
        ("device_bytes", "bytes_in_use"),
        ("device_bytes_peak", "peak_bytes_in_use"),
        ("device_bytes_limit", "bytes_limit"),
    ):
        if key in fullest:
            held[name] = float(fullest[key])
    return held
