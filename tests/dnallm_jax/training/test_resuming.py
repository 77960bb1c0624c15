"""Does a run stop at a bad step, or go on without it, as it was told; the same after a restart?"""

import dataclasses
import math
import pathlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.parallel.mesh import make_mesh, sharding
from dnallm_jax.training import resuming
from dnallm_jax.training.checkpoints import Checkpoints
from dnallm_jax.training.guard import STEPS, BadStep, Guard
from dnallm_jax.training.loop import Plan, Progress, train
from dnallm_jax.training.speed import Speed
from dnallm_jax.training.telemetry import Telemetry

PLAN = Plan(steps=12, log_every=2, eval_every=4, save_every=4)


@jax.jit
def train_step(state: Any, batch: Any) -> tuple[Any, Any]:
    moved = 0.9 * state["mean"] + 0.1 * batch
    sums = {"loss": jnp.abs(moved), "weight": 2.0, "tokens": 10.0, "gradient_norm": 1.0}
    return {"mean": moved}, jax.tree.map(jnp.float32, sums)


@dataclass
class Run:
    """A run of the toy above in a folder; batches of the steps `bad` are no numbers, or huge."""

    folder: pathlib.Path
    bad: Collection[int] = ()
    value: float = math.nan  # of those
    on_bad_step: str = "leave_out"
    plan: Plan = field(default_factory=lambda: PLAN)
    stop_at: int = 0
    seen: list[int] = field(default_factory=list)

    def batches(self, start: int) -> Iterator[jax.Array]:
        for step in range(start + 1, 99):
            self.seen.append(step)
            yield jax.device_put(np.float32(self.value if step in self.bad else math.sin(step)))

    def __call__(self) -> bytes:
        place = sharding(make_mesh(devices=jax.devices()[:1]))
        state = {"mean": jax.device_put(np.float32(0), place)}
        kept = Checkpoints(self.folder / "c", keep=2, metric="none", identity={})
        progress, restored = Progress(), kept.restore(state)
        if restored is not None:
            state, manifest = restored
            progress = resuming.progress_of(manifest)
        telemetry = Telemetry(self.folder, start_step=progress.told, main=True)

        def save(at: Progress, state: Any, metrics: dict[str, float]) -> None:
            how = {"progress": resuming.as_json(at)}
            kept.save(at.step, state, how, metrics, passing=at.unevaluated)

        def steps(state: Any, at: Progress, left_out: Collection[int]) -> Any:
            return train(
                state,
                at,
                plan=self.plan,
                speed=Speed(1.0, 1.0, 1.0),
                batches=self.batches(at.step),
                left_out=left_out,
                train_step=train_step,
                summarise=lambda total: {"loss": total["loss"] / total["weight"]},
                headline=str,
                evaluate=lambda state: {},
                save=save,
                asked_to_stop=lambda step: step == self.stop_at,
                telemetry=telemetry,
            )

        try:
            resuming.run_through(
                steps,
                state,
                progress,
                folder=self.folder,
                on_bad_step=self.on_bad_step,
                records=lambda step: [f"r{step}-{n}" for n in range(10)],
                checkpoints=kept,
                telemetry=telemetry,
            )
            last, _ = kept.restore(state) or (None, None)
            return (self.folder / "metrics.jsonl").read_bytes() + last["mean"].tobytes()
        finally:
            kept.close()
            telemetry.close()


def test_told_to_stop_it_names_the_step_and_the_records(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError) as raised:
        Run(tmp_path, bad=[7], on_bad_step="stop")()
    assert str(raised.value) == (
        "the loss of step 7 is not a number (gradient norm 1); its batch holds records r7-0, r7-1, "
        "r7-2, r7-3, r7-4, r7-5, r7-6, r7-7 and 2 more. Lower the learning rate, or look at these "
        "records; the last checkpoint is untouched"
    )
    assert resuming.left_out(tmp_path) == []


def test_told_to_leave_it_out_it_goes_back_and_on(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path / "a", bad=[7, 10])
    ended = run()
    assert [bad["step"] for bad in resuming.left_out(tmp_path / "a")] == [7, 10]
    assert resuming.left_out(tmp_path / "a")[0]["records"][9] == "r7-9"
    assert run.seen.count(5) == 2, "step 5 was done again, from the checkpoint of step 4"
    # The same as if the two steps had been known from the first.
    known = tmp_path / "b"
    known.mkdir()
    (known / "left_out.json").write_bytes((tmp_path / "a" / "left_out.json").read_bytes())
    assert Run(known)() == ended
    assert Run(tmp_path / "c")() != ended


@pytest.mark.parametrize("stop_at", [6, 8, 9])
def test_a_stop_in_between_changes_nothing(tmp_path: pathlib.Path, stop_at: int) -> None:
    whole = Run(tmp_path / "whole", bad=[7])()
    stopped = Run(tmp_path / "stopped", bad=[7], stop_at=stop_at)
    with pytest.raises(SystemExit):
        stopped()
    assert Run(tmp_path / "stopped", bad=[7])() == whole


def test_before_the_first_checkpoint_there_is_nothing_to_go_back_to(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"step 3 .*There is no checkpoint yet to go back to"):
        Run(tmp_path, bad=[3])()


def test_too_many_bad_steps_are_another_trouble(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "_MOST", 2)
    with pytest.raises(UserError, match=r"step 7 .*2 steps were left out before .*learning rate"):
        Run(tmp_path, bad=range(5, 30))()


# Spikes


def spiking(losses: list[float], spike: float, recent: tuple[float, ...] = ()) -> int | None:
    """The number of the first loss that is called a spike."""
    guard = Guard(spike, recent)
    for step, loss in enumerate(losses, start=1):
        try:
            guard.check(step, {"loss": 2 * loss, "weight": 2.0, "gradient_norm": 1.0})
        except BadStep as bad:
            return bad.step
    return None


def test_a_spike_is_measured_against_the_last_steps() -> None:
    calm = [1.0] * STEPS
    assert spiking([*calm, 1.9], 2.0) is None
    assert spiking([*calm, 2.1], 2.0) == STEPS + 1
    assert spiking([*calm, 2.1], 0.0) is None, "0 looks for none"
    assert spiking([*calm[1:], 99.0], 2.0) is None, "too few steps to tell"
    assert spiking([4.0] * STEPS + [1.0] * STEPS + [2.1], 2.0) == 2 * STEPS + 1


@pytest.mark.parametrize(("spike", "steps"), [(9.0, [37]), (0.0, [])])
def test_a_run_leaves_a_spike_out_where_the_config_looks_for_one(
    tmp_path: pathlib.Path, spike: float, steps: list[int]
) -> None:
    plan = dataclasses.replace(PLAN, steps=STEPS + 8, spike=spike)
    Run(tmp_path, bad=[37], value=1e3, plan=plan)()
    found = resuming.left_out(tmp_path)
    assert [bad["step"] for bad in found] == steps
    assert all("of step 37, 49.98, is above 9 times the mean" in bad["why"] for bad in found)
    assert all(bad["records"][0] == "r37-0" for bad in found)


def test_a_resumed_guard_calls_the_same_a_spike() -> None:
    guard = Guard(2.0)
    for step in range(STEPS):
        guard.check(step, {"loss": 1.0, "weight": 1.0, "gradient_norm": 1.0})
    assert spiking([2.1], 2.0, guard.recent) == 1
    assert spiking([2.1], 2.0) is None, "planted: one that has forgotten"


def test_many_skipped_in_a_row_are_another_trouble() -> None:
    def check(skipped: list[int]) -> Guard:
        guard = Guard(0.0)
        for step, skip in enumerate(skipped, start=1):
            sums = {"loss": 0.0, "weight": 0.0, "gradient_norm": 0.0, "skipped": float(skip)}
            guard.check(step, sums)
        return guard

    assert len(check([1] * 10 + [0] + [1] * 10).recent) == 1
    with pytest.raises(BadStep, match="step 13 is the 11th in a row that is skipped"):
        check([0, 0] + [1] * 12)
