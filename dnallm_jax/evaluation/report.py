"""How good is the detector, on one page that a virologist can read, print and pass on?

One self-contained HTML file: inline SVG, no script, nothing fetched; equal input gives equal bytes.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnallm_jax.evaluation import figures, metrics, page
from dnallm_jax.evaluation.limits import limits_section
from dnallm_jax.evaluation.mistakes import (
    NOVELTY,
    genera_table,
    genomes_section,
    mistakes_section,
)
from dnallm_jax.evaluation.page import cell, escape, percentage
from dnallm_jax.evaluation.verdict import (
    Against,
    Baselines,
    against_table,
    baseline_verdict,
    ranked_baselines,
    verdict,
)

History = Mapping[str, Sequence[Mapping[str, Any]]]

MODEL = "this detector"
FOUND_AT_ONE_PERCENT = "Viruses found at 1 % false positives"

RESERVED = ("title", "eyebrow", "data", "references", "limits")


def write_report(
    path: str | os.PathLike[str],
    evaluation: Mapping[str, Any],
    predictions: Mapping[str, np.ndarray],
    *,
    history: History | None = None,
    baselines: Baselines | None = None,
    against: Against | None = None,
    genomes: Mapping[str, Any] | None = None,
    context: Mapping[str, Any],
) -> None:
    """Writes the page to `path`, whole or not at all.

    Args:
      evaluation: what `metrics.evaluate_predictions` returned for `predictions`.
      predictions: the table it was made from. Besides the columns of the evaluation, the list of
        mistakes shows "sequence_id", "organism" and "family" where present.
      history: name of a run ("pre-training", "fine-tuning") -> the lines of its metrics.jsonl, each
        with "step" and "bits_per_base" or "loss", alone or after "validation_".
      baselines: name -> `evaluate_predictions` of its predictions on the same contigs.
      against: name of a score -> what `rivals.against_best` said of it, the detector's own first.
      genomes: what `scoring.genomes.scan` found in whole genomes that are not viral.
      context: "title" and "eyebrow" (the line above it); "data" (which contigs these are); "limits"
        (more lines for that section); "references" (name of a run -> label -> a level to draw among
        its losses). Whatever else it holds is listed under its name: text, lines of text, or names
        with values; "commands" in typewriter. A date appears only if one is given here.
    """
    columns = metrics.checked(predictions)
    title = str(context.get("title", "Virus detector: evaluation"))
    sections = (
        ("length", "By contig length", length_section(evaluation, baselines or {})),
        ("threshold", "Choosing a threshold", threshold_section(evaluation, columns)),
        (
            "calibration",
            "Can a score be taken at its word?",
            calibration_section(evaluation, columns),
        ),
        ("groups", "By group and by novelty", group_section(evaluation)),
        (
            "baselines",
            "Beside something simpler",
            baseline_section(evaluation, baselines or {}) + against_table(against or {}),
        ),
        ("genomes", "Whole genomes that are not viral", genomes_section(genomes)),
        ("training", "How it learnt", training_section(history or {}, context)),
        (
            "mistakes",
            "The worst mistakes",
            mistakes_section(predictions, columns)
            + genera_table(predictions, evaluation["settings"]["threshold"]),
        ),
        ("limits", "Limits and responsible use", limits_section(context.get("limits", ()))),
        ("made", "How this was made", made_section(evaluation, context)),
    )
    markup = page.document(
        title,
        header(title, evaluation, baseline_verdict(evaluation, baselines or {}, against), context),
        [section for section in sections if section[2]],
        "<p>Made by dnallm_jax. Every figure on this page is in metrics.json, every score in "
        "predictions.tsv.</p>",
    )
    target = pathlib.Path(path)
    temporary = target.with_name(target.name + ".partial")
    temporary.write_text(markup, encoding="utf-8")
    temporary.replace(target)


def header(
    title: str,
    evaluation: Mapping[str, Any],
    beside: str,
    context: Mapping[str, Any],
) -> str:
    """What a reader with half a minute needs: the verdict and the headline figures."""
    overall, settings = evaluation["overall"], evaluation["settings"]
    error = overall["expected_calibration_error"]
    chance = f"by chance {page.decimal(error['if_perfect'])}" if "if_perfect" in error else ""
    cards = (
        page.card("AUROC: how often a virus outranks another contig", overall["auroc"]),
        page.card("Average precision over all thresholds", overall["average_precision"]),
        page.card(
            "Viruses found at 1 % false positives",
            overall["sensitivity_at_1_percent_fpr"],
            percent=True,
        ),
        page.card("Matthews correlation at the threshold", overall["mcc"]),
        page.card("Calibration error (0 is best)", error, note=chance),
    )
    data = f" ({escape(str(context['data']).rstrip('.'))})" if "data" in context else ""
    return (
        f'<p class="eyebrow">{escape(context.get("eyebrow", "Evaluation report"))}</p>\n'
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="verdict">{escape(verdict(overall, settings["threshold"]))}</p>\n'
        f"{beside}\n"
        f'<dl class="cards">\n{"".join(cards)}\n</dl>\n'
        f'<p class="note">Measured on {overall["records"]:,} contigs, {overall["viral"]:,} of '
        f"them viral, {overall['bases'] / 1e6:,.1f} million bases{data}. Under each figure its "
        "95 % bootstrap interval, also drawn on a scale from 0 to 1; "
        f"{settings['resampled_unit']}s were redrawn {settings['resamples']:,} times.</p>"
    )


def length_section(evaluation: Mapping[str, Any], baselines: Baselines) -> str:
    """The measures by length, drawn and as a table."""
    rows = [
        [
            figures.bases(name),
            f"{entry['records']:,}<span class='ci'>{entry['viral']:,} viral</span>",
            cell(entry["auroc"]),
            cell(entry["average_precision"]),
            cell(entry["sensitivity_at_1_percent_fpr"], percent=True),
            cell(entry["mcc"]),
            cell(entry["brier"]),
            cell(entry["expected_calibration_error"]),
        ]
        for name, entry in evaluation["by_length"].items()
    ]
    heads = ["Length", "Contigs", "AUROC", "Average precision", FOUND_AT_ONE_PERCENT]
    heads += ["Matthews correlation", "Brier score", "Calibration error"]
    drawn = ""
    if sum(e["auroc"]["value"] is not None for e in evaluation["by_length"].values()) > 1:
        caption = "Pale bars: 95 % intervals."
        if baselines:
            caption += " Grey: the best simpler classifier of each length."
        parts = [
            page.figure(figures.by_length(evaluation, baselines, measure, title), caption)
            for measure, title in (
                ("auroc", "AUROC"),
                ("sensitivity_at_1_percent_fpr", FOUND_AT_ONE_PERCENT),
            )
        ]
        drawn = page.figures(*parts)
    note = (
        "A length's false-positive rate of 1 % is set among contigs of that length. The Matthews "
        "correlation is at the one threshold chosen for all lengths."
    )
    return f'{drawn}{page.table("Measures by length", heads, rows)}\n<p class="note">{note}</p>'


def threshold_section(evaluation: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> str:
    """What each threshold finds, calls wrongly and is worth where viruses are rarer."""
    label, score = columns["label"], columns["score"]
    threshold = evaluation["settings"]["threshold"]
    points = [
        (f"{figures.percent(point['stated_false_positive_rate'])} false positives here", point)
        for point in evaluation["operating_points"]
    ]
    if threshold is not None:
        points.insert(0, ("the chosen threshold", evaluation["overall"] | {"threshold": threshold}))
    rows = []
    for name, point in points:
        if point["threshold"] is None:
            dash = cell({"value": None, "reason": point["reason"]})
            rows.append((name, *[dash] * 6))
            continue
        false, precision = point["false_positive_rate"], point["precision_at_prevalence"]
        count = f" {false['called']:,} of {false['of']:,}" if false["value"] is not None else ""
        rows.append(
            (
                name,
                page.decimal(point["threshold"], 4),
                cell(point["sensitivity"], percent=True),
                cell(false, percent=True) + f'<span class="ci">{count}</span>',
                *(cell(precision[share], percent=True) for share in ("0.1", "0.01", "0.001")),
            )
        )
    heads = ["Threshold", "Score", "Viruses found", "Others called viral"]
    heads += ["Precision if 10 % are viral", "Precision if 1 % are", "Precision if 0.1 % are"]
    parts = []
    if 0 < label.sum() < len(label):
        bins = metrics.length_bins(columns["length"])
        parts += [
            page.figure(
                figures.roc(label, score, bins, threshold),
                "By length, pale for short contigs to dark for long ones, and for all contigs.",
            ),
            page.figure(
                figures.roc(label, score, bins, threshold, logarithmic=True),
                "The same on a log axis: where viruses are rare, only the green part is of use.",
            ),
            page.figure(
                figures.precision_recall(label, score, threshold),
                "Precision falls with the share of viruses in the sample, the detector being the "
                "same.",
            ),
        ]
    parts.append(
        page.figure(
            figures.score_histogram(label, score, threshold),
            "Viral contigs upwards, others downwards, each as a share of its class.",
        )
    )
    note = (
        "Precision by Bayes' rule from the two rates beside it; its interval spans the worst and "
        "best corner of theirs. Thresholds chosen on these very contigs flatter a little: for use, "
        "take the one chosen on validation data."
    )
    table = page.table("What a threshold is worth", heads, rows, own="the chosen threshold")
    return f'{page.figures(*parts)}\n{table}\n<p class="note">{note}</p>'


def calibration_section(evaluation: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> str:
    """The reliability diagram, and the calibration error beside what chance would give."""
    label, score = columns["label"], columns["score"]
    if not 0 < label.sum() < len(label):
        return ""
    rows = []
    bins = {"all contigs": evaluation["overall"]}
    bins |= {figures.bases(name): entry for name, entry in evaluation["by_length"].items()}
    for name, entry in bins.items():
        error = entry["expected_calibration_error"]
        chance = page.decimal(error["if_perfect"]) if "if_perfect" in error else cell(None)
        rows.append((name, cell(error), chance, cell(entry["brier"])))
    svg = figures.reliability(label, score)
    drawn = page.figure(
        svg,
        "On the dashed line a score is the share that is viral. Ten bins of equally many contigs, "
        "95 % intervals; below, the number of contigs by score.",
    )
    heads = ("Contigs", "Calibration error", "if perfect", "Brier score")
    table = page.table("Calibration by length", heads, rows, own="all contigs")
    note = (
        f"Of these contigs {percentage(float(label.mean()))} are viral. “If perfect” is the error "
        "that chance alone would show in a perfectly calibrated detector with as many contigs."
    )
    return page.figures(drawn, f'<div>{table}\n<p class="note">{note}</p></div>')


def group_section(evaluation: Mapping[str, Any]) -> str:
    """Which organisms does it find, which does it mistake, and does composition decide?"""
    called = evaluation["settings"]["threshold"] is not None
    heads = ["", "Contigs", "AUROC", FOUND_AT_ONE_PERCENT]
    if called:
        heads += ["Viruses found", "Others called viral"]

    def row(name: str, entry: Mapping[str, Any]) -> list[str]:
        cells = [escape(name), f"{entry['records']:,}", cell(entry["auroc"])]
        cells.append(cell(entry["sensitivity_at_1_percent_fpr"], percent=True))
        for rate in ("sensitivity", "false_positive_rate") if called else ():
            cells.append(cell(entry[rate], percent=True))
        return cells

    def order(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, int]:
        return (item[1]["viral"] == 0, -item[1]["records"])

    groups = sorted(evaluation["by_group"].items(), key=order)
    novelty = {NOVELTY.get(k, k): entry for k, entry in evaluation["by_novelty"].items()}
    parts = []
    if groups:
        heads[0] = "Group"
        parts.append(page.table("By group", heads, [row(*item) for item in groups]))
    if len(novelty) > 1:
        heads[0] = "Novelty"
        parts.append(page.table("By novelty", heads, [row(*item) for item in novelty.items()]))
    by_gc = evaluation["by_gc"]
    if len(by_gc) > 1:
        heads[0] = "G and C"
        parts.append(
            page.table("By share of G and C", heads, [row(*item) for item in by_gc.items()])
        )
    lengths = list(evaluation["by_length"])
    if len(lengths) > 1 and evaluation["by_novelty_and_length"]:
        crossed = [
            (
                escape(NOVELTY.get(name, name)),
                *(cell(entries.get(length, {}).get("auroc")) for length in lengths),
            )
            for name, entries in evaluation["by_novelty_and_length"].items()
        ]
        heads = ["Novelty", *(figures.bases(length) for length in lengths)]
        parts.append(page.table("AUROC by novelty and length", heads, crossed))
    if not parts:
        return ""
    note = (
        "A row of one class only is ranked against all contigs of the other class (of the same "
        "length in the last table). “Viruses found” and “others called viral” are at the chosen "
        "threshold."
    )
    return "\n".join(parts) + f'\n<p class="note">{note}</p>'


def baseline_section(evaluation: Mapping[str, Any], baselines: Baselines) -> str:
    """The same measures of simpler classifiers, best first."""
    ranked = ranked_baselines(baselines)
    if not ranked:
        return ""
    lengths = list(evaluation["by_length"])
    entries = {MODEL: evaluation} | {name: baselines[name] for name in ranked}

    def rival(theirs: Mapping[str, Any] | None, own: Mapping[str, Any], *, percent: bool) -> str:
        shown = cell(theirs, percent=percent)
        values = (theirs or {}).get("value"), own["value"]
        better = None not in values and theirs is not own and values[0] >= values[1]
        return f'<span class="better">{shown}</span>' if better else shown

    rows = []
    for name, entry in entries.items():
        row = [escape(name)]
        for measure in ("auroc", "average_precision", "sensitivity_at_1_percent_fpr"):
            percent = measure.startswith("sensitivity")
            own = evaluation["overall"][measure]
            row.append(rival(entry["overall"][measure], own, percent=percent))
        for length in lengths if len(lengths) > 1 else ():
            own = evaluation["by_length"][length]["auroc"]
            row.append(rival(entry["by_length"].get(length, {}).get("auroc"), own, percent=False))
        rows.append(row)
    heads = ["Classifier", "AUROC", "Average precision", FOUND_AT_ONE_PERCENT]
    heads += [f"AUROC at {figures.bases(name)}" for name in lengths] if len(lengths) > 1 else []
    table = page.table("Fitted and measured on the same contigs", heads, rows, own=MODEL)
    note = "Orange: as good as this detector or better."
    return f'{table}\n<p class="note">{note}</p>'


def training_section(history: History, context: Mapping[str, Any]) -> str:
    """Learning curves, where any were handed in."""
    parts = []
    for run, lines in history.items():
        found = figures.curves(lines)
        if found:
            levels = context.get("references", {}).get(run, {})
            caption = (
                "In bits per base: 2 is guessing, lower is better."
                if "bits per base" in " ".join(found)
                else "In cross-entropy, nats per contig: lower is better."
            )
            if levels:
                caption += " Dashed: for comparison."
            parts.append(page.figure(figures.learning(run, lines, levels), caption))
    return page.figures(*parts) if parts else ""


def made_section(evaluation: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Model, data, commands and versions as handed in, and how the figures were computed."""
    settings = evaluation["settings"]
    facts = {name: value for name, value in context.items() if name not in RESERVED}
    facts["intervals"] = (
        f"{settings['interval']}, {settings['resamples']:,} resamples of whole "
        f"{settings['resampled_unit']}s, seed {settings['seed']}; rates also by Wilson's formula, "
        "whichever is wider"
    )
    facts["calibration error"] = settings["calibration_bins"]
    lines = []
    for name, value in facts.items():
        markup = page.paragraphs(value)
        if name == "commands":
            commands = [value] if isinstance(value, str) else list(value)
            markup = f"<pre>{escape(chr(10).join(str(line) for line in commands))}</pre>"
        lines.append(f"<dt>{escape(name.capitalize())}</dt>\n<dd>{markup}</dd>")
    return '<dl class="facts">\n' + "\n".join(lines) + "\n</dl>"
