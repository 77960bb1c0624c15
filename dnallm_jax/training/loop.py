"""What does training do, step by step? One loop for pre-training and fine-tuning, on one screen."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any

import jax

from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.training.guard import Guard
from dnallm_jax.training.objectives import Batch, Sums
from dnallm_jax.training.patience import exhausted, since_best
from dnallm_jax.training.speed import Speed
from dnallm_jax.training.step import TrainState
from dnallm_jax.training.telemetry import Telemetry


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and how often to do what (in steps)."""

    steps: int
    log_every: int
    eval_every: int
    save_every: int
    spike: float = 0.0  # see `guard.Guard`
    select: str = ""  # a metric of `evaluate`: a state that has more of it than any before is saved
    patience: int = 0  # so many evaluations without a better one end the training; 0: none do


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: what a checkpoint keeps beside the arrays, to go on exactly there."""

    step: int = 0
    sums: tuple[Mapping[str, float], ...] = ()  # of the steps since the last line of metrics
    recent: tuple[float, ...] = ()  # losses of the last steps, for the guard
    evaluations: tuple[tuple[int, float], ...] = ()  # (step, what `Plan.select` names)
    unevaluated: bool = False  # asked to stop when an evaluation was due: the next start makes it

    @property
    def told(self) -> int:
        """The last step of which all has been said."""
        return self.step - self.unevaluated


def train(
    state: TrainState,
    progress: Progress,
    *,
    plan: Plan,
    speed: Speed,
    batches: Generator[Batch],
    left_out: Collection[int],
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]],
    summarise: Callable[[Mapping[str, float]], dict[str, float]],
    headline: Callable[[Mapping[str, float]], str],
    evaluate: Callable[[TrainState], dict[str, float]],
    save: Callable[[Progress, TrainState, dict[str, float]], None],
    asked_to_stop: Callable[[int], bool],
    telemetry: Telemetry,
    on_evaluation: Callable[[int, float], None] | None = None,
) -> TrainState:
    """Runs the steps from `progress.step` + 1 to `plan.steps` and returns the last state.

    It ends sooner where patience does.

    Sums of a step are fetched only after the next step was dispatched, so the device never waits
    for the host.

    Args:
      batches: goes on with the batch of step `progress.step` + 1; closed in the end.
      left_out: steps that change nothing.
      summarise: the sums of some steps, added up -> their metrics.
      headline: metrics -> the words of the progress line.
      evaluate: the state's metrics on other data; none if there is no such data.
      save: called with what `evaluate` said of this very state (nothing if it was not asked).
      asked_to_stop: whether to save and end after this step.
      on_evaluation: told of the step and the value of each evaluation, those before `progress` too;
        it may end the run by an exception of its own.

    Raises:
      BadStep: a loss or gradient that is not finite, or a spike; nothing is saved after it.
      SystemExit: asked to stop, and saved.
    """
    guard = Guard(plan.spike, progress.recent)
    fetched, waiting = list(progress.sums), list[tuple[int, Sums]]()
    watch, evaluations = telemetry.watch, list(progress.evaluations)
    for seen in evaluations:
        if on_evaluation:
            on_evaluation(*seen)
    watch.lap()

    def fetch() -> None:
        with watch.phase("step"):
            found = jax.device_get(waiting)
        for number, sums in found:
            guard.check(number, sums)
            fetched.append({key: float(value) for key, value in sums.items()})
        waiting.clear()

    def report(step: int) -> None:
        steps = max(len(waiting), 1)  # those of this process: only they were timed
        fetch()
        if fetched:
            total = {key: sum(sums[key] for sums in fetched) for key in fetched[0]}
            skipped, words = int(total.pop("skipped", 0)), []
            metrics: dict[str, float] = {"skipped_steps": skipped} if skipped else {}
            if counted := len(fetched) - skipped:
                metrics |= {**summarise(total), "gradient_norm": total["gradient_norm"] / counted}
                words.append(headline(metrics))
            words += [f"skipped {skipped}"] if skipped else []
            telemetry.metrics(step, metrics)
            telemetry.progress(
                *(step, plan.steps, "  ".join(words)),
                *(speed, total["tokens"] / len(fetched), steps),
            )
            fetched.clear()

    with contextlib.closing(batches), jax.transfer_guard("disallow"):
        for step in range(progress.told + 1, plan.steps + 1):
            if exhausted(evaluations, plan.patience):
                break
            if step > progress.step:
                telemetry.profile.at(step, state)
                with watch.phase("input"):
                    batch, sums = next(batches), None
                if step not in left_out:
                    with watch.phase("step"):
                        state, sums = train_step(state, batch)
                if (step - 1) % plan.log_every == 0:
                    report(step - 1)
                if sums is not None:
                    waiting.append((step, sums))
            last = step == plan.steps
            due_evaluation = step % plan.eval_every == 0 or last
            due_save = step % plan.save_every == 0 or last
            stop = asked_to_stop(step) and not last
            # An evaluation may last longer than there is time to save.
            put_off = stop and due_evaluation
            if not put_off and (
                due_evaluation or due_save or (stop and step % plan.log_every == 0)
            ):
                report(step)
            with watch.phase("evaluation"):
                evaluation = evaluate(state) if due_evaluation and not put_off else {}
            if evaluation:
                telemetry.metrics(step, evaluation)
                telemetry.say(f"step {step:>6}/{plan.steps}  validation: {_words(evaluation)}")
            if evaluation and plan.select:
                evaluations.append((step, evaluation[plan.select]))
                due_save |= since_best(evaluations) == 0
                if exhausted(evaluations, plan.patience):
                    due_save = True
                    telemetry.say(
                        f"step {step:>6}/{plan.steps}  ends: the last {plan.patience} evaluations "
                        "brought nothing better"
                    )
            if due_save or stop:
                fetch()
                with watch.phase("save"):
                    done = Progress(step, tuple(fetched), guard.recent, tuple(evaluations), put_off)
                    save(done, state, evaluation)
            if stop:
                telemetry.say(f"step {step:>6}/{plan.steps}  stopped: the same command goes on")
                raise SystemExit(STOPPED)
            if on_evaluation and evaluation and plan.select:
                on_evaluation(*evaluations[-1])
    return state


def _words(metrics: Mapping[str, Any]) -> str:
    words = []
    for key, value in metrics.items():
        name, _, part = key.partition("/")  # a part of what was said before
        words.append(f"{part or name.replace('_', ' ')} {value:.4f}")
    return "  ".join(words)
