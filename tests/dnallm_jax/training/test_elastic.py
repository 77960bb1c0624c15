"""Does a run that moves between numbers of devices and shapes of mesh stay the run it is?

One pre-training is stopped again and again and goes on on 8, 4, 2, 1 and again 8 devices.
(Between one process and two it moves in `test_many_hosts.py`.)
"""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from dnallm_jax import config as configs
from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training import checkpoints, pretraining
from dnallm_jax.training.telemetry import read_metrics
from tests.dnallm_jax.tiny import quick_jit
from tests.dnallm_jax.training.place import arrays, differing

STEPS, AT_ONCE = 10, 2
CONFIG = configs.Config(
    name="elastic",
    model=configs.Model(width=16, layers=1, heads=2, kv_heads=2, head_width=8, feed_forward=16),
    execution=configs.Execution(attention="reference"),  # which compiles fastest
    pretrain=configs.Pretrain(
        steps=STEPS, batch_rows=8, log_every=1, eval_every=STEPS, save_every=AT_ONCE, keep=9
    ),
)
# Devices, and how they stand; on each, two steps.
PLACES = (
    (8, {"data": 2, "fsdp": 2, "tensor": 2}),
    (4, {"fsdp": 4}),
    (2, {"fsdp": 1, "tensor": 2}),
    (1, {}),
    (8, {"fsdp": 8}),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    letters = np.random.default_rng(0).choice(list("ACGT"), (6, 700))
    text = "".join(f">g{n}\n{''.join(row)}\n" for n, row in enumerate(letters))
    (folder / "genomes.fa").write_text(text)
    options = CorpusOptions((str(folder / "genomes.fa"),), row_length=64)
    return build_corpus(options, str(folder / "data"))


@dataclasses.dataclass
class Seen:
    """What parts of one run saw: their first states, and the batches of all steps, in order."""

    first: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    batches: list[str] = dataclasses.field(default_factory=list)


def train(
    corpus: Corpus, folder: pathlib.Path, devices: int, sizes: dict[str, int], stop: int, seen: Seen
) -> None:
    """Goes on to the step `stop`, which is the last one or where it is asked to stop."""

    @contextlib.contextmanager
    def listening() -> Iterator[Any]:
        yield lambda step: step == stop

    def begun(state: Any, progress: Any, *, batches: Any, **rest: Any) -> Any:
        seen.first.append(jax.tree.map(np.asarray, checkpoints._flatten(state)))

        def noted() -> Iterator[Any]:
            for batch in batches:
                # Of integers only: a float that is computed differs in its last bits.
                parts = [np.asarray(batch[key]).tobytes() for key in ("tokens", "segment_ids")]
                seen.batches.append(hashlib.sha256(b"".join(parts)).hexdigest())
                yield batch

        return loop(state, progress, batches=noted(), **rest)

    loop = pretraining.train
    with pytest.MonkeyPatch.context() as patch:
        some = functools.partial(pretraining.meshes.make_mesh, devices=jax.devices()[:devices])
        patch.setattr(pretraining.meshes, "make_mesh", some)
        patch.setattr(pretraining.signals, "listening", listening)
        patch.setattr(jax, "jit", quick_jit)
        patch.setattr(pretraining, "train", begun)
        there = dataclasses.replace(CONFIG, mesh=configs.Mesh(**sizes))
        arguments: dict[str, Any] = {"flops_per_token": 1.0, "peak": Peak(1.0, "")}
        if stop == STEPS:
            pretraining.pretrain(there, corpus, folder, **arguments)
            return
        with pytest.raises(SystemExit) as ended:
            pretraining.pretrain(there, corpus, folder, **arguments)
        assert ended.value.code == STOPPED


@pytest.fixture(scope="module")
def moved(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Seen]:
    folder, seen = tmp_path_factory.mktemp("moved") / "run", Seen()
    for number, (devices, sizes) in enumerate(PLACES, start=1):
        train(corpus, folder, devices, sizes, AT_ONCE * number, seen)
    return folder, seen


def test_each_part_begins_with_the_parameters_of_the_last(moved: tuple[pathlib.Path, Seen]) -> None:
    folder, seen = moved
    assert len(seen.first) == len(PLACES)
    for number, first in enumerate(seen.first[1:], start=1):
        saved = arrays(folder / "checkpoints" / str(AT_ONCE * number))
        assert differing(saved, first) == []
    assert set(differing(seen.first[1], seen.first[2])) > {"params/lm_head", "step"}, "planted"


def test_it_sees_the_batches_of_one_that_stays_and_ends_as_it_does(
    corpus: Corpus, moved: tuple[pathlib.Path, Seen], tmp_path: pathlib.Path
) -> None:
    (folder, seen), stayed = moved, Seen()
    train(corpus, tmp_path / "run", 1, {}, STEPS, stayed)
    assert len(set(stayed.batches)) == STEPS
    assert seen.batches == stayed.batches
    lines = [read_metrics(run / "metrics.jsonl") for run in (folder, tmp_path / "run")]
    assert [line["step"] for line in lines[0]] == list(range(1, STEPS + 1))
    for ours, theirs in zip(*lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    last = [arrays(run / "checkpoints" / str(STEPS)) for run in (folder, tmp_path / "run")]
    for name, values in last[0].items():
        np.testing.assert_allclose(last[1][name], values, rtol=2e-3, atol=2e-5, err_msg=name)


def test_planted_a_batch_is_left_out_where_it_moves(
    corpus: Corpus,
    moved: tuple[pathlib.Path, Seen],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(moved[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / str(STEPS))
    stream, seen = pretraining.loader.stream, Seen()

    def late(rows: Any, *, start: int, workers: int) -> Iterator[Any]:
        return stream(rows, start=start + 1)

    monkeypatch.setattr(pretraining.loader, "stream", late)
    train(corpus, folder, 1, {}, STEPS, seen)
    assert seen.batches[0] == moved[1].batches[-1], "the last batch came first"
