"""Is a search bounded, ended early where it should be, and the same after any kill?"""

import builtins
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.config import Tune
from dnallm_jax.evaluation.search_page import write_page
from dnallm_jax.training import search, space
from dnallm_jax.training.search import Trial

pytest.importorskip("optuna", reason="tune's library is not installed")

SPACE = space.parse(
    ("finetune.optimizer.learning_rate = 1e-4 .. 1e-1 log", "finetune.pooling = mean | attention")
)
SETTINGS = Tune(trials=12, startup=4, seed=1)


class Killed(BaseException):
    """As if the process had been."""


@dataclasses.dataclass
class Trainer:
    """Trains nothing; the best learning rate is 0.01. Killed at its `kill_at`-th evaluation."""

    kill_at: int = 0
    evaluations: int = 0
    begun: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, trial: Trial, report: Callable[[int, float], None]) -> None:
        self.begun.append(trial.number)
        rate = float(trial.chosen["finetune.optimizer.learning_rate"])
        if trial.number == 7:
            raise UserError("a loss that is\tnot finite")
        best = 0.9 - 0.1 * abs(math.log10(rate) + 2)
        for step in (10, 20, 30):
            self.evaluations += 1
            if self.evaluations == self.kill_at:
                raise Killed
            report(step, best - 0.3 / step + 0.05 * (trial.chosen["finetune.pooling"] == "mean"))


def run(folder: pathlib.Path, settings: Tune = SETTINGS, kill_at: int = 0, **more: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(kill_at)
    search.search(folder, SPACE, settings, trainer, **more)
    return trainer


def without_times(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [{**trial.as_dict(), "seconds": 0} for trial in trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return search.read(folder)


def test_a_search_is_bounded_learns_and_ends_what_is_hopeless(whole: list[Trial]) -> None:
    states = [trial.state for trial in whole]
    assert len(whole) == 12
    assert states[:4] == ["complete"] * 4, "the first are not ended early"
    assert states[7] == "failed"
    assert states.count("pruned") >= 1
    ended = next(trial for trial in whole if trial.state == "pruned")
    assert ended.step is not None
    assert max(ended.values) < 30
    best = search.best(whole)
    assert best.value == max(trial.value or 0 for trial in whole)
    assert best.step == 30


@pytest.mark.parametrize("kill_at", [1, 5, 14])
def test_a_killed_search_goes_on_with_what_was_finished(
    whole: list[Trial], tmp_path: pathlib.Path, kill_at: int
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=kill_at)
    before = search.read(tmp_path)
    assert before[-1].state == "running"
    seen: list[int] = []
    again = run(tmp_path, after=lambda trials: seen.append(len(trials)))
    assert again.begun == list(range(before[-1].number, 12)), "finished trials are kept"
    assert without_times(search.read(tmp_path)) == without_times(whole)
    assert seen[-1] == 12
    assert run(tmp_path).begun == []


def test_planted_a_search_that_forgets_what_was_tried(
    whole: list[Trial], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose = search._propose
    monkeypatch.setattr(
        search, "_propose", lambda space, s, ended, chosen: propose(space, s, [], chosen)
    )
    run(tmp_path)
    assert without_times(search.read(tmp_path)) != without_times(whole)


def test_more_trials_go_on_and_hours_end(whole: list[Trial], tmp_path: pathlib.Path) -> None:
    run(tmp_path, dataclasses.replace(SETTINGS, trials=3))
    assert len(search.read(tmp_path)) == 3
    run(tmp_path, dataclasses.replace(SETTINGS, trials=8))
    assert without_times(search.read(tmp_path)) == without_times(whole[:8])
    run(tmp_path, dataclasses.replace(SETTINGS, trials=99, hours=1e-9))
    assert len(search.read(tmp_path)) == 8


def test_the_first_trial_is_the_recipe(tmp_path: pathlib.Path) -> None:
    first = {"finetune.optimizer.learning_rate": 0.0123, "finetune.pooling": "mean"}
    run(tmp_path, dataclasses.replace(SETTINGS, trials=2), first=first)
    trials = search.read(tmp_path)
    assert trials[0].chosen == first
    assert trials[1].chosen != first


def test_table_and_page(whole: list[Trial], tmp_path: pathlib.Path) -> None:
    lines = [line.split("\t") for line in search.table(whole, SPACE).splitlines()]
    assert {len(line) for line in lines} == {8}
    assert lines[0][5:] == ["finetune.optimizer.learning_rate", "finetune.pooling", "why"]
    assert lines[8][:5] == ["7", "failed", "", "", "0"]
    assert lines[8][-1] == "a loss that is not finite"
    rows = [trial.as_dict() for trial in whole]
    scales = {dimension.key: dimension.logarithmic for dimension in SPACE}
    write_page(tmp_path / "tune.html", "<tiny>", rows, scales)
    markup = (tmp_path / "tune.html").read_text()
    assert markup.count("<svg") == 4
    assert "<tiny>" not in markup
    assert f"Trial {search.best(whole).number} is the best of 12" in markup
    assert markup.count("<tr") == 13
    write_page(tmp_path / "one.html", "one", [{**rows[7]}], scales)
    assert "No trial has been completed yet." in (tmp_path / "one.html").read_text()


def test_mistakes_are_one_sentence(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Trial(0, {}, "failed", why="why not")
    with pytest.raises(UserError, match="no trial was completed: why not"):
        search.best([failed])
    (tmp_path / "search.json").write_text(json.dumps({"trials": [{"number": 1}]}))
    with pytest.raises(UserError, match=r"search.json is not what a search wrote .* delete"):
        search.read(tmp_path)
    own = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError(name)
        return own(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the package optuna.*-r requirements-tune\.txt"):
        search.library()
