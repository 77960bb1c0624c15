"""What did a search find? One page: every trial, its learning curve, and each setting's effect."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dnallm_jax.evaluation import page
from dnallm_jax.evaluation.drawing import COLOURS, HALF, canvas, styled, to_svg

Trials = Sequence[Mapping[str, Any]]
PRECISION = "average precision, validation"
_LOOKS = {"complete": ("model", 0.9), "pruned": ("grey", 0.5)}


def write_page(
    path: pathlib.Path, name: str, trials: Trials, logarithmic: Mapping[str, bool]
) -> None:
    """Writes the page of a search, under a temporary name first.

    Args:
      name: of the config that it began from.
      trials: `number`, `state`, `chosen` (key -> word or number), `values` (step -> average
        precision), `value`, `step`, `seconds` and `why` of each.
      logarithmic: the keys searched -> whether on a log scale.
    """
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["value"], default=None)
    found = "No trial has been completed yet."
    if best is not None:
        found = (
            f"Trial {best['number']} is the best of {len(trials)}: average precision "
            f"{page.decimal(best['value'], 4)} on validation contigs, at step {best['step']}."
        )
    counts = ", ".join(
        f"{sum(trial['state'] == state for trial in trials)} {state}"
        for state in ("complete", "pruned", "failed")
    )
    header = (
        f'<p class="eyebrow">Search of settings · {page.escape(name)}</p>\n'
        f"<h1>{page.escape(name)}</h1>\n"
        f'<p class="verdict">{page.escape(found)}</p>\n'
        f'<p class="note">{page.escape(counts)}. What is chosen among many on the same contigs '
        "looks better there than it is: judge it on contigs that no search has seen.</p>"
    )
    drawn = [trial for trial in trials if trial["values"]]
    pictures = page.figures(
        page.figure(
            history(drawn), "Each trial, and the best until then. Grey: ended before its last step."
        ),
        page.figure(curves(drawn, best), "Learning curves; the best trial in orange."),
    )
    effects = page.figures(
        *(
            page.figure(effect(drawn, key, on_log, f"effect{place}"), f"By {key}")
            for place, (key, on_log) in enumerate(logarithmic.items())
        )
    )
    sections = [
        ("trials", "How the search went", pictures),
        ("settings", "What each setting did", effects),
        ("table", "All trials", _table(trials, list(logarithmic), best)),
    ]
    markup = page.document(
        f"Search: {name}", header, sections, "<p>Written by dnallm_jax tune.</p>"
    )
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(markup, encoding="utf-8")
    temporary.rename(path)


@styled
def history(trials: Trials) -> str:
    """Average precision by number of the trial, and the best so far of those completed."""
    figure, axes = canvas(HALF, 3.2)
    _scatter(axes, [trial["number"] for trial in trials], trials)
    complete = [trial for trial in trials if trial["state"] == "complete"]
    so_far = [
        max(trial["value"] for trial in complete[: place + 1]) for place in range(len(complete))
    ]
    numbers = [trial["number"] for trial in complete]
    axes.plot(numbers, so_far, color=COLOURS["virus"], drawstyle="steps-post", label="best so far")
    axes.set(xlabel="trial", ylabel=PRECISION, title="Trials")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if complete:
        axes.legend(loc="lower right")
    return to_svg(figure, "history", "Trials", f"Average precision of {len(trials)} trials")


@styled
def curves(trials: Trials, best: Mapping[str, Any] | None) -> str:
    """Average precision by step of every trial."""
    figure, axes = canvas(HALF, 3.2)
    for trial in sorted(trials, key=lambda trial: best is not None and trial is best):
        own = trial is best
        colour, alpha = ("virus", 1.0) if own else _LOOKS.get(trial["state"], ("grey", 0.5))
        steps = sorted(trial["values"])
        axes.plot(
            steps,
            [trial["values"][step] for step in steps],
            color=COLOURS[colour],
            alpha=alpha,
            linewidth=2.2 if own else 1,
            marker="o",
            markersize=3 if len(steps) == 1 else 0,
        )
    axes.set(xlabel="step", ylabel=PRECISION, title="Learning curves")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_svg(figure, "curves", "Learning curves", "Average precision by step of each trial")


@styled
def effect(trials: Trials, key: str, logarithmic: bool, name: str) -> str:
    """Average precision by the value of one setting."""
    figure, axes = canvas(HALF, 2.8)
    chosen = [trial["chosen"][key] for trial in trials]
    if any(isinstance(value, str) for value in chosen):
        words = sorted(set(chosen))
        _scatter(axes, [words.index(value) for value in chosen], trials)
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.5, len(words) - 0.5)
    else:
        _scatter(axes, chosen, trials)
        if logarithmic and chosen:
            axes.set_xscale("log")
    axes.set(ylabel=PRECISION, title=key.partition(".")[2])
    return to_svg(figure, name, key, f"Average precision by {key}")


def _scatter(axes: Axes, x: Sequence[float], trials: Trials) -> None:
    for state, (colour, alpha) in _LOOKS.items():
        places = [place for place, trial in enumerate(trials) if trial["state"] == state]
        axes.scatter(
            [x[place] for place in places],
            [trials[place]["value"] for place in places],
            color=COLOURS[colour],
            alpha=alpha,
            s=22,
            linewidths=0,
        )


def _table(trials: Trials, keys: Sequence[str], best: Mapping[str, Any] | None) -> str:
    columns = ["trial", "state", PRECISION, "step", "minutes"]
    columns += [key.partition(".")[2] for key in keys]
    rows = []
    for trial in sorted(trials, key=lambda t: (-(t["value"] or -1.0), t["number"])):
        value = page.EN_DASH if trial["value"] is None else page.decimal(trial["value"], 4)
        told = f"{trial['state']}: {trial['why']}" if trial["why"] else trial["state"]
        chosen = (trial["chosen"][key] for key in keys)
        words = (f"{own:.4g}" if isinstance(own, float) else str(own) for own in chosen)
        cells = [str(trial["number"]), told, value, str(trial["step"] or page.EN_DASH)]
        cells += [page.decimal(trial["seconds"] / 60, 1), *words]
        rows.append([page.escape(cell) for cell in cells])
    own = None if best is None else str(best["number"])
    return page.table("Trials, the best first", columns, rows, own=own, words=2)
