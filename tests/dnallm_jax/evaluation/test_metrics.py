"""A table of predictions becomes a complete, honest, plain-JSON account."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from dnallm_jax.evaluation import metrics

LENGTHS = (300, 1000, 3000)


def table(count: int = 600, seed: int = 0) -> dict[str, np.ndarray]:
    """Made-up predictions: longer contigs are easier, each group holds one class."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % 2
    length = random.choice(LENGTHS, count)
    signal = (2 * label - 1) * np.log10(length / 60) + random.normal(size=count)
    group = np.where(
        label == 1,
        random.choice(["phage", "euk-virus"], count),
        random.choice(["bacteria", "plasmid"], count),
    )
    novelty = np.where((label == 1) & (random.random(count) < 0.3), "novel_family", "none")
    return {
        "sequence_id": np.array([f"c{i}" for i in range(count)]),
        "label": label,
        "length": length,
        "group": group,
        "novelty": novelty,
        "family": np.array(["-"] * count),
        "score": 1 / (1 + np.exp(-signal)),
        "logit": signal,
    }


def plain_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def test_values_are_scikit_learns_and_lie_in_their_intervals() -> None:
    predictions = table()
    evaluation = metrics.evaluate_predictions(predictions, threshold=0.7, bootstrap=200)
    assert plain_json(evaluation) == evaluation
    for length in LENGTHS:
        chosen = predictions["length"] == length
        y, p = predictions["label"][chosen], predictions["score"][chosen]
        entry = evaluation["by_length"][str(length)]
        assert entry["auroc"]["value"] == sklearn_metrics.roc_auc_score(y, p)
        assert entry["average_precision"]["value"] == sklearn_metrics.average_precision_score(y, p)
        assert entry["mcc"]["value"] == sklearn_metrics.matthews_corrcoef(y, p >= 0.7)
        assert entry["brier"]["value"] == sklearn_metrics.brier_score_loss(y, p)
        assert (entry["records"], entry["viral"]) == (chosen.sum(), y.sum())
        assert entry["sensitivity"]["value"] == (p[y == 1] >= 0.7).mean()
        for name in metrics.METRICS:
            assert entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"], name
    assert list(evaluation["by_length"]) == ["300", "1000", "3000"]


def test_same_seed_same_bytes_other_seed_other_interval() -> None:
    first, again, other = (
        metrics.evaluate_predictions(table(200), threshold=0.5, bootstrap=50, seed=seed)
        for seed in (1, 1, 2)
    )
    assert json.dumps(first) == json.dumps(again)
    assert first["overall"]["auroc"]["low"] != other["overall"]["auroc"]["low"]


def test_intervals_cover_the_truth() -> None:
    """AUROC of N(1, 1) against N(0, 1) is 0.7602; 95 % intervals miss it about once in twenty."""
    covered, low_only = 0, 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        label = np.repeat([0, 1], 80)
        score = 1 / (1 + np.exp(-(random.normal(size=160) + label)))
        columns = {"label": label, "score": score, "length": np.full(160, 500)}
        auroc = metrics.evaluate_predictions(columns, threshold=None, bootstrap=120)["overall"][
            "auroc"
        ]
        covered += auroc["low"] <= 0.7602 <= auroc["high"]
        half = (auroc["high"] - auroc["value"]) / 4  # the planted fault: intervals too narrow
        low_only += abs(auroc["value"] - 0.7602) <= half
    assert covered >= 34
    assert low_only < 34


def calibration_interval(seed: int, temperature: float) -> dict[str, float]:
    """Of a model whose logits are `temperature` times too large."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=600) * 2
    columns = {
        "label": (random.random(600) < 1 / (1 + np.exp(-logits))).astype(int),
        "score": 1 / (1 + np.exp(-temperature * logits)),
        "length": np.full(600, 500),
    }
    overall = metrics.evaluate_predictions(columns, threshold=None, bootstrap=100)["overall"]
    return overall["expected_calibration_error"]


def test_calibration_intervals_know_that_noise_looks_like_error() -> None:
    """A perfect model's interval holds 0, an overconfident one's holds its 0.117 and not 0."""
    perfect = [calibration_interval(seed, 1.0) for seed in range(15)]
    wrong = [calibration_interval(seed, 2.5) for seed in range(15)]
    assert sum(error["low"] == 0 for error in perfect) >= 13
    assert sum(error["low"] <= 0.117 <= error["high"] for error in wrong) >= 12
    assert all(error["low"] > 0.03 for error in wrong)
    # The planted fault: the plain value as a claim about perfect models.
    assert min(error["value"] for error in perfect) > 0.015
    assert np.mean([e["if_perfect"] for e in perfect]) == pytest.approx(
        np.mean([e["value"] for e in perfect]), rel=0.25
    )


def test_one_class_bins_are_set_against_the_other_class() -> None:
    predictions = table()
    evaluation = metrics.evaluate_predictions(predictions, threshold=0.7, bootstrap=20)
    phage = evaluation["by_group"]["phage"]
    negatives = predictions["label"] == 0
    used = (predictions["group"] == "phage") | negatives
    assert phage["against"] == {"records": int(negatives.sum()), "class": "not viral"}
    assert phage["auroc"]["value"] == sklearn_metrics.roc_auc_score(
        predictions["label"][used], predictions["score"][used]
    )
    assert phage["average_precision"]["value"] is None
    assert "every contig is viral" in phage["average_precision"]["reason"]
    assert phage["false_positive_rate"]["value"] is None
    assert evaluation["by_group"]["plasmid"]["sensitivity"]["value"] is None
    novel = evaluation["by_novelty_and_length"]["novel_family"]["300"]
    short_negatives = negatives & (predictions["length"] == 300)
    assert novel["against"]["records"] == short_negatives.sum()
    assert evaluation["by_novelty"]["none"]["against"] is None


def test_one_class_alone_says_why_there_is_no_number() -> None:
    predictions = {name: column[table()["label"] == 0] for name, column in table().items()}
    evaluation = metrics.evaluate_predictions(predictions, threshold=0.5, bootstrap=20)
    assert plain_json(evaluation) == evaluation
    assert evaluation["overall"]["auroc"]["value"] is None
    assert evaluation["overall"]["auroc"]["reason"]
    assert 0 < evaluation["overall"]["false_positive_rate"]["value"] < 1


def test_without_a_threshold_nothing_is_called() -> None:
    overall = metrics.evaluate_predictions(table(100), threshold=None, bootstrap=10)["overall"]
    assert overall["mcc"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "no threshold was given",
    }
    assert "sensitivity" not in overall


def test_many_lengths_are_reported_in_ranges() -> None:
    bins = metrics.length_bins(
        np.array([10, 299, 300, 450, 999, 1000, 4999, 5000, 9999, 10**4, 10**6])
    )
    assert {name: int(chosen.sum()) for name, chosen in bins.items()} == {
        "0-299": 2,
        "300-499": 2,
        "500-999": 1,
        "1000-2999": 1,
        "3000-4999": 1,
        "5000-9999": 2,
        "10000+": 2,
    }


def paired_interval_is_tight(paired: dict[str, Any]) -> bool:
    return paired["high"] - paired["low"] < 0.02


def test_paired_difference_redraws_both_together() -> None:
    predictions = table()
    label, score = predictions["label"], predictions["score"]
    noise = np.random.default_rng(5).normal(scale=0.02, size=len(label))
    worse = np.clip(score + noise, 0, 1)
    paired = metrics.paired_difference(label, score, worse, "auroc", bootstrap=200)
    assert paired["value"] == pytest.approx(
        sklearn_metrics.roc_auc_score(label, score) - sklearn_metrics.roc_auc_score(label, worse)
    )
    assert paired["low"] <= paired["value"] <= paired["high"]
    assert paired_interval_is_tight(paired)
    # The planted fault: two bootstraps of their own, as if the contigs were others.
    alone = [
        metrics.resampling.resampled_metrics(
            label, p, threshold=None, clusters=None, resamples=200, seed=seed
        )["auroc"]
        for seed, p in ((0, score), (1, worse))
    ]
    low, high = np.percentile(alone[0] - alone[1], (2.5, 97.5))
    assert not paired_interval_is_tight({"low": low, "high": high})


def test_equal_scores_differ_by_nothing() -> None:
    predictions = table(100)
    same = metrics.paired_difference(
        predictions["label"], predictions["score"], predictions["score"], "brier", bootstrap=20
    )
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="thresholds"):
        metrics.paired_difference(
            predictions["label"], predictions["score"], predictions["score"], "mcc"
        )


def test_called_viral_by_genus_is_counted_among_negatives_only() -> None:
    predictions = {
        "label": np.array([0, 0, 0, 0, 1]),
        "length": np.full(5, 1000),
        "score": np.array([0.9, 0.1, 0.1, 0.2, 0.99]),
        "genus": np.array([b"Mucor", b"Mucor", b"Danio", b"Danio", b"T4"], dtype=object),
    }
    rates = metrics.called_viral_by(predictions, "genus", threshold=0.5)
    assert [(name, rate["called"], rate["of"]) for name, rate in rates.items()] == [
        ("Mucor", 1, 2),
        ("Danio", 0, 2),
    ]


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("score", np.array([0.5, np.nan]), "record 1: score nan"),
        ("score", np.array([0.5, 1.5]), "not between 0 and 1"),
        ("label", np.array([0, 2]), "labels must be 0 or 1"),
        ("label", np.array([0, 1, 1]), "different length"),
    ],
)
def test_unusable_columns_are_refused(column: str, value: np.ndarray, complaint: str) -> None:
    columns = {"label": np.array([0, 1]), "score": np.array([0.2, 0.8]), "length": np.array([9, 9])}
    with pytest.raises(ValueError, match=complaint):
        metrics.evaluate_predictions(columns | {column: value}, threshold=None, bootstrap=2)
