"""How does a person see what a run is doing? A header, a line every few steps, files to plot."""

import json
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from tensorboardX import SummaryWriter

from data_pipeline.errors import UserError


class Telemetry:
    """Writes metrics.jsonl, speed.jsonl and TensorBoard files (process 0 only) and prints lines.

    metrics.jsonl holds only what the data, the config and the seed determine, so that a resumed
    run's file equals that of a run never stopped; times lie in speed.jsonl. A restarted run first
    drops the lines of steps that it will do again.

    Args:
      folder: made when missing.
      start_step: the step that the run goes on from; what earlier runs said of later ones goes.
      main: whether this process writes and prints; the others do neither.
    """

    def __init__(self, folder: pathlib.Path, *, start_step: int, main: bool) -> None:
        self._main = main
        if not main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._open(start_step)

    def _open(self, step: int) -> None:
        self._files: dict[str, TextIO] = {}
        for name in ("metrics", "speed"):
            path = self._folder / f"{name}.jsonl"
            kept = [line for line in read_metrics(path) if line["step"] <= step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.rename(path)
            self._files[name] = path.open("a")
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def go_back(self, step: int) -> None:
        """Forgets what was said of later steps: the run does them again."""
        if self._main:
            self.close()
            self._open(step)

    def keep(self) -> None:
        """What was written so far is on disk when this returns, even if the machine goes down."""
        if self._main:
            for file in self._files.values():
                os.fsync(file.fileno())

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

    def close(self) -> None:
        if self._main:
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


def si(value: float) -> str:
    """1234567 -> '1.23 M'."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g} "


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = math.ceil(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
