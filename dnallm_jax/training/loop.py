"""What does training do, step by step? One loop for pre-training and fine-tuning, on one screen."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from data_pipeline.errors import UserError
from dnallm_jax.training.objectives import Batch, Sums
from dnallm_jax.training.step import TrainState
from dnallm_jax.training.telemetry import Telemetry, clock, si


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and how often to do what (in steps; all multiples of `log_every`)."""

    steps: int
    log_every: int
    eval_every: int
    save_every: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a second of this run is worth, for the progress line."""

    bases_per_token: float
    flops_per_token: float
    peak_flops: float


def train(
    state: TrainState,
    *,
    start: int,
    plan: Plan,
    speed: Speed,
    batches: Iterator[Batch],
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]],
    summarise: Callable[[Mapping[str, float]], dict[str, float]],
    headline: Callable[[Mapping[str, float]], str],
    evaluate: Callable[[TrainState], dict[str, float]],
    save: Callable[[int, TrainState, dict[str, float]], None],
    name_records: Callable[[int], str],
    telemetry: Telemetry,
) -> TrainState:
    """Runs steps `start + 1 .. plan.steps` and returns the last state.

    Sums of a step are fetched only after the next step was dispatched, so the device never waits
    for the host.

    Args:
      start: the step that `state` is at; `batches` goes on with the batch of the next one.
      summarise: the sums of some steps, added up -> their metrics.
      headline: metrics -> the words of the progress line.
      evaluate: the state's metrics on other data; none if there is no such data.
      save: called with the step, its state and what `evaluate` said of this very state (nothing if
        it was not asked).
      name_records: names the records of a step's batch, when its loss is not finite.

    Raises:
      UserError: a loss or gradient that is not finite; nothing is saved after it.
    """
    waiting: list[Sums] = []
    tick = time.perf_counter()

    def report(step: int) -> None:
        nonlocal tick
        fetched = jax.device_get(waiting)
        seconds = (time.perf_counter() - tick) / len(waiting)
        # The first of them: what a bad step leaves behind makes those after it bad as well.
        for past, sums in enumerate(fetched, start=step - len(fetched) + 1):
            if not math.isfinite(sums["loss"]) or not math.isfinite(sums["gradient_norm"]):
                raise UserError(
                    f"the loss of step {past} is not a number (gradient norm "
                    f"{sums['gradient_norm']:.3g}); its batch holds {name_records(past)}. "
                    "Lower the learning rate, or look at these records; the last checkpoint is "
                    "untouched"
                )
        total = {key: sum(float(s[key]) for s in fetched) for key in fetched[0]}
        metrics = {**summarise(total), "gradient_norm": total["gradient_norm"] / len(fetched)}
        tokens = total["tokens"] / len(fetched) / seconds
        mfu = tokens * speed.flops_per_token / speed.peak_flops
        telemetry.metrics(step, metrics)
        telemetry.speed(
            step, {"seconds_per_step": seconds, "tokens_per_second": tokens, "mfu": mfu}
        )
        telemetry.say(
            f"step {step:>6}/{plan.steps}  {headline(metrics)}  "
            f"{si(tokens * speed.bases_per_token)}bases/s  MFU {mfu:.1%}  "
            f"{clock((plan.steps - step) * seconds)} left"
        )
        waiting.clear()
        tick = time.perf_counter()

    with jax.transfer_guard("disallow"):
        for step in range(start + 1, plan.steps + 1):
            state, sums = train_step(state, next(batches))
            if len(waiting) == plan.log_every:
                report(step - 1)
            waiting.append(sums)
            last = step == plan.steps
            due_evaluation = step % plan.eval_every == 0 or last
            due_save = step % plan.save_every == 0 or last
            if due_evaluation or due_save:
                report(step)
            evaluation = evaluate(state) if due_evaluation else {}
            if evaluation:
                telemetry.metrics(step, evaluation)
                telemetry.say(f"step {step:>6}/{plan.steps}  validation: {_words(evaluation)}")
            if due_save:
                save(step, state, evaluation)
            if due_evaluation or due_save:
                tick = time.perf_counter()
    return state


def _words(metrics: Mapping[str, Any]) -> str:
    return "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items())
