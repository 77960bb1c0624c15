"""Does a profile hold the steps that were asked for, and no others?"""

import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.training.observed import profiled_steps
from dnallm_jax.training.profiling import Profile
from dnallm_jax.training.speed import Stopwatch


def test_the_words_of_the_flag() -> None:
    assert profiled_steps("") is None
    assert profiled_steps("10:15") == (10, 15)
    assert profiled_steps("3:3") == (3, 3)
    for words in ("10", "0:5", "15:10", "a:b", "1:2:3", "-1:4", "1:"):
        with pytest.raises(UserError, match=f"--profile={words} is not FIRST:LAST"):
            profiled_steps(words)


def profiled(folder: pathlib.Path, steps: tuple[int, int] | None, first: int) -> list[str]:
    """Steps `first` to 5, each under its name; what was said."""
    said: list[str] = []
    watch = Stopwatch()
    profile = Profile(folder, steps, watch=watch, say=said.append)
    state = jnp.zeros(3)
    for step in range(first, 6):
        profile.at(step, state)
        with watch.phase(f"phase {step}"):
            state = state + 1
    profile.close()
    watch.close()
    return said


def names(folder: pathlib.Path) -> set[str]:
    """The steps whose phases are in the trace, as Perfetto reads it."""
    (path,) = folder.rglob("*.trace.json.gz")
    assert list(folder.rglob("*.xplane.pb"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return {e["name"] for e in events if e.get("name", "").startswith("phase ")}


@pytest.fixture(autouse=True)
def _any_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnallm_jax.training.speed.PHASES", ("profile", "compile", *PHASES))


PHASES = [f"phase {step}" for step in range(1, 6)]


@pytest.mark.parametrize(
    ("steps", "first", "found"), [((2, 3), 1, {2, 3}), ((2, 4), 4, {4}), ((4, 99), 1, {4, 5})]
)
def test_the_trace_holds_the_steps(
    tmp_path: pathlib.Path, steps: tuple[int, int], first: int, found: set[int]
) -> None:
    (said,) = profiled(tmp_path, steps, first)
    assert names(tmp_path) == {f"phase {step}" for step in found}
    assert f"tensorboard --logdir={tmp_path}" in said


def test_no_profile_is_written_unasked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_: pytest.fail("a trace was begun"))
    assert profiled(tmp_path, None, 1) == []
    assert profiled(tmp_path, (1, 2), 3) == [
        "profile     of steps 1 to 2: none, this start did not come to them"
    ]
