"""What does training do, step by step? One loop for pre-training and fine-tuning, on one screen."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax

from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.training.guard import Guard
from dnallm_jax.training.objectives import Batch, Sums
from dnallm_jax.training.step import TrainState
from dnallm_jax.training.telemetry import Telemetry, clock, si


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and how often to do what (in steps)."""

    steps: int
    log_every: int
    eval_every: int
    save_every: int
    spike: float = 0.0  # see `guard.Guard`


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a second of this run is worth, for the progress line."""

    bases_per_token: float
    flops_per_token: float
    peak_flops: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: what a checkpoint keeps beside the arrays, to go on exactly there."""

    step: int = 0
    sums: tuple[Mapping[str, float], ...] = ()  # of the steps since the last line of metrics
    recent: tuple[float, ...] = ()  # losses of the last steps, for the guard


def train(
    state: TrainState,
    progress: Progress,
    *,
    plan: Plan,
    speed: Speed,
    batches: Iterator[Batch],
    left_out: Collection[int],
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]],
    summarise: Callable[[Mapping[str, float]], dict[str, float]],
    headline: Callable[[Mapping[str, float]], str],
    evaluate: Callable[[TrainState], dict[str, float]],
    save: Callable[[Progress, TrainState, dict[str, float]], None],
    asked_to_stop: Callable[[int], bool],
    telemetry: Telemetry,
) -> TrainState:
    """Runs the steps from `progress.step` + 1 to `plan.steps` and returns the last state.

    Sums of a step are fetched only after the next step was dispatched, so the device never waits
    for the host.

    Args:
      batches: goes on with the batch of step `progress.step` + 1.
      left_out: steps that change nothing.
      summarise: the sums of some steps, added up -> their metrics.
      headline: metrics -> the words of the progress line.
      evaluate: the state's metrics on other data; none if there is no such data.
      save: called with what `evaluate` said of this very state (nothing if it was not asked).
      asked_to_stop: whether to save and end after this step.

    Raises:
      BadStep: a loss or gradient that is not finite, or a spike; nothing is saved after it.
      SystemExit: asked to stop, and saved.
    """
    guard = Guard(plan.spike, progress.recent)
    fetched, waiting = list(progress.sums), list[tuple[int, Sums]]()
    tick = time.perf_counter()

    def fetch() -> None:
        for number, sums in jax.device_get(waiting):
            guard.check(number, sums)
            fetched.append({key: float(value) for key, value in sums.items()})
        waiting.clear()

    def report(step: int) -> None:
        nonlocal tick
        steps = max(len(waiting), 1)  # those of this process: only they were timed
        fetch()
        if fetched:
            seconds, tick = (time.perf_counter() - tick) / steps, time.perf_counter()
            total = {key: sum(sums[key] for sums in fetched) for key in fetched[0]}
            norm, tokens = (total[key] / len(fetched) for key in ("gradient_norm", "tokens"))
            metrics = {**summarise(total), "gradient_norm": norm}
            mfu = tokens / seconds * speed.flops_per_token / speed.peak_flops
            rate = {"seconds_per_step": seconds, "tokens_per_second": tokens / seconds, "mfu": mfu}
            telemetry.metrics(step, metrics)
            telemetry.speed(step, rate)
            telemetry.say(
                f"step {step:>6}/{plan.steps}  {headline(metrics)}  "
                f"{si(tokens / seconds * speed.bases_per_token)}bases/s  MFU {mfu:.1%}  "
                f"{clock((plan.steps - step) * seconds)} left"
            )
            fetched.clear()

    with jax.transfer_guard("disallow"):
        for step in range(progress.step + 1, plan.steps + 1):
            batch, sums = next(batches), None
            if step not in left_out:
                state, sums = train_step(state, batch)
            if (step - 1) % plan.log_every == 0:
                report(step - 1)
            if sums is not None:
                waiting.append((step, sums))
            last = step == plan.steps
            due_evaluation = step % plan.eval_every == 0 or last
            due_save = step % plan.save_every == 0 or last
            stop = asked_to_stop(step) and not last
            if due_evaluation or due_save or (stop and step % plan.log_every == 0):
                report(step)
            evaluation = evaluate(state) if due_evaluation else {}
            if evaluation:
                telemetry.metrics(step, evaluation)
                telemetry.say(f"step {step:>6}/{plan.steps}  validation: {_words(evaluation)}")
            if due_save or stop:
                fetch()
                save(Progress(step, tuple(fetched), guard.recent), state, evaluation)
            if stop:
                telemetry.say(f"step {step:>6}/{plan.steps}  stopped: the same command goes on")
                raise SystemExit(STOPPED)
            if due_evaluation or due_save:
                tick = time.perf_counter()
    return state


def _words(metrics: Mapping[str, Any]) -> str:
    return "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items())
