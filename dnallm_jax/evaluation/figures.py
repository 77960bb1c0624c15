"""Which pictures show how good a detector is? Each function returns one inline SVG."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from sklearn import metrics as sklearn_metrics

from dnallm_jax.evaluation import resampling, thresholds
from dnallm_jax.evaluation.drawing import (
    COLOURS,
    HALF,
    LENGTH_COLOURS,
    canvas,
    canvas_with_strip,
    styled,
    to_svg,
)

MOST_POINTS = 600  # of any one curve


@styled
def roc(
    labels: np.ndarray,
    scores: np.ndarray,
    bins: Mapping[str, np.ndarray],
    threshold: float | None,
    *,
    logarithmic: bool = False,
) -> str:
    """Viruses found against false positives, of all contigs and by length.

    Args:
      bins: bool[N] by length, drawn thin (those with both classes).
      threshold: marked by a dot, where given.
      logarithmic: false positives on a log axis, with the rates up to 1 % in view.
    """
    figure, axes = canvas(HALF, 3.9)
    negatives = max(int((labels == 0).sum()), 1)
    left = min(max(1 / negatives, 1e-5), 1e-3) if logarithmic else 0.0
    steps = "steps-post" if logarithmic else "default"

    def draw(chosen: np.ndarray, colour: str, width: float, label: str) -> None:
        false, found = roc_curve(labels[chosen], scores[chosen])
        style: dict[str, Any] = {
            "drawstyle": steps,
            "color": colour,
            "linewidth": width,
            "label": label,
        }
        axes.plot(np.maximum(false, left), found, **style)

    shades = spread(LENGTH_COLOURS, len(bins))
    for (name, chosen), shade in zip(bins.items(), shades, strict=True):
        if len(bins) > 1 and len(np.unique(labels[chosen])) == 2:
            draw(chosen, shade, 1, bases(name))
    draw(np.ones(len(labels), dtype=bool), COLOURS["ink"], 2.2, "all contigs")
    if threshold is not None:
        at = [(scores[labels == label] >= threshold).mean() for label in (0, 1)]
        axes.plot(*at, "o", color=COLOURS["virus"], markersize=6, label="chosen threshold")
    axes.set(ylim=(0, 1.01), xlabel="false-positive rate", ylabel="viruses found")
    if logarithmic:
        axes.axvspan(left, 0.01, color=COLOURS["good"], alpha=0.1, linewidth=0)
        note: dict[str, Any] = {"color": COLOURS["good"], "ha": "right", "va": "top", "fontsize": 8}
        axes.text(0.009, 0.98, "at most 1\N{NO-BREAK SPACE}%", **note)
        axes.set(xscale="log", xlim=(left, 1), title="ROC where it matters: few false positives")
    else:
        axes.plot([0, 1], [0, 1], color=COLOURS["grey"], linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set(xlim=(-0.01, 1), title="ROC")
        axes.legend(loc="lower right")
    axes.xaxis.set_major_formatter(FuncFormatter(percent))  # a log scale brought its own
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    auroc = sklearn_metrics.roc_auc_score(labels, scores)
    few = resampling.ranking_metrics(*unweighted(labels, scores))["sensitivity_at_1_percent_fpr"]
    return to_svg(
        figure,
        "roc-log" if logarithmic else "roc",
        "ROC curves, log axis" if logarithmic else "ROC curves",
        f"Share of viruses found against false-positive rate. Area under the curve {auroc:.3f}; "
        f"at 1 % false positives {percent(few)} of the viruses are found.",
    )


@styled
def precision_recall(labels: np.ndarray, scores: np.ndarray, threshold: float | None) -> str:
    """Precision against recall, in this set and in samples with fewer viruses."""
    share = float(labels.mean())
    figure, axes = canvas(HALF, 3.6)
    # Between two points of a ROC precision is no straight line: every threshold is needed.
    false, found, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    shown = [(share, COLOURS["model"], 2.2, f"this set: {percent(share)} viral")]
    shades = (LENGTH_COLOURS[2], LENGTH_COLOURS[1])
    for prevalence, shade in zip((0.1, 0.01), shades, strict=True):
        if prevalence < share:
            shown.append((prevalence, shade, 1.4, f"{percent(prevalence)} viral"))
    for prevalence, colour, width, label in shown:
        true = found * prevalence
        precision = true / np.maximum(true + false * (1 - prevalence), 1e-300)
        x, y = thinned(found[1:], precision[1:])
        axes.plot(x, y, color=colour, linewidth=width, label=label)
    if threshold is not None:
        called = scores >= threshold
        if called.any():
            at = (called[labels == 1].mean(), labels[called].mean())
            axes.plot(*at, "o", color=COLOURS["virus"], markersize=6, label="chosen threshold")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall: viruses found")
    axes.set(ylabel="precision: viral among called", title="Precision and recall")
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.legend(loc="lower left")
    area = sklearn_metrics.average_precision_score(labels, scores)
    return to_svg(
        figure,
        "pr",
        "Precision-recall curves",
        f"Precision against recall. Average precision in this set {area:.3f}; lower curves "
        "show the same detector in samples with fewer viruses.",
    )


@styled
def reliability(labels: np.ndarray, scores: np.ndarray) -> str:
    """Share viral against mean score in ten equal-mass bins, and the counts of scores."""
    figure, (axes, below) = canvas_with_strip(HALF, 3.6)
    axes.plot([0, 1], [0, 1], color=COLOURS["grey"], linewidth=0.8, linestyle=(0, (4, 3)))
    bins = resampling.calibration_bins(scores)
    worst = 0.0
    for number in np.unique(bins):
        members = bins == number
        viral, of = int(labels[members].sum()), int(members.sum())
        low, high = thresholds.wilson(viral, of)
        x, y = float(scores[members].mean()), viral / of
        worst = max(worst, abs(x - y))
        axes.plot([x, x], [low, high], color=COLOURS["model"], linewidth=1.2, alpha=0.6)
        axes.plot(x, y, "o", color=COLOURS["model"], markersize=4.5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is viral")
    axes.set(title="Reliability: a score of 0.8 should be viral four times in five")
    counts, edges = np.histogram(scores, bins=40, range=(0, 1))
    below.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=COLOURS["grey"])
    below.set(xlabel="score", ylabel="contigs")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    return to_svg(
        figure,
        "reliability",
        "Reliability diagram",
        "Share of viral contigs against mean score in ten bins of equal size, with 95 % "
        f"intervals; the largest gap is {worst:.3f}. Below, the number of contigs by score.",
    )


@styled
def score_histogram(labels: np.ndarray, scores: np.ndarray, threshold: float | None) -> str:
    """How the scores of both classes lie: viral upwards, the others downwards."""
    figure, axes = canvas(HALF, 3.6)
    sides = ((1, 1, "virus", "viral"), (0, -1, "other", "not viral"))
    words = []
    for label, sign, colour, name in sides:
        of_class = scores[labels == label]
        if not len(of_class):
            continue
        counts, edges = np.histogram(of_class, bins=50, range=(0, 1))
        axes.bar(
            edges[:-1],
            sign * counts / len(of_class),
            width=np.diff(edges),
            align="edge",
            color=COLOURS[colour],
            label=f"{name} ({len(of_class):,})",
        )
        words.append(f"{name} {np.median(of_class):.3f}")
    axes.axhline(0, color=COLOURS["ink"], linewidth=0.7)
    if threshold is not None:
        axes.axvline(threshold, color=COLOURS["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"threshold {threshold:.3f}",
            (threshold, 1),
            xytext=(-4 if threshold > 0.5 else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if threshold > 0.5 else "left",
            va="top",
            fontsize=8,
        )
    axes.set(xlim=(0, 1), xlabel="score", ylabel="share of the class")
    axes.set(title="Scores by class")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent(abs(y))))
    axes.legend(loc="lower center")
    return to_svg(
        figure,
        "histogram",
        "Score histograms by class",
        f"Viral contigs upwards, others downwards. Median scores: {', '.join(words)}.",
    )


@styled
def by_length(
    evaluation: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    measure: str,
    title: str,
) -> str:
    """A measure by length with its intervals, over the best baseline of each length."""
    figure, axes = canvas(HALF, 3.4)
    names = list(evaluation["by_length"])
    best: dict[float, float] = {}
    for entry in baselines.values():
        x, value, _, _ = measured(entry["by_length"], names, measure)
        for position, height in zip(x, value, strict=True):
            best[position] = max(height, best.get(position, 0.0))
    if best:
        axes.plot(
            sorted(best),
            [best[position] for position in sorted(best)],
            "s--",
            color=COLOURS["grey"],
            linewidth=1.2,
            markersize=3.5,
            label="best simpler classifier",
        )
    x, value, low, high = measured(evaluation["by_length"], names, measure)
    axes.vlines(x, low, high, color=COLOURS["model"], linewidth=4, alpha=0.25)
    own: dict[str, Any] = {"color": COLOURS["model"], "linewidth": 2, "markersize": 5}
    axes.plot(x, value, "o-", label="this detector", **own)
    axes.set_xticks(range(len(names)), [bases(name, unit=False) for name in names])
    axes.set(title=title, xlabel="contig length, bases", xlim=(-0.3, len(names) - 0.7))
    if measure == "auroc":
        axes.set_ylim(top=1.005)
    else:
        axes.set_ylim(0, 1.01)
        axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.legend(loc="lower right" if measure == "auroc" else "upper left")
    words = [f"{bases(names[int(i)])} {v:.3f}" for i, v in zip(x, value, strict=True)]
    return to_svg(figure, f"length-{measure}", f"{title} by length", "; ".join(words) + ".")


@styled
def learning(
    run: str, lines: Sequence[Mapping[str, float]], references: Mapping[str, float]
) -> str:
    """Loss of a run against step.

    Args:
      run: its name. lines: of its metrics.jsonl; `curves` finds something in them.
      references: label -> a level to draw (an entropy rate, a Markov model).
    """
    figure, axes = canvas(HALF, 3.4)
    found = curves(lines)
    words = []
    for label, (steps, values) in found.items():
        validation = label.startswith("validation")
        axes.plot(
            *thinned(steps, values),
            color=COLOURS["virus" if validation else "model"],
            linewidth=2 if validation else 1.2,
            marker="o" if validation and len(steps) < 40 else None,
            markersize=3.5,
            label="validation" if validation else "training",
        )
        words.append(f"{label}: from {values[0]:.4g} to {values[-1]:.4g}")
    for label, level in references.items():
        axes.axhline(level, color=COLOURS["grey"], linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{label}: {level:.3f}",
            (1, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=COLOURS["muted"],
        )
    unit = next(iter(found)).removeprefix("validation ")
    axes.set(title=run[:1].upper() + run[1:], xlabel="step", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.legend(loc="best")
    name = "learning-" + re.sub(r"[^a-z0-9]+", "-", run.lower())
    return to_svg(figure, name, f"Learning curve of {run}", "; ".join(words) + ".")


def curves(
    lines: Sequence[Mapping[str, float]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"bits per base": (steps, values), "validation bits per base": ...} of a run's lines."""
    for key in ("bits_per_base", "loss"):
        found = {}
        for name in (key, f"validation_{key}"):
            points = [(line["step"], line[name]) for line in lines if name in line]
            points = [(step, value) for step, value in points if np.isfinite(value)]
            if points:
                steps, values = np.array(points, dtype=np.float64).T
                found[name.replace("_", " ")] = (steps, values)
        if found:
            return found
    return {}


def measured(
    entries: Mapping[str, Mapping[str, Any]], names: Sequence[str], measure: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, values, lows and highs of the named bins where the measure exists."""
    rows = []
    for position, name in enumerate(names):
        entry = entries.get(name, {}).get(measure)
        if entry and entry["value"] is not None:
            value = entry["value"]
            low, high = (entry[k] if entry[k] is not None else value for k in ("low", "high"))
            rows.append((position, value, low, high))
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def unweighted(
    labels: np.ndarray, scores: np.ndarray
) -> tuple[resampling.Ranking, np.ndarray, np.ndarray]:
    """The records themselves, each counted once, as `resampling.ranking_metrics` takes them."""
    ranking = resampling.rank(labels, scores)
    one = np.ones(len(labels), dtype=np.int64)
    return ranking, one[ranking.positives], one[ranking.negatives]


def roc_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rates and shares found, both rising, thinned."""
    false, found, _ = sklearn_metrics.roc_curve(labels, scores)
    return thinned(false, found)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points, dense at the start: a log axis and a loss curve need that."""
    if len(x) <= MOST_POINTS:
        return x, y
    early = np.geomspace(1, len(x), MOST_POINTS // 2) - 1
    even = np.linspace(0, len(x) - 1, MOST_POINTS // 2)
    kept = np.unique(np.concatenate([early, even]).astype(np.int64))
    return x[kept], y[kept]


def spread(colours: Sequence[str], count: int) -> list[str]:
    """`count` of the colours, as far apart as they go."""
    return [colours[round(i)] for i in np.linspace(0, len(colours) - 1, max(count, 1))][:count]


def percent(share: float, _: int | None = None) -> str:
    """0.015 -> '1.5 %'."""
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def bases(name: str, *, unit: bool = True) -> str:
    """A length bin's name for people: '3000' -> '3,000 bp'."""
    words = re.sub(r"\d+", lambda m: f"{int(m[0]):,}", name).replace("-", "–")
    return f"{words} bp" if unit else words
