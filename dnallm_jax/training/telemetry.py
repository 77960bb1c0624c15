"""How does a person see what a run is doing? A header, a line every few steps, files to plot."""

import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from tensorboardX import SummaryWriter

from data_pipeline.errors import UserError
from dnallm_jax.training import storage
from dnallm_jax.training.observed import NOTHING, Observed
from dnallm_jax.training.profiling import Profile
from dnallm_jax.training.speed import Speed, Stopwatch, memory
from dnallm_jax.training.units import clock, si

_NAMES = ("metrics", "speed")


class Telemetry:
    """Writes metrics.jsonl, speed.jsonl and TensorBoard files (process 0 only) and prints lines.

    metrics.jsonl holds only what the data, the config and the seed determine, so that a resumed
    run's file equals that of a run never stopped; times and memory lie in speed.jsonl. A restarted
    run first drops the lines of steps that it will do again, but for the time that they took. To a
    bucket, where nothing can be appended, files go whole: with each checkpoint, and at the end.

    Args:
      folder: made when missing.
      start_step: the step that the run goes on from; what earlier runs said of later ones goes.
      main: whether this process writes and prints; the others do neither.
      observed: what the command line said about watching this run.
    """

    def __init__(
        self, folder: pathlib.Path, *, start_step: int, main: bool, observed: Observed = NOTHING
    ) -> None:
        self._main = main
        self.watch = Stopwatch(observed.begun)
        self._staging = storage.Staging(folder)
        self._folder = self._staging.folder
        self.profile = Profile(
            self._folder / "profile", observed.profile, watch=self.watch, say=self.say
        )
        if not main:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._staging.bring(*(f"{name}.jsonl" for name in _NAMES))
        said = read_metrics(self._folder / "speed.jsonl")
        spent = max((line.get("run_seconds", 0.0) for line in said), default=0.0)
        starts = max((int(line.get("starts", 0)) for line in said), default=0)
        self._open(start_step)
        self.watch.go_on(spent, self._step_seconds, starts)
        self._total(start_step)  # lines that are dropped said how much time is gone

    def _open(self, step: int) -> None:
        self._files: dict[str, TextIO] = {}
        for name in _NAMES:
            path = self._folder / f"{name}.jsonl"
            kept = [line for line in read_metrics(path) if line["step"] <= step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.rename(path)
            self._files[name] = path.open("a")
        self._step_seconds = max((line.get("step_seconds", 0.0) for line in kept), default=0.0)
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def go_back(self, step: int) -> None:
        """Forgets what was said of later steps: the run does them again."""
        if self._main:
            self._close_files()
            self._open(step)
            self.watch.go_back(self._step_seconds)
            self._total(step)

    def keep(self) -> None:
        """What was written so far is kept when this returns, even if the machine goes down."""
        if self._main:
            for file in self._files.values():
                os.fsync(file.fileno())
            self._staging.send()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """What the step computed; the same in every run of the same config."""
        self._write("metrics", step, values)

    def speed(self, step: int, values: Mapping[str, float]) -> None:
        """How fast it was; never the same twice."""
        self._write("speed", step, values)

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if not self._main:
            return
        line = {"step": step, **{k: float(v) for k, v in values.items()}}
        self._files[name].write(json.dumps(line) + "\n")
        self._files[name].flush()
        for key, value in values.items():
            self._board.add_scalar(f"{name}/{key}", value, step)

    def say(self, lines: str | Iterable[str]) -> None:
        """Prints on standard error, from process 0."""
        if self._main:
            for line in [lines] if isinstance(lines, str) else lines:
                print(line, file=sys.stderr, flush=True)

    def progress(
        self, step: int, steps: int, headline: str, speed: Speed, tokens: float, count: int
    ) -> None:
        """A line: how fast the last `count` steps, of `tokens` each, were, and memory."""
        lap = self.watch.lap()
        rates, held = speed.rates(tokens, count, lap), memory()
        spent = {f"{name}_seconds_of_lap": seconds for name, seconds in lap.items()}
        self.speed(step, rates | held | spent | self.watch.totals())
        words = [
            f"step {step:>6}/{steps}  {headline}",
            f"{si(rates['bases_per_second'])}bases/s",
            f"MFU {rates['mfu']:.1%}",
            f"input {lap['input'] / max(lap['wall'], 1e-9):.0%}",
            *([f"HBM {si(held['device_bytes_peak'])}B"] if "device_bytes_peak" in held else []),
            f"host {si(held['host_bytes_peak'])}B",
            *([f"compiling {lap['compile']:.1f} s"] if lap["compile"] >= 0.1 else []),
            f"{clock((steps - step) * rates['seconds_per_step'])} left",
        ]
        self.say("  ".join(words))

    def _total(self, step: int) -> None:
        self.speed(step, self.watch.totals())

    def sum_up(self, step: int) -> None:
        """Says where the time of the whole run went."""
        self._total(step)
        self.say(self.watch.lines())

    def close(self) -> None:
        self.profile.close()
        self.watch.close()
        if self._main:
            self._close_files()
        self._staging.close()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._board.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut off is left out.

    Raises UserError when another line is broken.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or "step" not in line:
            raise UserError(
                f"{path}, line {number} is no line of metrics: the file was changed; restore it "
                "from a copy, or move it away"
            )
        lines.append(line)
    return lines
