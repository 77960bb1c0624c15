"""Does an evaluation leave figures, predictions and a page behind that agree with each other?"""

import copy
import csv
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from data_pipeline.contigs import Contigs
from data_pipeline.errors import UserError
from dnallm_jax.evaluation import evaluating
from dnallm_jax.evaluation.baselines import FeatureBaseline, frequencies, gc_content, logistic
from dnallm_jax.evaluation.metrics import evaluate_predictions, paired_difference
from dnallm_jax.evaluation.truth import compare
from tests.dnallm_jax.bundles import random_bases, reading, write_contigs

MANIFEST = {
    "members": {"gpt": dataclasses.asdict(reading())},
    "backbone": {"kind": "pretrain", "bases_seen": 1_234_567},
    "step": 20,
    "steps": 40,
    "versions": {"python": "3.11"},
    "files": {"arrays/a": "0" * 64},
}
HISTORY = {
    "pre-training": [{"step": n, "bits_per_base": 2 - n / 100} for n in (10, 20)],
    "fine-tuning": [],
}
PRETRAINING = {
    "model": {"validation_bits_per_base": 1.9},
    "markov": {"bits_per_base": {str(order): 1.99 for order in range(10)}},
}


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Contigs:
    return write_contigs(tmp_path_factory.mktemp("contigs"), validation=60)


def predictions_of(contigs: Contigs) -> dict[str, np.ndarray]:
    """Predictions in the order of the contigs; a cluster scores alike, and one has no score."""
    source = contigs.source("validation")
    records = [source[number] for number in range(len(source))]
    text = {
        name: np.array([record[name].decode() for record in records])
        for name in ("id", "group", "cluster", "family", "novelty", "organism")
    }
    label = np.array([record["label"] for record in records])
    cluster = np.array([f"c{number // 6}" for number in range(len(records))])
    luck = np.random.default_rng(0).normal(size=len(records) // 6 + 1)
    logit = 1.0 * label - 0.5 + np.repeat(luck, 6)[: len(records)] + 0.01 * np.arange(len(records))
    logit[5] = np.nan
    return {
        **{name: text[name] for name in ("group", "family", "novelty", "organism")},
        "sequence_id": text["id"],
        "label": label,
        "length": np.array([len(record["bases"]) for record in records]),
        "gc": np.array([np.isin(record["bases"], list(b"GC")).mean() for record in records]),
        "logit": logit,
        "score": 1 / (1 + np.exp(-logit)),
        "cluster": cluster,
    }


@pytest.fixture(scope="module")
def predictions(contigs: Contigs) -> dict[str, np.ndarray]:
    return predictions_of(contigs)


@pytest.fixture
def few_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two baselines that are fitted in no time."""
    found = [
        FeatureBaseline("GC content", gc_content, logistic(1.0)),
        FeatureBaseline("3-mer logistic regression", frequencies(3), logistic(0.1)),
    ]
    monkeypatch.setattr(evaluating, "standard_baselines", lambda: copy.deepcopy(found))


def training_windows() -> evaluating.Windows:
    windows = [np.frombuffer(random_bases(200, 5_000 + number), np.uint8) for number in range(40)]
    return windows, np.arange(40) % 2


def evaluate(
    folder: pathlib.Path,
    contigs: Contigs,
    predictions: dict[str, np.ndarray],
    *,
    windows: evaluating.Windows | None = None,
    pretraining: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    result = folder / "result.json"
    if pretraining is not None:
        folder.mkdir(exist_ok=True)
        result.write_text(json.dumps(pretraining))
    return evaluating.evaluate(
        folder / "validation",
        predictions,
        contigs=contigs,
        split="validation",
        threshold=0.6,
        training_windows=windows,
        history=HISTORY,
        pretraining=result,
        **{"manifest": MANIFEST, **more},
    )


@pytest.mark.usefixtures("few_baselines")
def test_what_is_left_behind(
    contigs: Contigs,
    predictions: dict[str, np.ndarray],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = evaluate(
        tmp_path, contigs, predictions, windows=training_windows(), pretraining=PRETRAINING
    )
    folder = tmp_path / "validation"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("metrics.json", "predictions.tsv", "report.html")
    ]
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert result["unscored"] == 1
    assert result["model"]["overall"]["records"] == len(predictions["label"]) - 1
    assert result["pretraining"] == PRETRAINING
    assert "files" not in result["bundle"]
    assert set(result["baselines"]) == {"GC content", "3-mer logistic regression"}

    page = (folder / "report.html").read_text()
    for shown in ("GC content", "Markov order 4", "1,234,567 bases seen", "60 validation contigs"):
        assert shown in page
    printed = capsys.readouterr().out.splitlines()
    unknown = evaluating.UNKNOWN_TRAINING
    assert printed == [*evaluating.summary(result), unknown, str(folder / "report.html")]
    assert "whether it has seen some of them is unknown" in page


def test_predictions_are_written_one_row_a_contig(
    contigs: Contigs, predictions: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    evaluate(tmp_path, contigs, predictions)
    with (tmp_path / "validation" / "predictions.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == evaluating.COLUMNS
    assert "cluster" in rows[0]
    for name in ("sequence_id", "label", "length", "cluster", "group"):
        assert [row[name] for row in rows] == [str(value) for value in predictions[name]]
    for name in ("score", "logit"):
        found = np.array([float(row[name]) for row in rows])
        np.testing.assert_allclose(found, predictions[name], rtol=1e-5)
    assert rows[5]["score"] == "nan"


@pytest.mark.usefixtures("few_baselines")
def test_whole_clusters_are_redrawn(
    contigs: Contigs, predictions: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    result = evaluate(tmp_path, contigs, predictions, windows=training_windows())
    model = result["model"]
    assert model["settings"]["resampled_unit"] == "cluster"
    assert model["overall"]["clusters"] == 10
    scored = np.isfinite(predictions["logit"])
    table = {name: column[scored] for name, column in predictions.items()}
    assert model == evaluate_predictions(table, threshold=0.6)

    baseline = logistic(1.0)
    windows, labels = training_windows()
    baseline.fit(gc_content(windows), labels)
    source = contigs.source("validation")
    bases = [source[int(number)]["bases"] for number in np.flatnonzero(scored)]
    other = baseline.predict_proba(gc_content(bases))[:, 1]

    def difference(clusters: np.ndarray | None) -> dict[str, Any]:
        arguments = (table["label"], table["score"], other, "auroc")
        return paired_difference(*arguments, clusters=clusters)

    found = result["model_minus_baseline_auroc"]["GC content"]
    assert {**found, "by_length": None} == {**difference(table["cluster"]), "by_length": None}
    assert set(found["by_length"]) == {"200", "300"}
    # Contigs of one cluster score alike, so redrawing them one by one would promise too much.
    alone = difference(None)
    assert found["high"] - found["low"] > 1.2 * (alone["high"] - alone["low"])


@pytest.mark.usefixtures("few_baselines")
def test_members_and_other_bundles_are_rivals(
    contigs: Contigs, predictions: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    """Of two members the GPT is measured beside the others, and so is another bundle's GPT."""
    noise = np.random.default_rng(1).normal(size=(3, len(predictions["label"])))
    mine = {"logit_composition": noise[0], "logit_gpt": predictions["logit"] - 0.2}
    other = {"logit_composition": noise[1], "logit_gpt": noise[2], "score": np.full(60, 0.5)}
    scan = {"records": 1, "bases": 2_000_000, "regions": 3, "called_bases": 90_000}
    scan["per_million_bases"] = {"value": 1.5, "low": 0.3, "high": 4.4}
    region = {"sequence_id": "chr<1>", "start": 10, "stop": 30_010, "score": 0.97}
    genomes = {"threshold": 0.6, "all": scan, "by_group": {"bacteria": scan}, "longest": [region]}
    manifest = MANIFEST | {"trained_on": contigs.trained_on}
    result = evaluate(
        tmp_path,
        contigs,
        predictions | mine,
        windows=training_windows(),
        others={
            "runs/random/bundle": predictions | other,
            "runs/gpt/bundle": predictions | {"logit_gpt": noise[2], "score": np.full(60, 0.5)},
        },
        genomes=genomes,
        manifest=manifest,
    )
    assert set(result["members"]) == {"composition", "gpt"}
    theirs = "runs/random/bundle: its gpt alone"
    assert {"runs/random/bundle", theirs, "GC content"} < set(result["baselines"])
    against = result["minus_best_baseline_auroc"]
    assert list(against) == ["this detector", "gpt"]
    everything = [result["baselines"], {"its composition alone": result["members"]["composition"]}]
    worth = {n: e["overall"]["auroc"]["value"] for group in everything for n, e in group.items()}
    best = max(worth, key=lambda name: worth[name])
    assert against["gpt"]["all"]["rival"] == best
    assert against["gpt"]["all"]["b"] == pytest.approx(worth[best])
    assert set(against["gpt"]) == {"all", "200", "300"}
    assert result["gpt_minus_other_gpt_auroc"]["runs/random/bundle"]["b"] == pytest.approx(
        worth[theirs]
    )
    # Of a bundle that is a GPT and no more, that is all.
    assert "runs/gpt/bundle: its gpt alone" not in result["baselines"]
    of_both = result["gpt_minus_other_gpt_auroc"].values()
    assert len({difference["b"] for difference in of_both}) == 1 < len(of_both)
    page = (tmp_path / "validation" / "report.html").read_text()
    assert "Minus the best simpler classifier of each length" in page
    assert "chr&lt;1&gt;" in page
    assert "1.500" in page
    assert evaluating.UNKNOWN_TRAINING not in page
    assert set(result["model"]["by_gc"]) <= {"40-50 %", "50-60 %", "30-40 %", "60-100 %", "0-30 %"}
    assert sum(e["records"] for e in result["model"]["by_gc"].values()) == 59


def test_an_evaluation_again_replaces_the_first(
    contigs: Contigs, predictions: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    first = evaluate(tmp_path, contigs, predictions)
    page = (tmp_path / "validation" / "report.html").read_bytes()
    assert first["baselines"] == {} == first["model_minus_baseline_auroc"]
    assert first["pretraining"] is None
    again = evaluate(tmp_path, contigs, predictions)
    assert (first, page) == (again, (tmp_path / "validation" / "report.html").read_bytes())
    assert len(list((tmp_path / "validation").iterdir())) == 3


@pytest.mark.usefixtures("few_baselines")
def test_contigs_of_one_class_only(
    contigs: Contigs, predictions: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    harmless = predictions | {"label": np.zeros_like(predictions["label"])}
    result = evaluate(tmp_path, contigs, harmless, windows=training_windows())
    assert result["model"]["overall"]["auroc"]["value"] is None
    assert result["model"]["overall"]["false_positive_rate"]["of"] == 59
    assert result["model_minus_baseline_auroc"]["GC content"]["value"] is None
    assert {line.split()[-1] for line in evaluating.summary(result)[1:]} == {"-"}


def test_nothing_that_could_be_scored_is_an_error(
    contigs: Contigs, predictions: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    nothing = predictions | {"logit": np.full(len(predictions["logit"]), np.nan)}
    with pytest.raises(UserError, match="no validation contig holds a base that could be scored"):
        evaluate(tmp_path, contigs, nothing)
    assert not (tmp_path / "validation").exists()


def test_the_summary_is_aligned() -> None:
    def entry(*values: float | None) -> dict[str, Any]:
        return {
            "by_length": {
                n: {"auroc": {"value": value}}
                for n, value in zip(("300", "10000+"), values, strict=True)
            }
        }

    result = {
        "split": "validation",
        "model": entry(0.98765, 1.0),
        "members": {"gpt": entry(0.97, 0.99)},
        "baselines": {"GC": entry(0.5, None), "6-mer logistic regression": entry(0.9, 0.95)},
    }
    assert evaluating.summary(result) == [
        "AUROC on validation           300  10000+",
        "this detector              0.9877  1.0000",
        "its gpt alone              0.9700  0.9900",
        "GC                         0.5000       -",
        "6-mer logistic regression  0.9000  0.9500",
    ]


def test_a_result_beside_the_truth() -> None:
    truth = {
        "pretrain_validation": {"bits_per_base": 1.9, "standard_error": 0.002},
        "bayes_auroc": {"test": {"all": 0.98}},
    }
    auroc = {"value": 0.95, "low": 0.93, "high": 0.97}
    pretraining = {"model": {"validation_bits_per_base": 1.92}}
    assert compare(truth, pretraining, {"model": {"overall": {"auroc": auroc}}}) == [
        "bits per base on validation genomes: 1.9200; entropy rate of their source 1.9000 "
        "(standard error 0.0020), uniform 2.0000",
        "  above the entropy rate by +0.0200, below uniform by 0.0800",
        "AUROC on test contigs: 0.9500 (0.9300 to 0.9700); Bayes-optimal 0.9800",
    ]
