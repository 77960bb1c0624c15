"""Which values of a config detect best? A bounded search by Optuna, trial after trial.

All that a search knows is in one file, written anew when a trial begins and when it ends. The next
trial is a pure function of that file: its values, and whether it is ended early, are those that a
search never stopped would have had.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from dnallm_jax.config import Tune
from dnallm_jax.training.manifest import write_json
from dnallm_jax.training.space import Dimension

if TYPE_CHECKING:
    import optuna

FILE = "search.json"
RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"


class Pruned(Exception):
    """A trial that is ended because those before it did better at the same step."""


@dataclasses.dataclass
class Trial:
    """What was tried, and what came of it."""

    number: int
    chosen: dict[str, str | float]  # key -> word or number, see `space.Dimension`
    state: str = RUNNING
    values: dict[int, float] = dataclasses.field(default_factory=dict)  # by step
    value: float | None = None  # the best of them
    step: int | None = None  # where it was
    seconds: float = 0.0  # of work, all starts together
    why: str = ""  # it failed

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Trial":
        by_step = {int(step): value for step, value in values["values"].items()}
        return cls(**{**values, "values": by_step})


Attempt = Callable[[Trial, Callable[[int, float], None]], None]


def library() -> Any:
    """Optuna; UserError where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(
            "tune needs the package optuna, which is not installed; "
            "pip install --require-hashes -r requirements-tune.txt"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def read(folder: pathlib.Path) -> list[Trial]:
    """The trials of a search so far; UserError for a file that is damaged."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [Trial.of(values) for values in json.loads(path.read_text())["trials"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what a search wrote ({error!r}); restore it, or delete the folder"
        ) from None


def search(
    folder: pathlib.Path,
    space: Sequence[Dimension],
    settings: Tune,
    attempt: Attempt,
    *,
    first: Mapping[str, str | float] | None = None,
    after: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Trials, until there are `settings.trials`, or they have taken `settings.hours` together.

    Args:
      folder: held by this search alone; the trial that was running there goes on first.
      attempt: (trial, report) -> trains it; calls `report(step, value)` at every evaluation, which
        may raise Pruned, and goes on, where it was begun before, from what it saved. May raise
        UserError: the trial has failed.
      first: what the first trial chooses.
      after: called with the trials that have ended, each time that one has, and at the start.
    """
    library()
    trials = read(folder)

    ended = [trial for trial in trials if trial.state != RUNNING]
    if ended:
        after(ended)  # the last search may have been killed before it came to that

    def save() -> None:
        write_json(folder / FILE, {"trials": [trial.as_dict() for trial in trials]})

    while True:
        if trials and trials[-1].state == RUNNING:
            trial, proposal = trials[-1], _propose(space, settings, trials[:-1], trials[-1].chosen)
        else:
            hours = sum(trial.seconds for trial in trials) / 3600
            if len(trials) >= settings.trials or 0 < settings.hours <= hours:
                return trials
            proposal = _propose(space, settings, trials, first if not trials else None)
            trial = Trial(len(trials), dict(proposal.params))
            trials.append(trial)
            save()
        _run(trial, proposal, attempt, save)
        save()
        after(trials)


def _run(
    trial: Trial, proposal: "optuna.Trial", attempt: Attempt, save: Callable[[], None]
) -> None:
    begun, before = time.perf_counter(), trial.seconds
    trial.values.clear()  # all of them are told again

    def report(step: int, value: float) -> None:
        if step in trial.values:
            return  # a run that went back a few steps
        trial.values[step] = value
        trial.seconds = before + time.perf_counter() - begun
        save()
        proposal.report(value, step)
        if proposal.should_prune():
            raise Pruned

    try:
        attempt(trial, report)
        trial.state = COMPLETE
    except Pruned:
        trial.state = PRUNED
    except UserError as error:
        trial.state, trial.why = FAILED, str(error)
    trial.seconds = before + time.perf_counter() - begun
    if trial.values:
        trial.step = max(trial.values, key=lambda step: (trial.values[step], -step))
        trial.value = trial.values[trial.step]


def _propose(
    space: Sequence[Dimension],
    settings: Tune,
    ended: Sequence[Trial],
    chosen: Mapping[str, str | float] | None,
) -> "optuna.Trial":
    """The trial after those that have ended, with these values or with Optuna's own."""
    optuna = library()
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=settings.startup, seed=settings.seed + len(ended)
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.startup),
    )
    distributions = {dimension.key: _distribution(dimension) for dimension in space}
    states = {
        COMPLETE: optuna.trial.TrialState.COMPLETE,
        PRUNED: optuna.trial.TrialState.PRUNED,
        FAILED: optuna.trial.TrialState.FAIL,
    }
    for trial in ended:
        failed = trial.state == FAILED
        study.add_trial(
            optuna.trial.create_trial(
                state=states[trial.state],
                value=None if failed else trial.value,
                params=trial.chosen,
                distributions=distributions,
                intermediate_values={} if failed else trial.values,
            )
        )
    if chosen is not None:
        study.enqueue_trial(dict(chosen))
    return study.ask(distributions)


def _distribution(dimension: Dimension) -> Any:
    distributions = library().distributions
    if dimension.words:
        return distributions.CategoricalDistribution(dimension.words)
    if dimension.whole:
        return distributions.IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.logarithmic
        )
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.logarithmic)


def best(trials: Sequence[Trial]) -> Trial:
    """The complete trial of the highest value; UserError where none is."""
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.value is not None]
    if not complete:
        reasons = [trial.why for trial in trials if trial.why]
        raise UserError(f"no trial was completed: {reasons[-1] if reasons else 'none was begun'}")
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))


def in_words(trial: Trial) -> str:
    """What a trial chooses: `learning_rate 0.001, pooling mean`."""
    words = (f"{key.rpartition('.')[2]} {_word(own)}" for key, own in trial.chosen.items())
    return ", ".join(words)


def outcome(trial: Trial) -> str:
    """What came of it."""
    if trial.value is None:
        return f"{trial.state}: {trial.why}"
    return f"{trial.state}, average precision {trial.value:.4f} at step {trial.step}"


def _word(chosen: str | float) -> str:
    return f"{chosen:.4g}" if isinstance(chosen, float) else str(chosen)


def table(trials: Sequence[Trial], space: Sequence[Dimension]) -> str:
    """A TSV: one row a trial, in order."""
    keys = [dimension.key for dimension in space]
    rows = [["trial", "state", "validation_average_precision", "step", "seconds", *keys, "why"]]
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.6f}"
        step = "" if trial.step is None else str(trial.step)
        own = [_word(trial.chosen[key]) for key in keys]
        seconds = f"{trial.seconds:.0f}"
        rows.append([str(trial.number), trial.state, value, step, seconds, *own, trial.why])
    return "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
