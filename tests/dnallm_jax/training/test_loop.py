"""Does the loop do each thing when it is due, say the same after a resume, and stop at a NaN?"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.training import loop
from dnallm_jax.training.guard import BadStep
from dnallm_jax.training.loop import Plan, Progress, train
from dnallm_jax.training.speed import Speed
from dnallm_jax.training.telemetry import Telemetry, read_metrics

State = dict[str, jax.Array]


@jax.jit
def train_step(state: State, batch: State) -> tuple[State, State]:
    """A running mean of the batches' numbers; its loss is as good a number as any."""
    moved = 0.9 * state["mean"] + 0.1 * batch["number"]
    sums = {
        "loss": jnp.abs(moved),
        "weight": jnp.float32(2),
        "tokens": jnp.float32(10),
        "gradient_norm": batch["norm"],
    }
    return {"mean": moved}, sums


def make_batch(number: int, /, **changed: float) -> dict[str, np.ndarray]:
    values = {"number": math.sin(number), "norm": 1 + number % 3} | changed
    return {key: np.float32(value) for key, value in values.items()}


def device_batches(start: int, /, **broken: dict[int, float]) -> Iterator[State]:
    number = start
    while True:
        changed = {key: steps[number] for key, steps in broken.items() if number in steps}
        yield jax.device_put(make_batch(number, **changed))
        number += 1


@dataclass
class Run:
    """One run of the loop, and what it asked for."""

    folder: pathlib.Path
    plan: Plan
    start: Progress = field(default_factory=Progress)
    state: State = field(default_factory=lambda: jax.device_put({"mean": np.float32(0)}))
    batches: Callable[[int], Iterator[Any]] = device_batches
    evaluates: bool = True
    left_out: Collection[int] = ()
    stop_at: int = 0
    on_evaluation: Callable[[int, float], None] | None = None
    events: list[str] = field(default_factory=list)
    saved: dict[int, tuple[State, dict[str, float], Progress]] = field(default_factory=dict)

    def evaluate(self, state: State) -> dict[str, float]:
        self.events.append("evaluate")
        return {"validation": float(jax.device_get(state["mean"]))} if self.evaluates else {}

    def save(self, progress: Progress, state: State, metrics: dict[str, float]) -> None:
        self.events.append(f"save {progress.step}")
        self.saved[progress.step] = (jax.device_get(state), metrics, progress)

    def read(self, start: int) -> Iterator[Any]:
        return self.batches(start)

    def step(self, state: State, batch: State) -> tuple[State, State]:
        self.events.append("step")
        return train_step(state, batch)

    def __call__(self) -> bytes:
        telemetry = Telemetry(self.folder, start_step=self.start.step, main=True)
        try:
            self.state = train(
                self.state,
                self.start,
                plan=self.plan,
                speed=Speed(1.0, 100.0, 1e9),
                batches=self.read(self.start.step),
                left_out=self.left_out,
                train_step=self.step,
                summarise=lambda total: {"loss": total["loss"] / total["weight"]},
                headline=lambda metrics: f"loss {metrics['loss']:.3f}",
                evaluate=self.evaluate,
                save=self.save,
                asked_to_stop=lambda step: step == self.stop_at,
                telemetry=telemetry,
                on_evaluation=self.on_evaluation,
            )
        finally:
            telemetry.close()
        return (self.folder / "metrics.jsonl").read_bytes()


# What is due when


def test_evaluations_and_saves_when_due_and_at_the_end(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, Plan(steps=14, log_every=2, eval_every=4, save_every=6))
    run()
    due = [event for event in run.events if event != "step"]
    assert due == [
        "evaluate",
        "save 6",
        "evaluate",
        "evaluate",
        "save 12",
        "evaluate",
        "save 14",
    ]
    assert run.events.count("step") == 14
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12, 14]
    assert [line["step"] for line in lines if "validation" in line] == [4, 8, 12, 14]


def test_a_checkpoint_has_the_metrics_of_its_own_state_or_none(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, Plan(steps=8, log_every=1, eval_every=4, save_every=2))
    run()
    assert {step: bool(metrics) for step, (_, metrics, _) in run.saved.items()} == {
        2: False,
        4: True,
        6: False,
        8: True,
    }
    for step in (4, 8):
        state, metrics, _ = run.saved[step]
        assert metrics == {"validation": float(state["mean"])}


def test_metrics_are_means_over_the_steps_since_the_last_line(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, Plan(steps=6, log_every=4, eval_every=4, save_every=4))
    run()
    means, mean = [], np.float32(0)
    for number in range(6):
        mean = np.float32(0.9) * mean + np.float32(0.1) * make_batch(number)["number"]
        means.append(abs(mean))
    norms = [1 + number % 3 for number in range(6)]
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [4, 6]
    for line, part in zip(lines, (slice(0, 4), slice(4, 6)), strict=True):
        assert line["loss"] == pytest.approx(sum(means[part]) / (2 * len(means[part])), rel=1e-5)
        assert line["gradient_norm"] == pytest.approx(np.mean(norms[part]))


def test_without_other_data_nothing_is_said_of_it(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, Plan(steps=4, log_every=2, eval_every=2, save_every=2), evaluates=False)
    run()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert run.saved[4][1] == {}
    assert "validation" not in capsys.readouterr().err


def test_the_progress_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path, Plan(steps=4, log_every=2, eval_every=4, save_every=4))()
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("step      2/4  loss 0.0")
    assert "bases/s  MFU " in first
    assert second.endswith("0:00:00 left")
    assert third.startswith("step      4/4  validation: validation 0.")


def test_a_finished_run_does_nothing(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, Plan(steps=4, log_every=2, eval_every=2, save_every=2), Progress(4))
    before = run.state
    assert run() == b""
    assert run.state is before
    assert run.events == []


# Going on


def differing(folder: pathlib.Path, plan: Plan, stops: Collection[int] = ()) -> list[int]:
    """Steps from which a resumed run ends with another state, other metrics or other saves.

    It goes on from every save, and from the `stops`, at which another run is asked to stop.
    """
    whole = Run(folder / "whole", plan)
    metrics = whole()
    begun = {step: (saved, metrics) for step, saved in whole.saved.items()}
    for step in stops:
        stopped = Run(folder / f"to{step}", plan, stop_at=step)
        with pytest.raises(SystemExit) as ended:
            stopped()
        assert ended.value.code == STOPPED
        begun[step] = (stopped.saved[step], (stopped.folder / "metrics.jsonl").read_bytes())
    found = []
    for step, ((state, _, progress), said) in begun.items():
        rest = Run(folder / f"from{step}", plan, progress, state=jax.device_put(state))
        rest.folder.mkdir()
        (rest.folder / "metrics.jsonl").write_bytes(said)
        saves = {s: (m, p) for s, (_, m, p) in whole.saved.items() if s > progress.told}
        same = (
            rest() == metrics
            and np.array_equal(rest.state["mean"], whole.state["mean"])
            and {s: (m, p) for s, (_, m, p) in rest.saved.items()} == saves
        )
        if not same:
            found.append(step)
    return found


@pytest.mark.parametrize(
    "plan",
    [
        Plan(steps=12, log_every=2, eval_every=4, save_every=2),
        Plan(steps=13, log_every=3, eval_every=6, save_every=3),
        Plan(steps=7, log_every=1, eval_every=3, save_every=2),
        Plan(steps=10, log_every=5, eval_every=10, save_every=5),
        Plan(steps=12, log_every=5, eval_every=7, save_every=3),
    ],
)
def test_a_run_goes_on_from_any_save_as_if_never_stopped(
    tmp_path: pathlib.Path, plan: Plan
) -> None:
    assert differing(tmp_path, plan, stops=range(1, plan.steps)) == []


def test_planted_the_sums_since_the_last_line_are_lost(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = dataclasses.replace

    def forgetful(self: Run, made: Progress, state: State, metrics: dict[str, float]) -> None:
        self.saved[made.step] = (jax.device_get(state), metrics, progress(made, sums=()))

    monkeypatch.setattr(Run, "save", forgetful)
    plan = Plan(steps=6, log_every=3, eval_every=6, save_every=6)
    assert differing(tmp_path, plan, stops=range(1, 6)) == [1, 2, 4, 5]


def test_planted_an_evaluation_that_was_put_off_is_not_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: Run, made: Progress, state: State, metrics: dict[str, float]) -> None:
        made = dataclasses.replace(made, unevaluated=False)
        self.saved[made.step] = (jax.device_get(state), metrics, made)

    monkeypatch.setattr(Run, "save", forgetful)
    plan = Plan(steps=6, log_every=1, eval_every=3, save_every=6)
    assert differing(tmp_path, plan, stops=range(1, 6)) == [3]


def test_asked_to_stop_a_run_saves_before_it_evaluates(tmp_path: pathlib.Path) -> None:
    plan = Plan(steps=8, log_every=2, eval_every=4, save_every=4)
    run = Run(tmp_path / "to4", plan, stop_at=4)
    with pytest.raises(SystemExit):
        run()
    assert run.events == ["step", "step", "step", "step", "save 4"]
    state, metrics, progress = run.saved[4]
    assert metrics == {}
    again = Run(tmp_path / "to4", plan, progress, state=jax.device_put(state), stop_at=4)
    with pytest.raises(SystemExit):
        again()  # asked again at once
    assert (again.events, again.saved[4][2]) == (["save 4"], progress)
    rest = Run(tmp_path / "to4", plan, progress, state=jax.device_put(state))
    rest()
    assert rest.events[:3] == ["evaluate", "save 4", "step"]


def test_asked_to_stop_at_the_last_step_a_run_is_done(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, Plan(steps=4, log_every=2, eval_every=2, save_every=2), stop_at=4)
    run()
    assert list(run.saved) == [2, 4]


def test_planted_a_batch_seen_again_after_a_resume(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_back(self: Run, start: int) -> Iterator[State]:
        return device_batches(max(start - 1, 0))

    monkeypatch.setattr(Run, "read", one_back)
    plan = Plan(steps=6, log_every=2, eval_every=2, save_every=2)
    assert differing(tmp_path, plan) == [2, 4]


# When numbers go bad


@pytest.mark.parametrize("bad", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("broken", [{"number": math.nan}, {"number": math.inf}, {"norm": math.nan}])
def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(
    tmp_path: pathlib.Path, bad: int, broken: dict[str, float]
) -> None:
    def batches(start: int) -> Iterator[State]:
        return device_batches(start, **{key: {bad - 1: value} for key, value in broken.items()})

    plan = Plan(steps=8, log_every=2, eval_every=4, save_every=4)
    run = Run(tmp_path, plan, batches=batches)
    with pytest.raises(BadStep) as raised:
        run()
    assert raised.value.step == bad
    assert f"the loss of step {bad} is not a number (gradient norm" in raised.value.why
    assert all(step < bad for step in run.saved)
    assert all(line["step"] < bad for line in read_metrics(tmp_path / "metrics.jsonl"))


@pytest.mark.parametrize("stop", [0, 5])
def test_nothing_bad_is_saved_by_a_stop(tmp_path: pathlib.Path, stop: int) -> None:
    def batches(start: int) -> Iterator[State]:
        return device_batches(start, number={4: math.nan})

    plan = Plan(steps=8, log_every=8, eval_every=8, save_every=8)
    run = Run(tmp_path, plan, batches=batches, stop_at=stop)
    with pytest.raises(BadStep):
        run()
    assert run.saved == {}


def test_a_step_that_is_left_out_changes_nothing(tmp_path: pathlib.Path) -> None:
    def batches(start: int) -> Iterator[State]:
        return device_batches(start, number={4: math.nan})

    plan = Plan(steps=8, log_every=2, eval_every=4, save_every=4)
    run = Run(tmp_path, plan, batches=batches, left_out=[5])
    run()
    means = [np.float32(0)]
    for number in (0, 1, 2, 3, 5, 6, 7):
        means.append(np.float32(0.9) * means[-1] + np.float32(0.1) * make_batch(number)["number"])
    assert float(run.state["mean"]) == pytest.approx(means[-1], rel=1e-5)
    lines = {m["step"]: m["loss"] for m in read_metrics(tmp_path / "metrics.jsonl") if "loss" in m}
    assert lines[6] == pytest.approx(abs(means[5]) / 2, rel=1e-5)  # of one step, not of two


def test_skipped_steps_are_counted_and_no_part_of_the_means(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def skipping(self: Run, state: State, batch: State) -> tuple[State, State]:
        number = len(self.events)
        self.events.append("step")
        new, sums = train_step(state, batch)
        skipped = jax.device_put(np.float32(number in (2, 4, 5)))
        return new, {**jax.tree.map(lambda x: x * (1 - skipped), sums), "skipped": skipped}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", skipping)
        patch.setattr(jax, "transfer_guard", lambda _: contextlib.nullcontext())
        plan = Plan(steps=8, log_every=2, eval_every=8, save_every=8)
        Run(tmp_path, plan, evaluates=False)()
    lines = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert {step: line.get("skipped_steps") for step, line in lines.items()} == {
        2: None, 4: 1.0, 6: 2.0, 8: None,
    }  # fmt: skip
    assert lines[4]["gradient_norm"] == make_batch(3)["norm"], "of the one step that counts"
    assert "loss" not in lines[6]
    assert "step      6/8  skipped 2  " in capsys.readouterr().err


# What the device waits for


def test_sums_are_fetched_after_the_next_step_was_dispatched(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Plan(steps=6, log_every=2, eval_every=6, save_every=6))
    fetch = jax.device_get

    def fetched(tree: Any) -> Any:
        run.events += ["fetch"] if tree else []
        return fetch(tree)

    monkeypatch.setattr(loop.jax, "device_get", fetched)
    run()
    steps = ["step"] * 3 + ["fetch"] + ["step"] * 2 + ["fetch", "step", "fetch"]
    assert run.events[: len(steps)] == steps


def test_nothing_moves_to_the_device_unasked(tmp_path: pathlib.Path) -> None:
    def on_the_host(start: int) -> Iterator[dict[str, np.ndarray]]:
        while True:
            yield make_batch(start)

    plan = Plan(steps=2, log_every=1, eval_every=1, save_every=1)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        Run(tmp_path, plan, batches=on_the_host)()
