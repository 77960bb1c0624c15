"""Does a whole run, validating and saving as it goes, compile each function once for each shape?

What it writes and says is looked at too, since the run is there: the header, speeds, the profile.
"""

import collections
import contextlib
import dataclasses
import io
import logging
import pathlib
import re

import jax
import numpy as np
import pytest

from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from dnallm_jax.config import Config, Model, Optimizer, Pretrain
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.planning.flops import Peak, formula
from dnallm_jax.training import pretraining
from dnallm_jax.training.observed import Observed
from dnallm_jax.training.speed import PHASES
from dnallm_jax.training.telemetry import read_metrics
from tests.dnallm_jax.tiny import quick_jit

RECIPE = Config(
    name="tiny",
    model=Model(width=16, layers=1, heads=2, kv_heads=1, head_width=8, feed_forward=16),
    pretrain=Pretrain(
        steps=9, batch_rows=8, log_every=2, eval_every=4, save_every=4, ema=0.5, accumulate=1,
        eval_rows=10, optimizer=Optimizer(warmup_steps=100), on_bad_step="skip",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("compilations")
    rng = np.random.default_rng(0)
    records = [f">r{n}\n{''.join(rng.choice(list('ACGT'), 400))}\n" for n in range(8)]
    (folder / "records.fa").write_text("".join(records))
    options = CorpusOptions((str(folder / "records.fa"),), row_length=32, validation_fraction=0.4)
    return build_corpus(options, str(folder / "corpus"))


@dataclasses.dataclass(frozen=True)
class Told:
    """What a run said of itself, and JAX of its compilations: (function, shapes of arguments)."""

    lines: list[str]
    compiled: collections.Counter[tuple[str, str]]
    metrics: list[dict[str, float]]
    speed: list[dict[str, float]]
    profiles: list[pathlib.Path]


class Listener(logging.Handler):
    """Counts what JAX says that it compiles."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.compiled: collections.Counter[tuple[str, str]] = collections.Counter()

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r"Compiling (?:jit\()?(\w+)\)? with (.*)", record.getMessage())
        if found:
            self.compiled[found[1], found[2]] += 1


def told(corpus: Corpus, folder: pathlib.Path, listener: Listener) -> Told:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), jax.log_compiles():
        pretraining.pretrain(
            RECIPE,
            corpus,
            folder,
            flops_per_token=1e6,
            peak=Peak(1e9, "a guess"),
            observed=Observed(changes=["pretrain.steps: 1 -> 9"], profile=(3, 4)),
        )
    files = [read_metrics(folder / f"{name}.jsonl") for name in ("metrics", "speed")]
    traces = list(folder.rglob("*.trace.json.gz"))
    return Told(said.getvalue().splitlines(), listener.compiled.copy(), *files, traces)


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Told]:
    """On one device: a run, and the same command again."""
    one, listener = make_mesh(devices=jax.devices()[:1]), Listener()
    log, folder = logging.getLogger("jax"), tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "make_mesh", lambda **_: one)
        patch.setattr(jax, "jit", quick_jit)
        patch.setattr(log, "handlers", [listener])
        first = told(corpus, folder, listener)
        return first, told(corpus, folder, listener)


def test_each_function_is_compiled_once_for_each_shape(runs: tuple[Told, Told]) -> None:
    compiled = runs[0].compiled
    assert collections.Counter(name for name, _ in compiled.elements()) == {
        "_create": 1, "train_step": 1, "next_token": 1,
    }  # fmt: skip


def test_planted_a_function_made_anew_is_compiled_again(runs: tuple[Told, Told]) -> None:
    """The second start, in the same process, makes its own."""
    again = [name for (name, _), count in runs[1].compiled.items() if count > 1]
    assert again == ["_create"]


def test_the_header_leaves_nothing_to_guess(runs: tuple[Told, Told]) -> None:
    header = runs[0].lines[: [line[:5] for line in runs[0].lines].index("start") + 1]
    said = {line[:12].strip(): line[12:] for line in header}
    assert list(said) == [
        *("pretrain", "changed", "parameters", "data", "batch", "budget", "every", "bad steps"),
        *("optimizer", "devices", "mesh", "axes", "precision", "attention", "unroll", "remat"),
        *("compiled", "versions", "FLOPs", "MFU", "start"),
    ]
    assert said["changed"] == "pretrain.steps: 1 -> 9"
    assert said["parameters"] == (
        "1.79 k (matrices 1.63 k, embeddings 96, norms and biases 64); with moments and running "
        "mean 28.7 kB on each device"
    )
    assert said["data"].endswith(
        "63 rows of 32 as prepared (now 1024 are asked for), 1 bases a token"
    )
    assert said["batch"] == "8 rows of 32 = 256 tokens = 256 bases"
    assert said["budget"] == "9 steps = 2.3 k tokens = 2.3 k bases = 1.14 epochs of 7.875 steps"
    assert said["every"] == (
        "2 steps a line, 4 validation (10 rows), 4 a checkpoint of 28.7 kB (2 and the best kept)"
    )
    assert said["bad steps"] == "what is not a number moves nothing, and is counted"
    assert "up to 0.001 in 4 steps" in "".join(header), "half of a short run, not the 100 asked for"
    assert said["FLOPs"].endswith(f"a token = {formula()}; 2.3 G in all")
    assert said["MFU"].startswith("tokens/s x FLOPs a token / 1 GFLOP/s (a guess); causal")
    assert "start       step 9 (restored)" in runs[1].lines


def test_the_running_mean_is_judged_beside_the_weights(runs: tuple[Told, Told]) -> None:
    judged = [line for line in runs[0].metrics if "validation_bits_per_base" in line]
    assert [line["step"] for line in judged] == [4, 8, 9]
    for line in judged:  # in its first steps a run gets better, and the mean comes behind
        assert line["validation_bits_per_base_of_ema"] > line["validation_bits_per_base"]


def test_where_time_and_memory_went_lies_beside_the_metrics(runs: tuple[Told, Told]) -> None:
    first = runs[0]
    assert [line["step"] for line in first.speed] == [0, 2, 4, 6, 8, 9, 9]
    for line in first.speed[1:-1]:
        parts = sum(line[f"{name}_seconds_of_lap"] for name in PHASES)
        assert 0 < parts < line["wall_seconds_of_lap"] + 1e-6
        assert line["mfu"] > 0 < line["host_bytes_peak"]
    assert not any("seconds" in key or "bytes" in key for line in first.metrics for key in line)
    last = first.speed[-1]
    assert last["goodput"] == pytest.approx(last["step_seconds"] / last["run_seconds"])
    assert first.lines[-1].startswith("goodput ")
    *_, start, profile = runs[1].lines
    assert start.startswith("start "), "a finished run says nothing of time"
    assert profile == "profile     of steps 3 to 4: none, this start did not come to them"
    assert len(first.profiles) == 1
    assert any(line.startswith("profile     of steps 3 to 4: ") for line in first.lines)
