"""Does metrics.jsonl end with the same bytes, wherever a run was cut off and resumed?"""

import json
import pathlib

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.training.telemetry import Telemetry, read_metrics
from dnallm_jax.training.units import clock, si

STEPS, SAVE_EVERY = 12, 4


def write(telemetry: Telemetry, start: int) -> None:
    """What a run says from a step on: a line each 2 steps, and an evaluation each 4."""
    for step in range(start + 1, STEPS + 1):
        if step % 2 == 0:
            telemetry.metrics(step, {"loss": 1 / step, "gradient_norm": 0.1 * step})
            telemetry.speed(step, {"mfu": 0.5})
        if step % 4 == 0:
            telemetry.metrics(step, {"validation_loss": 2 / step})


def run(folder: pathlib.Path, start: int = 0) -> bytes:
    telemetry = Telemetry(folder, start_step=start, main=True)
    write(telemetry, start)
    telemetry.close()
    return (folder / "metrics.jsonl").read_bytes()


def differing(whole: bytes, folder: pathlib.Path, said: int = 0) -> list[str]:
    """Cuts of the file after which a resumed run ends with other bytes.

    A run may die after any byte; it goes on from the last checkpoint, before which all was written.
    `said` is added to the step that the new start is told.
    """
    found = []
    for saved in range(0, STEPS + 1, SAVE_EVERY):
        lines = whole.splitlines(keepends=True)
        done = sum(len(line) for line in lines if json.loads(line)["step"] <= saved)
        for end in sorted({*range(done, len(whole) + 1, 37), done, done + 1, len(whole)}):
            (folder / "metrics.jsonl").write_bytes(whole[:end])
            telemetry = Telemetry(folder, start_step=saved + said, main=True)
            write(telemetry, saved)
            telemetry.close()
            if (folder / "metrics.jsonl").read_bytes() != whole:
                found.append(f"cut at byte {end}, resumed at step {saved}")
    return found


def test_a_resumed_run_ends_with_the_same_bytes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path)
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [2, 4, 4, 6, 8, 8, 10, 12, 12], "an evaluation is a second line of its step"
    assert differing(whole, tmp_path) == []


@pytest.mark.parametrize("said", [-1, 1])
def test_planted_lines_lost_or_left(tmp_path: pathlib.Path, said: int) -> None:
    """Told one step less, the evaluation at the checkpoint is lost; one more, a line is doubled."""
    whole = run(tmp_path)
    assert differing(whole, tmp_path, said * 2)


def test_the_evaluation_at_the_checkpoint_survives(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    Telemetry(tmp_path, start_step=8, main=True).close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[-2:] == [
        {"step": 8, "loss": 1 / 8, "gradient_norm": 0.8},
        {"step": 8, "validation_loss": 0.25},
    ]
    assert [line["step"] for line in read_metrics(tmp_path / "speed.jsonl")] == [0, 2, 4, 6, 8, 8]


def test_times_lie_apart_and_boards_are_written(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    assert b"mfu" not in (tmp_path / "metrics.jsonl").read_bytes()
    assert b"loss" not in (tmp_path / "speed.jsonl").read_bytes()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"metrics/validation_loss" in events.read_bytes()
    assert b"speed/mfu" in events.read_bytes()


def test_values_of_any_kind_are_read_back(tmp_path: pathlib.Path) -> None:
    values = {"inf": float("inf"), "small": 5e-324, "third": 1 / 3, "whole": 7}
    telemetry = Telemetry(tmp_path, start_step=0, main=True)
    telemetry.metrics(1, values)
    telemetry.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, **values}]
    before = (tmp_path / "metrics.jsonl").read_bytes()
    Telemetry(tmp_path, start_step=1, main=True).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_other_processes_neither_write_nor_print(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry = Telemetry(tmp_path / "run", start_step=0, main=False)
    write(telemetry, 0)
    telemetry.say(["one", "two"])
    telemetry.close()
    assert not (tmp_path / "run").exists()
    main = Telemetry(tmp_path / "run", start_step=0, main=True)
    main.say("one")
    main.say(["two", "three"])
    main.close()
    assert capsys.readouterr() == ("", "one\ntwo\nthree\n")


def test_no_file_has_no_lines(tmp_path: pathlib.Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("broken", [b'{"step": 2, "lo', b'{"loss": 1.0}', b"[2]", b"\xff\xfe"])
def test_a_broken_line_before_the_last_is_an_error(tmp_path: pathlib.Path, broken: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + broken + b'\n{"step": 3, "loss": 1.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is no line of metrics"):
        read_metrics(path)
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + broken)
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}], "a last line that was cut off"


def test_going_back_forgets_what_was_said_of_later_steps(tmp_path: pathlib.Path) -> None:
    whole = run(tmp_path / "whole")
    telemetry = Telemetry(tmp_path / "back", start_step=0, main=True)
    write(telemetry, 0)
    telemetry.go_back(8)
    telemetry.keep()
    write(telemetry, 8)
    telemetry.close()
    assert (tmp_path / "back" / "metrics.jsonl").read_bytes() == whole


def test_units() -> None:
    assert [si(v) for v in (0, 12.34, 1234567, 2e9, 3.21e13, 999)] == [
        "0 ",
        "12.3 ",
        "1.23 M",
        "2 G",
        "32.1 T",
        "999 ",
    ]
    assert [clock(s) for s in (0, 0.2, 59.1, 3725, 360_000)] == [
        "0:00:00",
        "0:00:01",
        "0:01:00",
        "1:02:05",
        "100:00:00",
    ]
