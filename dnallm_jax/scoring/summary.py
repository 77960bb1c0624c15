"""What is in a sample, on one page? Counts and pictures of a scoring run, in one HTML file.

Inline SVG, no script, nothing fetched; equal counts give equal bytes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from dnallm_jax.evaluation import page
from dnallm_jax.evaluation.drawing import COLOURS, HALF, canvas, styled, to_svg
from dnallm_jax.evaluation.limits import LIMITS, RESPONSIBLE_USE
from dnallm_jax.evaluation.page import escape
from dnallm_jax.scoring.tally import BINS, LENGTHS, Tally

STATUSES = {
    "ok": "scored",
    "duplicate_id": "scored; an earlier record has the same id",
    "short": "short: scored with little evidence, or shorter than asked for",
    "ambiguous": "not scored: no base that the detector can read",
    "empty": "not scored: no bases",
}


def summary_page(tally: Tally, provenance: Mapping[str, Any]) -> str:
    """The page, as HTML5.

    provenance: as `settings.provenance` gives it.
    """
    sections = [
        ("scores", "Scores", _scores(tally, provenance)),
        ("lengths", "By length", _lengths(tally)),
        ("records", "Every record", _statuses(tally)),
        ("limits", "Limits and responsible use", _limits()),
        ("made", "How this was made", _made(provenance)),
    ]
    foot = "<p>Made by dnallm_jax. The rows beside this page hold every score.</p>"
    return page.document("Virus scores", _header(tally, provenance), sections, foot)


def _header(tally: Tally, provenance: Mapping[str, Any]) -> str:
    scored, viral = tally.total("scored"), tally.total("viral")
    verdict = (
        f"{viral:,} of {scored:,} scored sequences are called viral"
        + (f" ({page.percentage(viral / scored)})" if scored else "")
        + f": {tally.total('viral_bases') / 1e6:,.2f} of {tally.total('bases') / 1e6:,.2f} Mbp."
    )
    return (
        '<p class="eyebrow">Scoring run</p>\n<h1>Virus scores</h1>\n'
        f'<p class="verdict">{escape(verdict)}</p>\n'
        f'<p class="note">{escape(_false_calls(scored, viral, provenance))}</p>'
    )


def _false_calls(scored: int, viral: int, provenance: Mapping[str, Any]) -> str:
    """What the threshold would call in a sample without a virus."""
    threshold = f"Called from a score of {provenance['threshold']:.6g} on. "
    rate = provenance["false_positive_rate"]
    if rate is None:
        return threshold + "The threshold was chosen for this run; its false positives are unknown."
    expected = rate * scored
    told = (
        f"At this threshold {page.percentage(rate)} of the bundle's validation contigs that are "
        f"not viral were called; of {scored:,} sequences without a virus among them about "
        f"{expected:,.0f} would be. "
    )
    if viral <= 1.5 * expected:
        told += "So many calls alone are no sign of viruses."
    return threshold + told


def _scores(tally: Tally, provenance: Mapping[str, Any]) -> str:
    return page.figures(
        page.figure(
            _histogram(tally, provenance["threshold"]),
            "Sequences by score, on a logarithmic scale. The dashed line is the threshold.",
        ),
        page.figure(
            _called(tally), "Share of the scored sequences of a length that are called viral."
        ),
    )


@styled
def _histogram(tally: Tally, threshold: float) -> str:
    figure, axes = canvas(HALF, 3.6)
    edges, total = np.linspace(0, 1, BINS + 1), np.sum(tally.counts["scores"], axis=0)
    axes.bar(edges[:-1], total, width=1 / BINS, align="edge", color=COLOURS["model"])
    axes.axvline(threshold, color=COLOURS["ink"], linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), xlabel="score", ylabel="sequences", title="Scores")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, max(2, 2 * total.max()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    most = int(total.argmax())
    return to_svg(
        figure,
        "histogram",
        "Histogram of scores",
        f"Most sequences ({int(total[most]):,}) score {edges[most]:.2f} to {edges[most + 1]:.2f}.",
    )


@styled
def _called(tally: Tally) -> str:
    figure, axes = canvas(HALF, 3.6)
    counts = tally.counts
    scored, viral = np.array(counts["scored"]), np.array(counts["viral"])
    shares = np.divide(viral, scored, out=np.zeros(len(viral)), where=scored > 0)
    axes.barh(range(len(LENGTHS)), shares, color=COLOURS["virus"])
    for place, (share, n) in enumerate(zip(shares, scored, strict=True)):
        axes.annotate(
            f"{page.percentage(share)} of {n:,}" if n else "none",
            (share, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=COLOURS["muted"],
        )
    axes.set_yticks(range(len(LENGTHS)), list(LENGTHS))
    axes.set(xlim=(0, max(1.5 * shares.max(), 0.01)), title="Called viral, by length")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    figure.subplots_adjust(left=0.26)
    return to_svg(
        figure,
        "called",
        "Share called viral by length",
        ", ".join(
            f"{name}: {int(v):,} of {int(n):,}"
            for name, v, n in zip(LENGTHS, viral, scored, strict=True)
            if n
        ),
    )


def _lengths(tally: Tally) -> str:
    counts = tally.counts
    names = ("records", "bases", "scored", "viral", "viral_bases")
    rows = [
        [escape(length), *(f"{counts[name][place]:,}" for name in names)]
        for place, length in enumerate(LENGTHS)
        if counts["records"][place]
    ]
    rows.append(["all", *(f"{tally.total(name):,}" for name in names)])
    heads = ("Length", "Records", "Bases", "Scored", "Called viral", "Bases called viral")
    return page.table("Records by length", heads, rows, own="all")


def _statuses(tally: Tally) -> str:
    rows = [
        [escape(name), escape(STATUSES[name]), f"{count:,}"]
        for name, count in tally.counts["status"].items()
    ]
    return page.table("Records by status", ("Status", "Meaning", "Records"), rows, words=2)


def _limits() -> str:
    # Of the lines for evaluation reports, those that do not speak of labels.
    lines = [line for line in (*LIMITS, *RESPONSIBLE_USE) if "listed here" not in line]
    lines = [line.replace("this set", "the validation set") for line in lines]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _made(provenance: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in provenance.items() if name != "command"}
    terms = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt>"
        f"<dd>{escape(page.EN_DASH if value is None else value)}</dd>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{terms}</dl>\n<pre>{escape(provenance["command"])}</pre>'
