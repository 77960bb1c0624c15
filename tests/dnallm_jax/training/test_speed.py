"""Is every second of a run counted once, where it was spent, over kills and goings back?"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from dnallm_jax.training import speed
from dnallm_jax.training.observed import Observed
from dnallm_jax.training.speed import PHASES, Speed, Stopwatch, memory
from dnallm_jax.training.telemetry import Telemetry, read_metrics

COMPILED, TRACED = (
    f"/jax/core/compile/{name}" for name in ("backend_compile_duration", "jaxpr_trace_duration")
)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def compile(self, seconds: float, *, inside: float = 0.0) -> None:
        """So long is compiled; of that, so long within another trace."""
        self.now += seconds
        if inside:
            jax.monitoring.record_event_duration_secs(TRACED, inside)
        jax.monitoring.record_event_duration_secs(COMPILED, seconds)
        jax.monitoring.record_event_duration_secs("/jax/checkpoint/write", 50.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


@pytest.fixture
def watch(clock: Clock) -> Iterator[Stopwatch]:
    watch = Stopwatch(99.0)
    yield watch
    watch.close()


def steps(watch: Stopwatch, clock: Clock, count: int) -> None:
    """Each waits a second for its batch and computes for three; the first compiles ten."""
    for _ in range(count):
        with watch.phase("input"):
            clock.now += 1
        with watch.phase("step"):
            clock.now += 3


def test_a_lap_is_the_sum_of_its_phases(watch: Stopwatch, clock: Clock) -> None:
    assert watch.lap()["wall"] == 1.0
    with watch.phase("step"):
        clock.compile(10, inside=4)
    steps(watch, clock, 2)
    with watch.phase("evaluation"):
        clock.compile(2)
        clock.now += 5
    lap = watch.lap()
    assert lap == dict.fromkeys(PHASES, 0.0) | {
        "compile": 12.0, "input": 2.0, "step": 6.0, "evaluation": 5.0, "wall": 25.0,
    }  # fmt: skip
    assert sum(lap[name] for name in PHASES) == lap["wall"]
    rates = Speed(3.0, 100.0, 1000.0).rates(40.0, 2, lap)
    assert rates == {
        "seconds_per_step": 4.0, "tokens_per_second": 10.0, "bases_per_second": 30.0, "mfu": 1.0,
    }  # fmt: skip
    assert watch.lap()["wall"] == 0.0
    assert watch.lines() == [
        "time        0:00:26: input 7.7%, step 23.1%, evaluation 19.2%, compile 46.2%, "
        "start and all else 3.8%",
        "goodput     23.1% of 0:00:26 went into steps that count",
    ]


def test_planted_another_measurement_of_jax_counts_as_compiling(
    watch: Stopwatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_COMPILING", "/jax/")  # what else JAX measures, too
    with watch.phase("step"):
        clock.compile(10, inside=4)
    lap = watch.lap()
    assert sum(lap[name] for name in PHASES) != lap["wall"]


def test_nothing_is_heard_after_the_end(clock: Clock) -> None:
    watch = Stopwatch()
    watch.close()
    clock.compile(10)
    assert watch.lap()["compile"] == 0.0


def run(folder: pathlib.Path, clock: Clock, start: int, end: int, back: int = 0) -> dict[str, Any]:
    """Steps to `end`, a line each two; then perhaps back to a step, and on. Its last line."""
    telemetry = Telemetry(folder, start_step=start, main=True, observed=Observed(clock.now))
    clock.now += 10  # restoring
    for first, last in ((start, end), (back, end))[: 2 if back else 1]:
        if first == back > 0:
            telemetry.go_back(back)
        for step in range(first + 2, last + 1, 2):
            steps(telemetry.watch, clock, 2)
            telemetry.progress(step, 8, "", Speed(1.0, 1.0, 1.0), 10.0, 2)
    telemetry.close()
    return read_metrics(folder / "speed.jsonl")[-1]


def of_all(line: dict[str, Any]) -> tuple[float, ...]:
    return tuple(line[key] for key in ("run_seconds", "step_seconds", "starts"))


def test_steps_that_are_lost_count_as_time_and_not_as_steps(
    tmp_path: pathlib.Path, clock: Clock
) -> None:
    assert of_all(run(tmp_path, clock, 0, 6)) == (34.0, 18.0, 1)
    clock.now += 1000  # until somebody starts it again
    # Two steps of three seconds were done in vain; a kill before the first line loses nothing more.
    Telemetry(tmp_path, start_step=4, main=True, observed=Observed(clock.now)).close()
    last = run(tmp_path, clock, 4, 8)
    assert of_all(last) == (34.0 + 10 + 4 * 4, 8 * 3, 3)
    assert last["goodput"] == pytest.approx(24 / 60)
    assert [line["step"] for line in read_metrics(tmp_path / "speed.jsonl")] == [
        0,
        2,
        4,
        4,
        4,
        6,
        8,
    ]


def test_going_back_makes_steps_vain(tmp_path: pathlib.Path, clock: Clock) -> None:
    assert of_all(run(tmp_path, clock, 0, 8, back=4)) == (10 + 12 * 4, 8 * 3, 1)


def test_memory_is_that_of_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(memory()) == ["host_bytes_peak"]
    assert 1e7 < memory()["host_bytes_peak"] < 1e13

    class Device:
        def __init__(self, **stats: int) -> None:
            self.stats = stats

        def memory_stats(self) -> dict[str, int] | None:
            return self.stats or None

    devices = [
        Device(bytes_in_use=5, peak_bytes_in_use=7, bytes_limit=9, num_allocs=3),
        Device(bytes_in_use=4, peak_bytes_in_use=8, bytes_limit=9),
        Device(),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    held = {key: value for key, value in memory().items() if key != "host_bytes_peak"}
    assert held == {"device_bytes": 4, "device_bytes_peak": 8, "device_bytes_limit": 9}


def test_the_line_says_what_a_device_holds(
    tmp_path: pathlib.Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = {"host_bytes_peak": 2e9, "device_bytes_peak": 3e9}
    monkeypatch.setattr("dnallm_jax.training.telemetry.memory", lambda: held)
    telemetry = Telemetry(tmp_path, start_step=0, main=True)
    clock.compile(7)
    steps(telemetry.watch, clock, 2)
    telemetry.progress(2, 4, "1.9 bits/base", Speed(6.0, 1e6, 1e8), 100.0, 2)
    telemetry.close()
    assert capsys.readouterr().err == (
        "step      2/4  1.9 bits/base  150 bases/s  MFU 25.0%  input 13%  HBM 3 GB  host 2 GB  "
        "compiling 7.0 s  0:00:08 left\n"
    )
    line = read_metrics(tmp_path / "speed.jsonl")[-1]
    assert line["device_bytes_peak"] == 3e9
    assert re.search(rb"speed/mfu", next((tmp_path / "tensorboard").iterdir()).read_bytes())
