"""What does an evaluation leave behind? metrics.json, predictions.tsv and report.html."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from data_pipeline.contigs import Contigs
from data_pipeline.errors import UserError
from dnallm_jax.evaluation.baselines import standard_baselines
from dnallm_jax.evaluation.metrics import (
    called_viral_by,
    evaluate_predictions,
    length_bins,
    paired_difference,
)
from dnallm_jax.evaluation.report import write_report
from dnallm_jax.evaluation.thresholds import missing

COLUMNS = (
    "sequence_id",
    "label",
    "length",
    "score",
    "logit",
    "group",
    "cluster",
    "family",
    "novelty",
    "organism",
)
_LOGIT_OF = "logit_"  # a member's log-odds: a column of this name and the member's
Windows = tuple[Sequence[np.ndarray], np.ndarray]  # uint8 ASCII arrays and their labels


def evaluate(
    folder: pathlib.Path,
    predictions: Mapping[str, np.ndarray],
    *,
    contigs: Contigs,
    split: str,
    threshold: float,
    training_windows: Windows | None,
    history: Mapping[str, Sequence[Mapping[str, Any]]],
    pretraining: pathlib.Path,
    manifest: Mapping[str, Any],
    controls: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures the predictions, fits the baselines, writes the three files; returns metrics.json.

    Args:
      predictions: `scoring.bundle.predict` with a `score` column; contigs without a logit are left
        out and counted under `unscored`. Intervals come from redrawing whole clusters. Where there
        are columns `logit_NAME` of several members, each is measured alone as well.
      training_windows: what the baselines are fitted on; None leaves them out.
      controls: `scoring.controls.shuffled_controls`, where they were scored.
      pretraining: result.json of the pre-training run, where there is one.

    Raises:
      UserError: no contig could be scored.
    """
    scored = np.isfinite(predictions["logit"])
    if not scored.any():
        raise UserError(f"{contigs.data_dir}: no {split} contig holds a base that could be scored")
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: column[scored] for name, column in predictions.items()}
    evaluation = evaluate_predictions(table, threshold=threshold)
    baselines: dict[str, dict[str, Any]] = {}
    if training_windows is not None:
        source = contigs.source(split)
        bases = [source[int(number)]["bases"] for number in np.flatnonzero(scored)]
        baselines = _baselines(bases, table, training_windows)
    members = _members(table)
    result: dict[str, Any] = {
        "split": split,
        "unscored": int((~scored).sum()),
        "model": evaluation,
        "members": {name: entry["evaluation"] for name, entry in members.items()},
        "model_minus_member_auroc": {name: entry["difference"] for name, entry in members.items()},
        "baselines": {name: entry["evaluation"] for name, entry in baselines.items()},
        "model_minus_baseline_auroc": {
            name: entry["difference"] for name, entry in baselines.items()
        },
        "shuffled_controls": controls,
        "called_viral_by_genus": _called_viral(table, threshold),
        "pretraining": json.loads(pretraining.read_text()) if pretraining.exists() else None,
        "bundle": {key: value for key, value in manifest.items() if key != "files"},
    }
    _write(folder / "metrics.json", json.dumps(result, indent=1, sort_keys=True, allow_nan=False))
    columns = (*COLUMNS, *(name for name in predictions if name.startswith(_LOGIT_OF)))
    lines = ["\t".join(columns)]
    for row in zip(*(predictions[name] for name in columns), strict=True):
        lines.append("\t".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row))
    _write(folder / "predictions.tsv", "\n".join(lines) + "\n")
    write_report(
        folder / "report.html",
        evaluation,
        table,
        history={name: lines for name, lines in history.items() if lines},
        baselines={**_alone(result["members"]), **result["baselines"]},
        context=_context(result, contigs, split),
    )
    for line in summary(result):
        print(line)
    print(folder / "report.html")
    return result


def summary(result: Mapping[str, Any]) -> list[str]:
    """AUROC by length, of the model and of every baseline, as aligned lines."""
    rows = {"this detector": result["model"]}
    rows |= {**_alone(result["members"]), **result["baselines"]}
    lengths = list(result["model"]["by_length"])
    table = [[f"AUROC on {result['split']}", *lengths]]
    for name, evaluation in rows.items():
        values = (evaluation["by_length"][n]["auroc"]["value"] for n in lengths)
        table.append([name, *("-" if value is None else f"{value:.4f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]  # names left, figures right
        )
        for name, *cells in table
    ]


def _alone(members: Mapping[str, Any]) -> dict[str, Any]:
    return {f"its {name} alone": evaluation for name, evaluation in members.items()}


def _members(table: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """What each of several members would say alone, by name."""
    names = [name.removeprefix(_LOGIT_OF) for name in table if name.startswith(_LOGIT_OF)]
    if len(names) < 2:
        return {}
    return {name: _beside(table, expit(table[_LOGIT_OF + name])) for name in names}


def _beside(table: Mapping[str, np.ndarray], scores: np.ndarray) -> dict[str, Any]:
    """The evaluation of other scores of the same contigs, and how much better the model is."""
    both = 0 < table["label"].sum() < len(table["label"])
    return {
        "evaluation": evaluate_predictions(
            {**table, "score": scores}, threshold=None, bootstrap=200
        ),
        "difference": paired_difference(
            table["label"], table["score"], scores, "auroc", clusters=table["cluster"]
        )
        if both
        else missing("contigs of one class only"),
    }


def _called_viral(table: Mapping[str, np.ndarray], threshold: float) -> dict[str, Any]:
    """By length, the share of the contigs of each genus that are called though not viral."""
    if "genus" not in table:
        return {}
    known = (table["genus"] != "-") & (table["label"] == 0)
    return {
        length: called_viral_by(
            {name: column[known & chosen] for name, column in table.items()},
            "genus",
            threshold=threshold,
        )
        for length, chosen in length_bins(table["length"]).items()
        if (known & chosen).any()
    }


def _baselines(
    bases: Sequence[np.ndarray], table: Mapping[str, np.ndarray], training: Windows
) -> dict[str, dict[str, Any]]:
    results = {}
    for baseline in standard_baselines():
        baseline.fit(*training)
        results[baseline.name] = _beside(table, baseline.predict(bases))
    return results


def _context(result: Mapping[str, Any], contigs: Contigs, split: str) -> dict[str, Any]:
    bundle, info = result["bundle"], contigs.splits[split]
    origin = bundle["backbone"]
    context: dict[str, Any] = {
        "title": f"Virus detector: evaluation on {split} contigs",
        "eyebrow": f"dnallm_jax, bundle of step {bundle['step']} of {bundle['steps']}",
        "data": f"{info.records:,} {split} contigs, {info.viral:,} of them viral",
        "Model": {
            "backbone": origin["kind"]
            + (f", {origin['bases_seen']:,} bases seen" if origin["kind"] == "pretrain" else ""),
            **{f"its {name}": _described(how) for name, how in bundle["members"].items()},
        },
        "Data set": contigs.fingerprint,
        "Versions": bundle["versions"],
    }
    if result["shuffled_controls"]:
        context["Called viral with dinucleotides shuffled"] = {
            f"contigs that are {name}": f"{rate['called']} of {rate['of']}"
            for name, rate in result["shuffled_controls"].items()
        }
    if result["pretraining"] and result["pretraining"]["markov"]:
        bits = result["pretraining"]["markov"]["bits_per_base"]
        context["references"] = {
            "pre-training": {
                f"Markov order {order}": bits[order]
                for order in ("0", "3", "4", "9")
                if order in bits
            }
        }
    return context


def _described(reading: Mapping[str, Any]) -> str:
    network = ", ".join(f"{key} {value}" for key, value in reading["network"].items())
    return f"reads {reading['view']} of {reading['window']:,} bases at most; {network}"


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.rename(path)
