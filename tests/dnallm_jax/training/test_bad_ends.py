"""Does a run that must not end well say so: a bad step, a last save read back wrong, a hang?"""

import os
import pathlib
import runpy
import shutil
from typing import Any

import jax
import pytest

from data_pipeline.contigs import open_contigs
from data_pipeline.corpus import open_corpus
from data_pipeline.errors import UserError
from data_pipeline.loader import CorpusBatches
from data_pipeline.tokenizers import Nucleotide
from data_pipeline.views import make_view
from dnallm_jax.commands import training
from dnallm_jax.config import Config, resolve
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.hosts import STOPPED
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training import pretraining, storage
from dnallm_jax.training.observed import NOTHING
from dnallm_jax.training.windows import window_batches
from tests.dnallm_jax.tiny import quick_jit
from tests.dnallm_jax.training.place import Place
from tests.dnallm_jax.training.saved import flip_one

STEPS = 8
COMMANDS = ("pretrain", "finetune")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("ends"), STEPS)
    place.run("prepare", "w")
    return place


def recipe(place: Place) -> Config:
    made = runpy.run_path(str(place.folder / "tiny.py"))["get_config"]()
    made.finetune.backbone = "random"
    return resolve(made)


def records_of_step(place: Place, command: str, step: int) -> list[str]:
    """The ids of the records in the batch of a step, the first of which is 1."""
    config, data = recipe(place), place.folder / "w" / "data"
    if command == "pretrain":
        corpus = open_corpus(str(data / "corpus"))
        rows: Any = CorpusBatches(
            corpus.source("train"), corpus.tokenizer, 64, batch_rows=8, seed=config.pretrain.seed
        )
    else:
        contigs, view = open_contigs(str(data / "contigs")), make_view("bases", Nucleotide())
        rows = window_batches(config.finetune, contigs, view, parts=1, process=0, processes=1)
    return rows.record_ids(step - 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_step_names_the_records_of_its_own_batch(place: Place, command: str) -> None:
    words = ["--config.finetune.backbone=random", "--config.finetune.freeze_steps=0"]
    for key in ("learning_rate=1e30", "warmup_steps=0"):
        words.append(f"--config.{command}.optimizer.{key}")
    started = place.start(command, "w", *words)
    assert place.ended(started) == [2]
    last = place.said("w").read_text().splitlines()[-1]
    assert last.startswith(f"dnallm_jax {command}: the loss of step 2 is not a number")
    ids = records_of_step(place, command, 2)
    assert f"; its batch holds records {', '.join(ids[:8])}" in last
    assert set(ids) != set(records_of_step(place, command, 1)), "the check can tell batches"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_last_save_that_reads_back_wrong_is_a_failure(
    place: Place, command: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, told = storage.complete, []

    def bad_disk(folder: pathlib.Path) -> None:
        complete(folder)
        if folder.name == str(STEPS):
            told.append(flip_one(folder))

    one = meshes.make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "make_mesh", lambda **_: one)
    monkeypatch.setattr(jax, "jit", quick_jit)
    monkeypatch.setattr(storage, "complete", bad_disk)
    with pytest.raises(UserError, match="saved, but not whole when read back") as raised:
        train(place, command, tmp_path / "run")
    assert told[0] in str(raised.value)


def train(place: Place, command: str, folder: pathlib.Path) -> None:
    """What the command does, in this process."""
    config = recipe(place)
    if command == "pretrain":
        corpus, peak = open_corpus(str(place.folder / "w" / "data" / "corpus")), Peak(1.0, "")
        pretraining.pretrain(config, corpus, folder, flops_per_token=1.0, peak=peak)
    else:
        opened = training.open_workdir(config, place.folder / "w")
        training.train_gpt(opened, config, folder, NOTHING)


def test_a_run_that_hangs_ends_as_one_that_was_stopped(place: Place) -> None:
    """Its folder of metrics is that of a file system that went away: to read it never ends."""
    shutil.copytree(place.folder / "w" / "data", place.folder / "hangs" / "data")
    (place.folder / "hangs" / "pretrain").mkdir()
    os.mkfifo(place.folder / "hangs" / "pretrain" / "speed.jsonl")
    started = place.start("pretrain", "hangs", "--hang_minutes=0.05")
    assert place.ended(started) == [STOPPED]
    assert ": nothing was done for 3 s since " in place.said("hangs").read_text().splitlines()[-1]
