"""The report is valid, self-contained, honest and the same every time; a real browser agrees."""

import functools
import html.parser
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from dnallm_jax.evaluation import drawing, metrics, mistakes, page, report

VOID = {"meta", "br", "img", "link", "input", "hr"}
FORBIDDEN = {"script", "link", "iframe", "object", "embed", "img"}


def table(count: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    label = np.arange(count) % 2
    length = random.choice([300, 1000, 3000], count)
    logit = (2 * label - 1) * np.log10(length / 60) + random.normal(size=count)
    viral = label == 1
    return {
        "sequence_id": np.array([f"contig{i}" for i in range(count)]),
        "label": label,
        "length": length,
        "group": np.where(viral, "phage", "bacteria"),
        "novelty": np.where(viral & (random.random(count) < 0.3), "novel_family", "none"),
        "family": np.where(viral, "Straboviridae", "-"),
        "organism": np.array([f"organism_{i % 97}" for i in range(count)]),
        "score": 1 / (1 + np.exp(-1.5 * logit)),
        "logit": logit,
    }


HISTORY = {
    "pre-training": [
        {"step": s, "bits_per_base": 1.9 + 1 / s, "validation_bits_per_base": 1.91 + 1 / s}
        for s in range(10, 200, 10)
    ],
    "fine-tuning": [{"step": s, "loss": 0.3 + 1 / s} for s in range(10, 200, 10)],
}
CONTEXT = {
    "title": "Detector under test",
    "data": "made-up contigs",
    "references": {"pre-training": {"entropy rate": 1.9}},
    "Model": {"layers": 6, "width": 256},
    "commands": ["python main.py evaluate --workdir=runs/test"],
    "versions": {"numpy": "2"},
}


AGAINST = {
    name: {
        length: {"rival": "4-mer logistic regression", "value": low + 0.05, "low": low, "high": 0.3}
        for length, low in (("all", 0.02), ("300", own), ("1000", 0.03), ("3000", 0.1))
    }
    for name, own in (("this detector", 0.01), ("gpt", -0.02))
}
SCAN = {
    "bases": 4_000_000,
    "regions": 5,
    "called_bases": 90_000,
    "per_million_bases": {"value": 1.25, "low": 0.41, "high": 2.92},
}
GENOMES = {
    "all": SCAN,
    "by_group": {"bacteria": SCAN},
    "longest": [{"sequence_id": "chromosome_1", "start": 100, "stop": 40_100, "score": 0.973}],
}


def evaluations(
    predictions: dict[str, np.ndarray], threshold: float | None = 0.8
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    coin = np.random.default_rng(9).random(len(predictions["label"]))
    rival = np.clip(0.5 + 0.3 * (predictions["score"] - 0.5) + 0.3 * (coin - 0.5), 0, 1)
    return (
        metrics.evaluate_predictions(predictions, threshold=threshold, bootstrap=12),
        {
            name: metrics.evaluate_predictions(
                predictions | {"score": p}, threshold=None, bootstrap=12
            )
            for name, p in (("4-mer logistic regression", rival), ("GC content", coin))
        },
    )


@functools.cache
def usual_evaluations(
    threshold: float | None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    return evaluations(table(), threshold)


def written(path: pathlib.Path, **changes: Any) -> str:
    threshold = changes.pop("threshold", 0.8)
    if "predictions" in changes:
        predictions = changes.pop("predictions")
        evaluation, baselines = evaluations(predictions, threshold)
    else:
        predictions, (evaluation, baselines) = table(), usual_evaluations(threshold)
    beside = {"baselines": baselines, "against": AGAINST, "genomes": GENOMES}
    options = {"history": HISTORY, "context": CONTEXT, **beside} | changes
    report.write_report(path, evaluation, predictions, **options)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markup(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("report") / "report.html")


class Page(html.parser.HTMLParser):
    """What a careful reader of the source would note down."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in FORBIDDEN:
            self.faults.append(f"<{tag}>")
        if len(given) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if tag == "svg":
            self.pictures.append(given)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.targets += [v[1:] for k, v in attrs if k == "href" and v and v.startswith("#")]
        self.targets += [
            v for k, v in attrs if k.startswith("aria-labelledby") for v in (v or "").split()
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def faults(text: str) -> list[str]:
    """Whatever keeps the page from being valid, self-contained and accessible."""
    seen = Page()
    seen.feed(text)
    seen.close()
    found = list(seen.faults)
    found += [f"<{tag}> stays open" for tag in seen.open]
    found += [f"id {name} twice" for name in set(seen.ids) if seen.ids.count(name) > 1]
    references = seen.targets + re.findall(r"url\(#([^)]+)\)", text)
    found += [f"nothing is named {name}" for name in references if name not in seen.ids]
    found += re.findall(r"https?://[^\"'\s<]*|@import|url\((?!#)[^)]*\)", text)
    found += [
        "a picture without words"
        for picture in seen.pictures
        if picture.get("role") != "img" or not picture.get("aria-labelledby")
    ]
    if not text.startswith("<!DOCTYPE html>") or '<html lang="en">' not in text:
        found.append("no HTML5 head")
    if re.search(r"\bnan\b|\bNone\b|\binf\b", " ".join(seen.words)):
        found.append("a number that is none")
    return found


def test_valid_self_contained_accessible(markup: str) -> None:
    assert faults(markup) == []
    assert re.findall("<svg.*?<title[^>]*>(.*?)</title>", markup, re.DOTALL) == [
        "AUROC by length",
        "Viruses found at 1 % false positives by length",
        "ROC curves",
        "ROC curves, log axis",
        "Precision-recall curves",
        "Score histograms by class",
        "Reliability diagram",
        "Learning curve of pre-training",
        "Learning curve of fine-tuning",
    ]
    assert len(markup.encode()) < 1_500_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</main>", "</main></main>"),
        ('<h2 id="length">', '<h2 id="threshold">'),
        ('<a href="#length">', '<a href="#elsewhere">'),
        ("</style>", "@import 'x.css';</style>"),
        ("</header>", '<img src="logo.png"></header>'),
        ("</header>", "<p>see https://example.org</p></header>"),
        ("</header>", "<p>AUROC nan</p></header>"),
        (
            ' role="img"',
            "",
        ),
        ("<!DOCTYPE html>", ""),
    ],
)
def test_faults_would_be_found(markup: str, old: str, new: str) -> None:
    assert old in markup
    assert faults(markup.replace(old, new, 1))


def test_equal_input_gives_equal_bytes(markup: str, tmp_path: pathlib.Path) -> None:
    assert written(tmp_path / "again.html") == markup
    assert written(tmp_path / "other.html", threshold=0.7) != markup
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.html", "other.html"]
    assert not re.search(r"20\d\d-\d\d-\d\d", markup)


def test_headline_figures_are_those_of_the_evaluation(markup: str) -> None:
    overall = usual_evaluations(0.8)[0]["overall"]
    for name in ("auroc", "average_precision", "mcc", "expected_calibration_error"):
        assert f'<span class="big">{overall[name]["value"]:.3f}</span>' in markup, name
    assert f"{overall['auroc']['low']:.3f}–{overall['auroc']['high']:.3f}" in markup
    assert page.percentage(overall["sensitivity"]["value"]) in markup


def test_reads_an_evaluation_that_went_through_json(markup: str, tmp_path: pathlib.Path) -> None:
    predictions = table()
    evaluation, baselines = (json.loads(json.dumps(e)) for e in usual_evaluations(0.8))
    path = tmp_path / "report.html"
    against, genomes = (json.loads(json.dumps(given)) for given in (AGAINST, GENOMES))
    report.write_report(
        path,
        evaluation,
        predictions,
        history=HISTORY,
        baselines=baselines,
        against=against,
        genomes=genomes,
        context=CONTEXT,
    )
    assert path.read_text(encoding="utf-8") == markup


def test_says_loudly_when_it_does_not_beat_a_baseline(markup: str, tmp_path: pathlib.Path) -> None:
    assert 'class="warning"' not in markup
    assert "clearly below" in markup or "intervals overlap" in markup
    predictions = table()
    oracle = predictions | {"score": 0.1 + 0.8 * predictions["label"]}
    better = {"oracle": metrics.evaluate_predictions(oracle, threshold=None, bootstrap=5)}
    text = written(tmp_path / "beaten.html", baselines=better)
    assert "does not beat its baselines" in text
    # Better over all, worse on short contigs.
    short = np.where(predictions["length"] == 300, oracle["score"], 0.5)
    partly = predictions | {"score": short}
    better = {"short": metrics.evaluate_predictions(partly, threshold=None, bootstrap=5)}
    text = written(tmp_path / "partly.html", baselines=better)
    assert "not at every length" in text
    assert "300 bp (short: 1.000)" in text


def test_says_where_the_difference_to_the_best_is_not_proven(
    markup: str, tmp_path: pathlib.Path
) -> None:
    assert "not beyond doubt" not in markup
    assert markup.count('<span class="better">') == 1  # of the GPT alone, at 300 bases
    turned = {"this detector": AGAINST["gpt"], "gpt": AGAINST["this detector"]}
    text = written(tmp_path / "open.html", against=turned)
    assert "not beyond doubt" in text
    assert re.search(r"holds 0 at 300\Wbp\.", text)


def test_whole_genomes_are_told_per_million_bases(markup: str, tmp_path: pathlib.Path) -> None:
    for shown in ("1.250", "0.410–2.920", "chromosome_1", "40,100", "0.973", "2.2"):
        assert shown in markup
    assert 'id="genomes"' not in written(tmp_path / "none.html", genomes=None)


def test_hostile_names_stay_text(tmp_path: pathlib.Path) -> None:
    predictions = table()
    hostile = '<script>alert("1")</script>&amp;'
    predictions["organism"] = np.array([f"{hostile}{i}" for i in range(400)])
    predictions["group"] = np.where(predictions["label"] == 1, "<b>phage", "it's")
    context = {"title": hostile, "data": hostile, "Model": {hostile: hostile}, "commands": hostile}
    text = written(
        tmp_path / "report.html",
        predictions=predictions,
        context=context,
        history={hostile: HISTORY["fine-tuning"]},
    )
    assert faults(text) == []
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;1&quot;)" in text


@pytest.mark.parametrize("kept", [0, 1])
def test_one_class_makes_a_shorter_page(kept: int, tmp_path: pathlib.Path) -> None:
    predictions = {name: column[table()["label"] == kept] for name, column in table().items()}
    text = written(tmp_path / "report.html", predictions=predictions, history=None)
    assert faults(text) == []
    assert "cannot tell how well it ranks" in text
    assert 'id="calibration"' not in text


def test_only_the_needed_columns_and_no_threshold(tmp_path: pathlib.Path) -> None:
    predictions = {name: table()[name] for name in ("label", "score", "length")}
    text = written(
        tmp_path / "report.html",
        predictions=predictions,
        threshold=None,
        history=None,
        baselines=None,
        against=None,
        genomes=None,
        context={},
    )
    assert faults(text) == []
    for absent in ("groups", "baselines", "training"):
        assert f'id="{absent}"' not in text
    assert "Virus detector: evaluation" in text


def test_mistakes_are_the_worst_ones_and_not_all_of_one_organism() -> None:
    ranked = np.arange(100)
    organisms = np.array(["T4"] * 90 + ["lambda"] * 10)
    assert mistakes.varied(ranked, organisms) == [0, 1, 90, 91]
    assert mistakes.varied(ranked, np.array(["-"] * 100)) == list(range(mistakes.WORST))


def test_worst_mistakes_come_first(markup: str) -> None:
    predictions = table()
    for label, pick in ((1, np.argmin), (0, np.argmax)):
        members = np.flatnonzero(predictions["label"] == label)
        worst = predictions["sequence_id"][members[pick(predictions["score"][members])]]
        caption = "lowest scores" if label else "highest scores"
        rows = markup.split(f"{caption}</caption>")[1]
        assert re.search(r"<code>(contig\d+)</code>", rows)[1] == worst


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two #rrggbb colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [drawing.COLOURS, page.DARK])
def test_readable_on_light_and_on_dark_ground(colours: dict[str, str]) -> None:
    assert set(colours) == set(drawing.COLOURS)
    for name in ("ink", "muted", "model"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("virus", "other", "good", "grey"):
        assert contrast(colours[name], colours["paper"]) >= 3, name
    assert contrast("#aaaaaa", "#fdfdfc") < 3  # the planted fault: a fashionable pale grey


def test_no_colour_is_left_fixed_in_a_picture(markup: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", markup, flags=re.DOTALL)
    fixed = re.findall(r"#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\([^)]*\)', "", "".join(pictures)))
    assert fixed == []
