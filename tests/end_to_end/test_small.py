"""Do real genomes go the same way: prepared, split by cluster, learnt from, scored?"""

import csv
import pathlib
import subprocess

import pytest

from data_pipeline.contigs import open_contigs
from data_pipeline.corpus import open_corpus
from data_pipeline.reading import fields, read_records
from dnallm_jax.training.checkpoints import read_manifest
from tests.end_to_end.conftest import Program

pytestmark = pytest.mark.timeout(900)  # for a machine with other work to do

# A network and a budget too small to learn anything: only the way is tested here.
SMALLER = [
    f"--config.{setting}"
    for setting in (
        *("model.width=32", "model.layers=1", "model.head_width=16", "model.feed_forward=64"),
        *("execution.attention=reference", "execution.unroll=no"),  # which compile faster
        *("pretrain.steps=4", "pretrain.eval_every=4", "pretrain.save_every=4"),
        *("pretrain.log_every=2", "pretrain.batch_rows=8", "pretrain.eval_rows=16"),
        *("finetune.steps=4", "finetune.eval_every=4", "finetune.save_every=4"),
        *("finetune.log_every=2", "finetune.lengths=(300,)", "finetune.eval_contigs=60"),
        "score.window=300",
    )
]


def splits_that_share(clusters: dict[str, set[str]]) -> list[str]:
    """The clusters that lie in more than one split."""
    train, validation = clusters["train"], clusters["validation"]
    assert train
    assert validation
    return sorted(train & validation)


@pytest.fixture(scope="module")
def workdir(
    program: Program, real_data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The folder after prepare, pretrain, finetune and score."""
    folder = tmp_path_factory.mktemp("small")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        ended = program(*words, folder=folder)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended

    recipe = ["--config=configs/small.py", "--workdir=w", *SMALLER]
    run("prepare", *recipe, f"--config.root={real_data}")
    run("pretrain", *recipe)
    run("finetune", *recipe)
    contigs = str(real_data / "small" / "virus_small.fa.gz")
    ended = run("score", "--bundle=w/bundle", "--output=w/scores.tsv", contigs)
    assert "720 scored" in ended.stderr
    return folder / "w"


def test_no_cluster_of_genomes_is_on_both_sides(
    workdir: pathlib.Path, real_data: pathlib.Path
) -> None:
    genomes = list(read_records([str(real_data / "small" / "pretrain_small.fa.gz")]))
    cluster = {genome.id: fields(genome.description)["cluster"] for genome in genomes}
    corpus = open_corpus(str(workdir / "data" / "corpus"))
    clusters, used = {}, set()
    for split in ("train", "validation"):
        source = corpus.source(split)
        rows = (source[number]["record_ids"].decode() for number in range(len(source)))
        names = {name for row in rows for name in row.split("\n")}
        clusters[split] = {cluster[name] for name in names}
        used |= names
    assert splits_that_share(clusters) == []
    left_out = {g.id for g in genomes if fields(g.description)["group"] == "euk-virus"}
    assert left_out
    assert not left_out & used
    info = corpus.splits
    share = info["validation"].bases / (info["train"].bases + info["validation"].bases)
    assert 0.02 < share < 0.25


def test_no_cluster_of_contigs_is_on_both_sides(workdir: pathlib.Path) -> None:
    contigs = open_contigs(str(workdir / "data" / "contigs"))
    clusters = {}
    for split in ("train", "validation"):
        source = contigs.source(split)
        records = [source[number] for number in range(len(source))]
        clusters[split] = {record["cluster"].decode() for record in records}
        assert {int(record["label"]) for record in records} == {0, 1}
    assert splits_that_share(clusters) == []
    # One cluster moved by hand is seen.
    moved = {**clusters, "train": clusters["train"] | {min(clusters["validation"])}}
    assert splits_that_share(moved) == [min(clusters["validation"])]


def test_the_bundle_comes_from_the_pretrained_backbone(workdir: pathlib.Path) -> None:
    manifest = read_manifest(workdir / "bundle")
    assert manifest["members"]["gpt"]["view"] == "frames"
    assert (manifest["backbone"]["kind"], manifest["backbone"]["step"]) == ("pretrain", 4)


def test_every_contig_is_scored(workdir: pathlib.Path, real_data: pathlib.Path) -> None:
    with (workdir / "scores.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    contigs = list(read_records([str(real_data / "small" / "virus_small.fa.gz")]))
    assert [row["sequence_id"] for row in rows] == [contig.id for contig in contigs]
    assert [int(row["length"]) for row in rows] == [len(contig.bases) for contig in contigs]
    assert {row["status"] for row in rows} == {"ok"}
    assert all(0 <= float(row["virus_score"]) <= 1 for row in rows)
