"""Does a run that was killed end with the same bits as one that never was?

Real processes, killed with SIGKILL after their first checkpoint and started again by the same
command. Everything that they leave is compared with what an uninterrupted run leaves.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import IO

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dnallm_jax.training.checkpoints import MANIFEST, read_manifest, saved_steps

ROOT = pathlib.Path(__file__).resolve().parents[3]
STEPS, SAVE_EVERY = 16, 4

RECIPE = f"""
from dnallm_jax.config import default_config

def get_config():
    c = default_config()
    c.name = "tiny"
    c.corpus.sources = ("genomes.fa",)
    c.corpus.validation_fraction = c.contigs.validation_fraction = 0.3
    c.corpus.cluster_key = "cluster"
    c.corpus.row_length = 64
    c.contigs.train = ("contigs.fa",)
    m, p, f, s = c.model, c.pretrain, c.finetune, c.score
    m.width, m.layers, m.heads, m.kv_heads, m.head_width, m.feed_forward = 32, 1, 2, 1, 16, 32
    p.batch_rows, p.eval_rows = 4, 8
    f.batch_tokens, f.lengths, f.freeze_steps = 512, (60,), 6
    s.window, s.batch_tokens = 60, 1024
    for t in (p, f):
        t.steps, t.log_every, t.eval_every, t.save_every = {STEPS}, 2, {SAVE_EVERY}, {SAVE_EVERY}
    return c
"""


class Place:
    """A folder with a recipe and data, in which commands run as a user would run them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        (folder / "tiny.py").write_text(RECIPE)
        rng = np.random.default_rng(0)

        def record(name: str, words: str, bases: int, gc: float) -> str:
            share = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
            letters = "".join(rng.choice(list("ACGT"), bases, p=share))
            return f">{name} cluster={name} {words}\n{letters}\n"

        genomes = [record(f"g{n}", "", 800, 0.4) for n in range(10)]
        contigs = [
            record(f"c{n}", f"label={n % 2} group={'ab'[n % 2]}", 100, 0.45 + 0.1 * (n % 2))
            for n in range(40)
        ]
        (folder / "genomes.fa").write_text("".join(genomes))
        (folder / "contigs.fa").write_text("".join(contigs))
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "JAX_PLATFORMS": "cpu",
            # One device, compiled quickly and once for all runs.
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, command: str, workdir: str, said: IO[bytes]) -> subprocess.Popen[bytes]:
        # `nice`, so that the one who is to kill it comes first.
        line = ["nice", "-n", "5", sys.executable, str(ROOT / "main.py"), command]
        line += [f"--config={self.folder / 'tiny.py'}", f"--config.root={self.folder}"]
        return subprocess.Popen(
            [*line, f"--workdir={self.folder / workdir}"],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=self.folder,
        )

    def run(self, command: str, workdir: str) -> str:
        """What the command said; it must succeed."""
        path = self.folder / "said.txt"
        with path.open("wb") as said:
            status = self.start(command, workdir, said).wait(timeout=250)
        assert status == 0, path.read_text()
        return path.read_text()

    def kill_after_first_checkpoint(self, command: str, workdir: str) -> int:
        """Starts the command, kills it, and returns the newest step that it had saved."""
        checkpoints = self.folder / workdir / command / "checkpoints"
        with (self.folder / "killed.txt").open("wb") as said:
            process = self.start(command, workdir, said)
            first = checkpoints / str(SAVE_EVERY) / MANIFEST
            while process.poll() is None and not first.exists():
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            status = process.wait(timeout=60)
        assert status == -signal.SIGKILL, (self.folder / "killed.txt").read_text()
        return max(step for step in saved_steps(checkpoints) if step < 900)


def arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of one checkpoint or bundle, as they lie on disk."""
    read_manifest(folder)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder / "arrays").item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(folder / "arrays", restore_args=plain)


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are not equal bit for bit, or are in one of them only."""
    return sorted(one.keys() ^ other.keys()) + [
        name
        for name in sorted(one.keys() & other.keys())
        if one[name].dtype != other[name].dtype or one[name].tobytes() != other[name].tobytes()
    ]


def assert_equal_runs(one: pathlib.Path, other: pathlib.Path) -> None:
    steps = saved_steps(one / "checkpoints")
    assert STEPS in steps
    assert saved_steps(other / "checkpoints") == steps
    for step in steps:
        folders = [run / "checkpoints" / str(step) for run in (one, other)]
        assert differing(arrays(folders[0]), arrays(folders[1])) == [], step
        assert read_manifest(folders[0])["metrics"] == read_manifest(folders[1])["metrics"]
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("resume"))
    place.run("prepare", "whole")
    shutil.copytree(place.folder / "whole", place.folder / "killed")
    return place


@pytest.fixture(scope="module")
def pretrained(place: Place) -> Place:
    """Pre-trained in `whole` without a stop, in `killed` with one."""
    place.run("pretrain", "whole")
    step = place.kill_after_first_checkpoint("pretrain", "killed")
    run = place.folder / "killed" / "pretrain"
    assert SAVE_EVERY <= step < STEPS
    # What else a killed run, or a stray hand, may leave.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "bits_per_ba')
    (run / "checkpoints" / "999").mkdir()
    said = place.run("pretrain", "killed")
    assert "999 has no manifest.json (its saving was cut off)" in said
    assert any(f"start       step {s} (restored)" in said for s in range(0, STEPS, SAVE_EVERY)[1:])
    return place


def test_pretraining_ends_with_the_same_bits(pretrained: Place) -> None:
    whole, killed = (pretrained.folder / name / "pretrain" for name in ("whole", "killed"))
    assert_equal_runs(whole, killed)
    assert (whole / "result.json").read_bytes() == (killed / "result.json").read_bytes()
    names = arrays(whole / "checkpoints" / str(STEPS))
    assert any(name.startswith("optimizer/") and "/mu/" in name for name in names)
    assert int(names["step"]) == STEPS


def test_a_finished_run_says_its_result_again(pretrained: Place) -> None:
    result = pretrained.folder / "whole" / "pretrain" / "result.json"
    before = result.read_bytes()
    said = pretrained.run("pretrain", "whole")
    assert f"start       step {STEPS} (restored)" in said
    assert "validation bits per base: model" in said
    assert result.read_bytes() == before


def test_finetuning_ends_with_the_same_bits(pretrained: Place) -> None:
    pretrained.run("finetune", "whole")
    step = pretrained.kill_after_first_checkpoint("finetune", "killed")
    assert SAVE_EVERY <= step < STEPS
    said = pretrained.run("finetune", "killed")
    assert "(restored)" in said
    whole, killed = (pretrained.folder / name for name in ("whole", "killed"))
    assert_equal_runs(whole / "finetune", killed / "finetune")
    assert differing(arrays(whole / "bundle"), arrays(killed / "bundle")) == []
    manifests = [read_manifest(place / "bundle") for place in (whole, killed)]
    for manifest in manifests:  # of the files the names are random, the arrays in them equal
        del manifest["files"], manifest["sha256"]
    assert manifests[0] == manifests[1]
    bundled = arrays(whole / "bundle")
    assert "head_kernel" in bundled
    assert not any("lm_head" in name or "optimizer" in name for name in bundled)


def test_planted_differences_are_seen(pretrained: Place, tmp_path: pathlib.Path) -> None:
    run = pretrained.folder / "whole" / "pretrain"
    steps = saved_steps(run / "checkpoints")
    first, last = (arrays(run / "checkpoints" / str(step)) for step in (steps[0], steps[-1]))
    assert set(differing(first, last)) == set(first), "every array moves, the step counter too"
    name = "params/backbone/embedding"
    nudged = {**last, name: np.nextafter(last[name], 9)}
    assert differing(last, nudged) == [name]
    assert differing(last, {k: v for k, v in last.items() if k != name}) == [name]
    copy = shutil.copytree(run, tmp_path / "run")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    doubled = json.loads(lines[-1])
    (copy / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(doubled), ""]))
    with pytest.raises(AssertionError):
        assert_equal_runs(run, copy)
