"""Is the best state saved, and does a run end when validation stops getting better?"""

import pathlib

import jax
import pytest

from dnallm_jax.training.loop import Plan
from tests.dnallm_jax.training.test_loop import Run, State


def with_values(folder: pathlib.Path, values: list[float], patience: int, start: int = 0) -> Run:
    """A run whose evaluations, every 2 steps, give these values."""

    class Valued(Run):
        def evaluate(self, state: State) -> dict[str, float]:
            super().evaluate(state)
            return {"precision": values[start // 2 + self.events.count("evaluate") - 1]}

    plan = Plan(14, 2, 2, 8, select="precision", patience=patience)
    return Valued(folder, plan)


def test_the_best_state_is_saved_whenever_it_comes(tmp_path: pathlib.Path) -> None:
    run = with_values(tmp_path, [0.5, 0.7, 0.6, 0.7, 0.8, 0.1, 0.2], patience=0)
    run()
    assert sorted(run.saved) == [2, 4, 8, 10, 14]
    assert run.saved[14][2].evaluations[3:5] == ((8, 0.7), (10, 0.8))


def test_patience_ends_a_run_and_holds_after_a_resume(tmp_path: pathlib.Path) -> None:
    values = [0.5, 0.7, 0.7, 0.6, 0.9, 0.1, 0.2]
    run = with_values(tmp_path / "whole", values, patience=2)
    lines = run()
    assert max(run.saved) == 8, "an equal one is no better"
    seen: list[tuple[int, float]] = []
    for step in (4, 8):
        state, _, progress = run.saved[step]
        again = with_values(tmp_path / "whole", values, patience=2, start=step)
        again.start, again.state = progress, jax.device_put(state)
        again.on_evaluation = lambda *evaluation: seen.append(evaluation)
        assert again() == lines
        assert again.saved.keys() == ({8} if step == 4 else set())
    assert seen == [(2, 0.5), (4, 0.7), (6, 0.7), (8, 0.6)] * 2
    longer = with_values(tmp_path / "more", values, patience=3)
    longer()
    assert max(longer.saved) == 14


def test_a_watcher_may_end_a_run(tmp_path: pathlib.Path) -> None:
    def watch(step: int, value: float) -> None:
        if step == 6:
            raise KeyError(value)

    run = with_values(tmp_path, [0.5, 0.4, 0.3, 0.2], patience=0)
    run.on_evaluation = watch
    with pytest.raises(KeyError, match=r"0\.3"):
        run()
    assert run.events.count("step") == 6
