"""Does the whole mission work, simulated genomes to scores, through the commands users type?"""

import csv
import json
import pathlib
import re
import subprocess

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline.contigs import open_contigs
from data_pipeline.corpus import open_corpus
from data_pipeline.reading import read_records
from dnallm_jax.training.checkpoints import newest_whole, read_manifest, saved_steps
from dnallm_jax.training.telemetry import read_metrics
from tests.end_to_end.conftest import Program

pytestmark = pytest.mark.timeout(900)  # for a machine with other work to do

# The demo's own recipe on a fraction of its budget, of which compiling takes the most.
RECIPE = """
from configs import demo

def get_config():
    c = demo.get_config()
    c.model.width, c.model.head_width, c.model.feed_forward = 32, 16, 64
    c.execution.unroll = "no"
    c.execution.attention = "reference"
    c.pretrain.steps = c.pretrain.eval_every = c.pretrain.save_every = 20
    c.pretrain.batch_rows = 16
    c.pretrain.optimizer.warmup_steps = 5
    c.finetune.steps = 20
    c.finetune.lengths = (500,)
    c.finetune.eval_every = c.finetune.save_every = 10
    c.finetune.eval_contigs = 200
    return c
"""


@pytest.fixture(scope="module")
def ended(
    program: Program, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, subprocess.CompletedProcess[str]]:
    """The folder of one run on eight fake devices, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "recipe.py").write_text(RECIPE)
    ended = program(
        "demo", "--config=recipe.py", "--workdir=runs/demo", "--devices=8", folder=folder
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "runs" / "demo", ended


@pytest.fixture(scope="module")
def workdir(ended: tuple[pathlib.Path, subprocess.CompletedProcess[str]]) -> pathlib.Path:
    return ended[0]


@pytest.fixture(scope="module")
def printed(ended: tuple[pathlib.Path, subprocess.CompletedProcess[str]]) -> str:
    return ended[1].stdout


def rows_of(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_commands_are_those_of_a_user(
    ended: tuple[pathlib.Path, subprocess.CompletedProcess[str]], printed: str
) -> None:
    commands = re.findall(r"^\$ python main\.py (\w+)", printed, re.MULTILINE)
    assert commands == ["prepare", "pretrain", "finetune", "evaluate", "score"]
    assert ended[1].stderr.count("(8 devices)") == 2  # the headers of pretrain and finetune


def test_the_data_sets_are_those_of_tfds(workdir: pathlib.Path) -> None:
    for data_set in (
        open_corpus(str(workdir / "data" / "corpus")),
        open_contigs(str(workdir / "data" / "contigs")),
    ):
        builder = tfds.builder_from_directory(data_set.folder)
        for split in data_set.splits:
            source = builder.as_data_source(split)
            assert len(source) == builder.info.splits[split].num_examples > 0
            ours, theirs = data_set.source(split)[3], source[3]
            assert set(ours) == set(theirs)
            for name in theirs:
                np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("run", "steps", "measure"),
    [("pretrain", [20], "bits_per_base"), ("finetune", [10, 20], "loss")],
)
def test_checkpoints_and_metrics(
    workdir: pathlib.Path, run: str, steps: list[int], measure: str
) -> None:
    folder = workdir / run
    assert saved_steps(folder / "checkpoints") == steps
    assert read_manifest(newest_whole(folder / "checkpoints"))["step"] == 20
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if measure in line] == [10, 20]
    assert all(0 < line[measure] < 2.2 for line in lines if measure in line)
    assert list((folder / "tensorboard").iterdir())


def test_bits_per_base_lie_between_entropy_and_uniform(workdir: pathlib.Path, printed: str) -> None:
    truth = json.loads((workdir / "simulated" / "truth.json").read_text())["pretrain_validation"]
    result = json.loads((workdir / "pretrain" / "result.json").read_text())
    bits = result["model"]["validation_bits_per_base"]
    # Below the entropy rate of the source is knowledge that the model cannot have: a leak.
    assert truth["bits_per_base"] - 3 * truth["standard_error"] < bits < 2.0
    assert list(result["markov"]["bits_per_base"]) == [str(order) for order in range(10)]
    assert f"bits per base on validation genomes: {bits:.4f}" in printed


def test_the_bundle_holds_a_classifier(workdir: pathlib.Path) -> None:
    manifest = read_manifest(workdir / "bundle")
    assert manifest["kind"] == "bundle"
    assert manifest["language_model_head"] is False
    assert not [name for name in manifest["parameters"] if "lm_head" in name]
    assert manifest["backbone"]["kind"] == "pretrain"
    assert manifest["backbone"]["step"] == 20
    assert 0 < manifest["threshold"] < 1


def test_the_evaluation(workdir: pathlib.Path) -> None:
    folder = workdir / "evaluation" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    truth = json.loads((workdir / "simulated" / "truth.json").read_text())
    predictions = rows_of(folder / "predictions.tsv")
    contigs = rows_of(workdir / "simulated" / "virus" / "test.tsv")
    for ours, theirs in (("sequence_id", "contig"), ("label", "label"), ("cluster", "cluster")):
        assert [row[ours] for row in predictions] == [row[theirs] for row in contigs]
    auroc = metrics["model"]["overall"]["auroc"]
    # A better one than the Bayes-optimal classifier's, beyond chance, would be a leak.
    assert auroc["value"] > 0.5
    assert auroc["low"] < truth["bayes_auroc"]["test"]["all"]
    assert set(metrics["model"]["by_length"]) == {"300", "500", "1000"}
    assert len(metrics["baselines"]) == 9
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "pre-training" in page
    assert "fine-tuning" in page
    assert not re.search(r"""<(script|link)|(src|href)=["']?http""", page)


def test_scores_are_one_row_a_record(workdir: pathlib.Path) -> None:
    records = list(read_records([str(workdir / "simulated" / "virus" / "test.fa.gz")]))
    scores = rows_of(workdir / "scores.tsv")
    assert [row["sequence_id"] for row in scores] == [record.id for record in records]
    assert {row["status"] for row in scores} == {"ok"}
    predictions = rows_of(workdir / "evaluation" / "test" / "predictions.tsv")
    np.testing.assert_allclose(
        [float(row["virus_score"]) for row in scores],
        [float(row["score"]) for row in predictions],
        atol=1e-5,
    )


def test_the_last_lines_say_how_far_it_is_from_the_best(
    workdir: pathlib.Path, printed: str
) -> None:
    bits, distance, auroc, report = printed.splitlines()[-4:]
    for words, line in (
        ("bits per base on validation genomes|entropy rate|uniform 2.0000", bits),
        ("above the entropy rate by|below uniform by", distance),
        ("AUROC on test contigs|Bayes-optimal 0.9", auroc),
        (f"report: {workdir / 'evaluation' / 'test' / 'report.html'}", report),
    ):
        assert [word for word in words.split("|") if word not in line] == []


def test_nothing_half_written_is_left(workdir: pathlib.Path) -> None:
    assert sorted(path.name for path in workdir.iterdir()) == [
        *("bundle", "data", "evaluation", "finetune", "pretrain"),
        *("scores.tsv", "scores.tsv.provenance.json", "simulated"),
    ]
    unfinished = ("*.tmp*", "*.part*", "*incomplete*", "*.old")
    assert [path for pattern in unfinished for path in workdir.rglob(pattern)] == []
