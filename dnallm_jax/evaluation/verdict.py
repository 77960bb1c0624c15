"""What is the answer in one sentence, and is it better than something simpler?"""

from collections.abc import Mapping
from typing import Any

from dnallm_jax.evaluation import figures, page
from dnallm_jax.evaluation.page import escape, percentage
from dnallm_jax.evaluation.rivals import OVERALL

Baselines = Mapping[str, Mapping[str, Any]]
"""Name -> what `metrics.evaluate_predictions` said of its predictions on the same contigs."""


def verdict(overall: Mapping[str, Any], threshold: float | None) -> str:
    """How good is it, in words."""
    auroc = overall["auroc"]
    if auroc["value"] is None:
        sentence = "All contigs here are of one class, so this set cannot tell how well it ranks."
    else:
        span = page.interval(auroc, percent=True)
        sentence = (
            "Shown a viral contig and one that is not, the detector gives the viral one the higher "
            f"score {percentage(auroc['value'])} of the time"
            + (f" (95 % interval {span})." if span else ".")
        )
    if threshold is None:
        return sentence
    found, false = overall["sensitivity"]["value"], overall["false_positive_rate"]["value"]
    words = []
    if found is not None:
        words.append(f"finds {percentage(found)} of the viral contigs")
    if false is not None:
        words.append(f"calls {percentage(false)} of the others viral")
    sentence += f" At its threshold of {page.decimal(threshold)} it {' and '.join(words)}"
    precision = overall["precision_at_prevalence"]["0.01"]
    if precision["value"] is not None:
        span = page.interval(precision, percent=True)
        sentence += (
            "; in a sample where 1 % of contigs are viral, "
            f"{percentage(precision['value'])} of its calls would be right ({span})"
        )
    return sentence + "."


Against = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Name of a score -> length -> what `rivals.against_best` said of it."""


def baseline_verdict(
    evaluation: Mapping[str, Any], baselines: Baselines, against: Against | None = None
) -> str:
    """Is it better than something simpler? Said loudly where it is not."""
    own = evaluation["overall"]["auroc"]
    ranked = ranked_baselines(baselines)
    if own["value"] is None or not ranked:
        return ""
    best, of_best = ranked[0], baselines[ranked[0]]["overall"]["auroc"]
    beaten = [
        f"{figures.bases(name)} ({rival}: {page.decimal(theirs['value'])})"
        for name, entry in evaluation["by_length"].items()
        for rival, theirs in [best_at(baselines, name)]
        if theirs and entry["auroc"]["value"] is not None
        if theirs["value"] >= entry["auroc"]["value"]
    ]
    figure = f"{best}, AUROC {page.decimal(of_best['value'])} ({page.interval(of_best)})"
    if of_best["value"] >= own["value"]:
        return (
            f'<p class="warning"><strong>It does not beat its baselines.</strong> {escape(figure)} '
            "is as good or better. Use that, or train this longer.</p>"
        )
    if beaten:
        return (
            '<p class="warning"><strong>Better over all, not at every length.</strong> A baseline '
            f"is as good or better at {escape('; '.join(beaten))}.</p>"
        )
    if against and (open_at := [_length(n) for n, e in _first(against).items() if unproven(e)]):
        return (
            f'<p class="warning"><strong>Better, but not beyond doubt.</strong> {escape(figure)} '
            f"is the best of {len(ranked)} others. The interval of the difference to the best of "
            f"them holds 0 at {escape('; '.join(open_at))}.</p>"
        )
    apart = own["low"] is not None and of_best["high"] is not None and own["low"] > of_best["high"]
    return (
        f"<p>The best of {len(ranked)} simpler classifiers fitted on the same training contigs is "
        f"{escape(figure)}: "
        + ("clearly below." if apart else "below, though the two intervals overlap.")
        + "</p>"
    )


def _first(against: Against) -> Mapping[str, Mapping[str, Any]]:
    """What is said of the detector itself, which comes first."""
    return next(iter(against.values()))


def against_table(against: Against) -> str:
    """How much better than the best simpler classifier, at each length; where that is unproven."""
    if not any(entry["value"] is not None for own in against.values() for entry in own.values()):
        return ""
    lengths = list(_first(against))
    rows = []
    for name, own in against.items():
        shown = []
        for length in lengths:
            entry = own[length]
            mark = f'<span class="ci">{escape(entry["rival"])}</span>' if entry["rival"] else ""
            cell = page.cell(entry) + mark
            shown.append(f'<span class="better">{cell}</span>' if unproven(entry) else cell)
        rows.append([escape(name), *shown])
    heads = ["AUROC above the best of them", *map(_length, lengths)]
    table = page.table("Minus the best simpler classifier of each length", heads, rows)
    note = (
        "Both are redrawn together, whole clusters at a time; 95 % intervals. Orange: the interval "
        "holds 0 or lies below it, so it is not shown to be better. Below, which is the best one."
    )
    return f'{table}\n<p class="note">{note}</p>'


def unproven(entry: Mapping[str, Any]) -> bool:
    """Whether a paired difference may as well be nothing."""
    return entry["value"] is not None and entry["low"] <= 0


def _length(name: str) -> str:
    return "all lengths" if name == OVERALL else figures.bases(name)


def ranked_baselines(baselines: Baselines) -> list[str]:
    """Names of the baselines that have an AUROC, best first."""
    values = {name: entry["overall"]["auroc"]["value"] for name, entry in baselines.items()}
    return sorted((n for n, v in values.items() if v is not None), key=lambda n: (-values[n], n))


def best_at(baselines: Baselines, length: str) -> tuple[str, Mapping[str, Any] | None]:
    """Name and AUROC of the best baseline in a length bin."""
    found = [
        (name, entry["by_length"][length]["auroc"])
        for name, entry in baselines.items()
        if length in entry["by_length"]
        if entry["by_length"][length]["auroc"]["value"] is not None
    ]
    return max(found, key=lambda pair: pair[1]["value"]) if found else ("", None)
