"""Where does a run go on: after a kill, a stop, or a step whose loss was bad?"""

import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from data_pipeline.errors import UserError
from dnallm_jax.parallel import hosts
from dnallm_jax.training.checkpoints import Checkpoints, abstract
from dnallm_jax.training.guard import BadStep
from dnallm_jax.training.loop import Progress
from dnallm_jax.training.manifest import write_json
from dnallm_jax.training.step import TrainState
from dnallm_jax.training.telemetry import Telemetry

_LEFT_OUT = "left_out.json"
# A run that leaves out more steps than this has another trouble than a few bad records.
_MOST = 10


class Diverged(UserError):
    """A run whose loss was bad, and which could not go on."""


def as_json(progress: Progress) -> dict[str, Any]:
    """What a checkpoint's manifest says of the progress; the step is there already."""
    return {
        "sums": list(progress.sums),
        "recent": list(progress.recent),
        "evaluations": [list(seen) for seen in progress.evaluations],
        "unevaluated": progress.unevaluated,
    }


def progress_of(manifest: Mapping[str, Any]) -> Progress:
    """The progress of a checkpoint."""
    found = manifest.get("progress", {})
    evaluations = ((int(step), float(value)) for step, value in found.get("evaluations", ()))
    return Progress(
        manifest["step"],
        tuple(found.get("sums", ())),
        tuple(found.get("recent", ())),
        tuple(evaluations),
        bool(found.get("unevaluated")),
    )


def left_out(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The steps that a run leaves out, each with its reason and the records of its batch."""
    path = folder / _LEFT_OUT
    return json.loads(path.read_text())["steps"] if path.exists() else []


def run_through(
    run: Callable[[TrainState, Progress, Collection[int]], TrainState],
    state: TrainState,
    progress: Progress,
    *,
    folder: pathlib.Path,
    on_bad_step: str,
    records: Callable[[int], Sequence[str]],
    checkpoints: Checkpoints,
    telemetry: Telemetry,
) -> TrainState:
    """Calls `run` until no step is bad, and reads its last state back from disk.

    Args:
      run: (state, progress, steps to leave out) -> the last state; may raise BadStep.
      on_bad_step: "leave_out": go back to the last checkpoint and go on without the step, which is
        noted in left_out.json; anything else: stop.
      records: the ids of the records in a step's batch.

    Raises:
      Diverged: a bad step that is not left out, too many that are, or no checkpoint to go back to.
    """
    layout = abstract(state)
    while True:
        steps = hosts.from_main(lambda: [bad["step"] for bad in left_out(folder)])
        try:
            return run(state, progress, frozenset(steps))
        except BadStep as error:
            bad, ids = error, records(error.step)
        told = f"{bad.why}; its batch holds records {', '.join(ids[:8])}"
        told += f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        if on_bad_step != "leave_out":
            raise Diverged(
                f"{told}. Lower the learning rate, or look at these records; the last checkpoint "
                "is untouched"
            )
        restored = checkpoints.restore(layout)
        if restored is None:
            raise Diverged(f"{told}. There is no checkpoint yet to go back to")
        if len(steps) == _MOST:
            raise Diverged(
                f"{told}. {_MOST} steps were left out before ({folder / _LEFT_OUT}): lower the "
                "learning rate"
            )
        state, manifest = restored
        progress = progress_of(manifest)
        telemetry.go_back(progress.told)
        telemetry.say(f"left out    {told}; going on from step {progress.step}")
        if hosts.is_main():
            entry = {"step": bad.step, "why": bad.why, "records": list(ids)}
            write_json(folder / _LEFT_OUT, {"steps": [*left_out(folder), entry]})
