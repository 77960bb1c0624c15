"""Do the ways to fine-tune do what they say, and go on exactly where they were killed?"""

import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest

from dnallm_jax.config import resolve
from dnallm_jax.training.checkpoints import saved_steps
from dnallm_jax.training.manifest import read_manifest
from tests.dnallm_jax.training.place import Place, arrays, assert_equal_runs, differing

STEPS = 8
SETTINGS = [f"--config.finetune.{word}" for word in ("freeze_steps=0", "log_every=1")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("finetuning"), STEPS)
    place.run("prepare", "whole")
    place.run("pretrain", "whole")
    return place


def copied(place: Place, name: str) -> pathlib.Path:
    shutil.copytree(
        place.folder / "whole", place.folder / name, ignore=lambda *_: ["finetune", "bundle"]
    )
    return place.folder / name


def backbone(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the backbone in the newest checkpoint or a bundle, by name."""
    found = arrays(folder).items()
    parts = ((name.partition("backbone/"), array) for name, array in found)
    others = ("optimizer", "ema")
    return {
        name: array
        for (before, there, name), array in parts
        if there and not before.startswith(others)
    }


def test_adapters_are_named_killed_resumed_and_merged(place: Place) -> None:
    workdir, killed = copied(place, "lora"), copied(place, "lora_killed")
    words = [*SETTINGS, "--config.finetune.train=lora", "--config.finetune.pooling=attention"]
    words += ["--config.finetune.dropout=0.1", "--config.finetune.layer_decay=0.7"]
    said = place.run("finetune", "lora", *words)
    assert "initialised   8  adapters/wq/a, adapters/wq/b, adapters/wv/a, adapters/wv/b" in said
    assert "pool_query" in said
    checkpoints = killed / "finetune" / "checkpoints"
    place.kill_when((checkpoints / "4").exists, "finetune", "lora_killed", *words)
    assert saved_steps(checkpoints)[-1] < STEPS
    place.run("finetune", "lora_killed", *words)
    assert_equal_runs(workdir / "finetune", killed / "finetune")
    assert differing(arrays(workdir / "bundle"), arrays(killed / "bundle")) == []

    step = read_manifest(workdir / "bundle")["step"]
    before = backbone(place.folder / "whole" / "pretrain" / "checkpoints" / str(STEPS))
    trained = backbone(workdir / "finetune" / "checkpoints" / str(step))
    assert differing(before, trained) == []
    assert sorted(differing(before, backbone(workdir / "bundle"))) == ["blocks/wq", "blocks/wv"]
    assert not any("adapters" in name for name in arrays(workdir / "bundle"))


def test_seeds_and_patience(place: Place) -> None:
    workdir = copied(place, "seeds")
    # Nothing is learnt, so the first evaluation stays the best.
    words = [*SETTINGS, "--config.finetune.optimizer.learning_rate=1e-30"]
    words += ["--config.finetune.eval_every=2", "--config.finetune.patience=2"]
    words += ["--config.finetune.seeds=2", "--config.finetune.ensemble=True"]
    said = place.run("finetune", "seeds", *words)
    assert said.count("step      6/8  ends: the last 2 evaluations brought nothing better") == 2
    checkpoints = [workdir / name / "checkpoints" for name in ("finetune", "finetune-seed1")]
    for folder in checkpoints:
        assert saved_steps(folder)[-1] == 6
        manifest = read_manifest(folder / "6")
        assert [step for step, _ in manifest["progress"]["evaluations"]] == [2, 4, 6]
    first, other = (arrays(folder / "6") for folder in checkpoints)
    assert len(differing(first, other)) > 5, "other windows"

    manifest = read_manifest(workdir / "bundle")
    found = manifest["seeds"]["metrics"]["validation_average_precision"]
    values = list(found["by_seed"].values())
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
    assert set(manifest["members"]) == {"gpt", f"gpt_seed{1 - manifest['seeds']['best']}"}
    assert "2 seeds     validation average precision" in said

    lines = (workdir / "finetune" / "metrics.jsonl").read_bytes()
    said = place.run("finetune", "seeds", *words)
    assert said.count("start       step 6 (restored)") == 2
    assert (workdir / "finetune" / "metrics.jsonl").read_bytes() == lines
    assert read_manifest(workdir / "bundle")["seeds"] == manifest["seeds"]


def test_a_killed_search_of_real_runs_goes_on_and_writes_the_best(place: Place) -> None:
    pytest.importorskip("optuna", reason="tune's library is not installed")
    folder = copied(place, "search") / "tune"
    # One compiled step does for all: the trials differ in their windows only.
    words = [*SETTINGS, "--config.tune.trials=3", "--config.tune.seed=1"]
    words.append("--config.tune.space=('finetune.mutate = 0.0 .. 0.2',)")
    second = folder / "trial-001" / "checkpoints"
    place.kill_when((second / "4").exists, "tune", "search", *words)
    assert [line.split()[1] for line in table(folder)] == ["state", "complete"]
    said = place.run("tune", "search", *words)
    assert "trial 0: complete" in said
    assert "trial 0: mutate" not in said, "what was finished is kept"
    assert "start       step" in said
    assert [line.split()[0] for line in table(folder)] == ["trial", "0", "1", "2"]
    assert (folder / "tune.html").read_text().count("<svg") == 3
    config = resolve(runpy.run_path(str(folder / "best.py"))["get_config"]())
    trials = json.loads((folder / "search.json").read_text())["trials"]
    best = max(trials, key=lambda trial: (trial["value"], -trial["number"]))
    assert config.finetune.mutate == best["chosen"]["finetune.mutate"]
    assert config.finetune.steps == STEPS
    kept = [n for n in range(3) if (folder / f"trial-{n:03}" / "checkpoints").exists()]
    assert kept == [best["number"]]
    assert all((folder / f"trial-{n:03}" / "metrics.jsonl").exists() for n in range(3))


def table(folder: pathlib.Path) -> list[str]:
    return (folder / "trials.tsv").read_text().splitlines()
