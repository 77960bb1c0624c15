"""What does an evaluation leave behind? metrics.json, predictions.tsv and report.html."""

import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from data_pipeline.contigs import Contigs
from data_pipeline.errors import UserError
from dnallm_jax.evaluation.baselines import standard_baselines
from dnallm_jax.evaluation.metrics import called_viral_by, evaluate_predictions, length_bins
from dnallm_jax.evaluation.report import write_report
from dnallm_jax.evaluation.rivals import against_best, beside, difference

COLUMNS = (
    "sequence_id",
    "label",
    "length",
    "gc",
    "score",
    "logit",
    "group",
    "cluster",
    "family",
    "novelty",
    "organism",
)
GPT = "gpt"  # the member that is no baseline, nor are those of further seeds: others are simpler
_LOGIT_OF = "logit_"  # a member's log-odds: a column of this name and the member's
UNKNOWN_TRAINING = (
    "What the detector was trained on is not the train split here, with which these contigs were "
    "compared: whether it has seen some of them is unknown."
)
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
    others: Mapping[str, Mapping[str, np.ndarray]] = types.MappingProxyType({}),
    genomes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures the predictions, fits the baselines, writes the three files; returns metrics.json.

    Args:
      predictions: the table of `scoring.bundle.Detector.predict`; contigs without a logit are left
        out and counted under `unscored`. Intervals come from redrawing whole clusters. Where there
        are columns `logit_NAME` of several members, each is measured alone as well.
      training_windows: what the baselines are fitted on; None leaves them out.
      controls: `scoring.controls.shuffled_controls`, where they were scored.
      others: the same of other bundles, by name: what they make of the same contigs.
      genomes: `scoring.genomes.scan`, where genomes were scanned.
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
    scores = _members(table)
    simpler = {name: own for name, own in scores.items() if not name.startswith(GPT)}
    simpler = {alone(name): own for name, own in simpler.items()}
    beside_it = {name: {k: v[scored] for k, v in own.items()} for name, own in others.items()}
    baselines = {name: own["score"] for name, own in beside_it.items()}
    their_gpt = {name: _gpt(own) for name, own in beside_it.items() if _LOGIT_OF + GPT in own}
    several = {name: own for name, own in their_gpt.items() if _members(beside_it[name])}
    baselines |= {f"{name}: {alone(GPT)}": own for name, own in several.items()}
    if training_windows is not None:
        source = contigs.source(split)
        bases = [source[int(number)]["bases"] for number in np.flatnonzero(scored)]
        baselines |= _baselines(bases, training_windows)
    members = {name: beside(table, own) for name, own in scores.items()}
    rivals = {name: beside(table, own) for name, own in baselines.items()}
    own = {"this detector": table["score"], **{n: z for n, z in scores.items() if n == GPT}}
    result: dict[str, Any] = {
        "split": split,
        "unscored": int((~scored).sum()),
        "model": evaluation,
        "members": {name: entry["evaluation"] for name, entry in members.items()},
        "model_minus_member_auroc": _differences(members),
        "baselines": {name: entry["evaluation"] for name, entry in rivals.items()},
        "model_minus_baseline_auroc": _differences(rivals),
        "gpt_minus_other_gpt_auroc": {
            name: difference(table, _gpt(table), own)
            for name, own in their_gpt.items()
            if _LOGIT_OF + GPT in table
        },
        "minus_best_baseline_auroc": {
            name: against_best(table, column, {**simpler, **baselines})
            for name, column in own.items()
        },
        "shuffled_controls": controls,
        "called_viral_by_genus": _called_viral(table, threshold),
        "genomes": genomes,
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
        against=result["minus_best_baseline_auroc"],
        genomes=genomes,
        context=_context(result, contigs, split),
    )
    for line in summary(result):
        print(line)
    if manifest.get("trained_on") != contigs.trained_on:
        print(UNKNOWN_TRAINING)
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


def alone(member: str) -> str:
    """What a member by itself is called among the rivals."""
    return f"its {member} alone"


def _alone(members: Mapping[str, Any]) -> dict[str, Any]:
    return {alone(name): evaluation for name, evaluation in members.items()}


def _members(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each of several members would say by itself, by name."""
    names = [name.removeprefix(_LOGIT_OF) for name in table if name.startswith(_LOGIT_OF)]
    return {name: expit(table[_LOGIT_OF + name]) for name in names} if len(names) > 1 else {}


def _gpt(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the GPT would say by itself, also where it is all there is."""
    return expit(table[_LOGIT_OF + GPT])


def _differences(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: {**entry["difference"], "by_length": entry["by_length"]}
        for name, entry in entries.items()
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


def _baselines(bases: Sequence[np.ndarray], training: Windows) -> dict[str, np.ndarray]:
    found = {}
    for baseline in standard_baselines():
        baseline.fit(*training)
        found[baseline.name] = baseline.predict(bases)
    return found


def _context(result: Mapping[str, Any], contigs: Contigs, split: str) -> dict[str, Any]:
    bundle, info = result["bundle"], contigs.splits[split]
    origin = bundle["backbone"]
    unknown = bundle.get("trained_on") != contigs.trained_on
    context: dict[str, Any] = {
        "limits": (UNKNOWN_TRAINING,) if unknown else (),
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
