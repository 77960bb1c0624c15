"""Do corpora of two workdirs go the way of one: prepared, mixed, learnt from, resumed?"""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.end_to_end.conftest import Program

pytestmark = pytest.mark.timeout(900)  # for a machine with other work to do

RECIPE = [
    "--config=configs/smoke.py",
    *(
        f"--config.{setting}"
        for setting in (
            *("corpus.row_length=64", "corpus.sources=('genomes.fa',)", "contigs.train=()"),
            *("model.width=16", "model.layers=1", "model.head_width=8", "model.feed_forward=32"),
            *("execution.attention=reference", "execution.unroll=no"),  # which compile faster
            *("pretrain.steps=30", "pretrain.batch_rows=8", "pretrain.log_every=5"),
            *("pretrain.eval_every=15", "pretrain.save_every=15", "pretrain.eval_rows=32"),
            *("pretrain.optimizer.warmup_steps=1", "pretrain.optimizer.learning_rate=0.03"),
        )
    ),
]
MIXTURE = "--config.pretrain.mixture=('w/two_letters=3','w/four_letters=1')"


def write_genomes(folder: pathlib.Path, letters: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    with (folder / "genomes.fa").open("w") as file:
        for number in range(20):
            bases = "".join(rng.choice(list(letters), 1_000))
            file.write(f">{letters}{number} cluster=c{number}\n{bases}\n")


def test_two_corpora_are_mixed_and_each_is_judged(program: Program, tmp_path: pathlib.Path) -> None:
    def run(command: str, *words: str) -> str:
        ended = program(command, *RECIPE, *words, folder=tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    for seed, (name, letters) in enumerate((("two_letters", "AT"), ("four_letters", "ACGT"))):
        write_genomes(tmp_path / name, letters, seed)
        run("prepare", f"--workdir=w/{name}", f"--config.root={name}")
    told = run("pretrain", "--workdir=w/both", MIXTURE)
    result = tmp_path / "w" / "both" / "pretrain" / "result.json"
    whole = json.loads(result.read_text())
    bits = whole["model"]
    model = "validation_bits_per_base"
    joint, two, four = (bits[f"{model}{of}"] for of in ("", "/w/two_letters", "/w/four_letters"))
    assert two < joint < four  # their entropy is 1 and 2 bits, and learning has begun
    assert f"validation bits per base {joint:.4f}  w/two_letters {two:.4f}" in told
    assert f"\n  on w/four_letters: {four:.4f}\n" in told

    # As if it had been killed on its way from the first checkpoint to the last.
    shutil.rmtree(result.parent / "checkpoints" / "30")
    result.unlink()
    assert "step 15" in run("pretrain", "--workdir=w/both", MIXTURE)
    assert json.loads(result.read_text()) == whole
