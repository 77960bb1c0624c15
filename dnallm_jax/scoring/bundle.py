"""What is a detector on disk? A bundle: arrays, and a manifest that explains and vouches."""

import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline.contigs import Contigs
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import from_spec
from data_pipeline.views import make_view
from dnallm_jax.evaluation import calibration, metrics
from dnallm_jax.evaluation.thresholds import threshold_at_false_positive_rate
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.gpt import Execution, GPTSpec, Params, initialise, logical_axes
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.scoring.scorer import Scored, Scorer
from dnallm_jax.training.checkpoints import Damaged, load_bundle, read_manifest, save_bundle

FORMAT = 1


@dataclass(frozen=True)
class Reading:
    """How the network reads sequences: all that turns its parameters into a detector."""

    model: GPTSpec
    tokenizer: Mapping[str, Any]
    view: str
    pooling: str
    causal: bool
    window: int  # bases


def make_scorer(
    params: Params | None, reading: Reading, run: Execution, mesh: Mesh, *, batch_tokens: int
) -> Scorer:
    """A scorer of these parameters; UserError for a reading whose strands would differ."""
    if reading.view == "frames" and reading.pooling == "last":
        raise UserError(
            "pooling `last` looks at one end of the row, so with the view `frames` a sequence and "
            "its reverse complement would differ; set finetune.pooling to mean"
        )
    return Scorer(
        params,
        reading.model,
        run,
        view=make_view(reading.view, from_spec(reading.tokenizer)),
        pooling=reading.pooling,
        causal=reading.causal,
        window=reading.window,
        batch_tokens=batch_tokens,
        mesh=mesh,
    )


@dataclass(frozen=True)
class Detector:
    """A bundle in memory: scores, probabilities, calls."""

    scorer: Scorer
    calibration: calibration.Calibration
    threshold: float
    manifest: Mapping[str, Any]

    def probability(self, scored: Scored, length: int) -> float:
        """The calibrated probability that a sequence of `length` bases is viral."""
        return float(self.calibration.apply(np.array([scored.logit]), np.array([length]))[0])


def open_bundle(folder: pathlib.Path, run: Execution, mesh: Mesh, *, batch_tokens: int) -> Detector:
    """Loads and verifies a bundle; UserError says what is missing or damaged."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such bundle; run finetune, or name one with --bundle=DIR")
    try:
        manifest = read_manifest(folder)
    except Damaged as error:
        raise UserError(
            f"{folder} is not a whole bundle: {error}; name the folder that finetune wrote, or "
            "copy it again"
        ) from error
    if manifest.get("kind") != "bundle" or manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder} is a {manifest.get('kind')} of format {manifest.get('format')}, not a "
            f"bundle of format {FORMAT}; name the folder that finetune wrote"
        )
    reading = Reading(**{**manifest["reading"], "model": GPTSpec(**manifest["reading"]["model"])})
    meshes.check_divides(mesh, reading.model)
    shardings = meshes.tree_shardings(mesh, logical_axes(Classifier, reading.model))
    target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(lambda: initialise(Classifier, reading.model, seed=0)),
        shardings,
    )
    params = load_bundle(folder, target)
    return Detector(
        make_scorer(params, reading, run, mesh, batch_tokens=batch_tokens),
        calibration.Calibration.from_dict(manifest["calibration"]),
        manifest["threshold"],
        manifest,
    )


def predict(scorer: Scorer, contigs: Contigs, split: str, limit: int = 0) -> dict[str, np.ndarray]:
    """The predictions table of a split, without calibrated scores.

    With a `limit`, of so many contigs spread evenly over it: they are often stored class by class.
    Columns: sequence_id, label, length, logit, and the metadata of the contigs. A contig of unknown
    cluster is a cluster of its own.
    """
    source = contigs.source(split)
    count = min(limit, len(source)) if limit else len(source)
    records = [source[number * len(source) // count] for number in range(count)]
    scored = list(scorer.score(record["bases"].tobytes() for record in records))
    table = {
        "sequence_id": np.array([record["id"].decode() for record in records]),
        "label": np.array([record["label"] for record in records]),
        "length": np.array([len(record["bases"]) for record in records]),
        "logit": np.array([s.logit for s in scored]),
    }
    for name in ("group", "cluster", "family", "novelty", "organism"):
        table[name] = np.array([record[name].decode() for record in records])
    table["cluster"] = np.where(table["cluster"] == "-", table["sequence_id"], table["cluster"])
    return table


def write_bundle(
    folder: pathlib.Path,
    params: Params,
    reading: Reading,
    validation: Mapping[str, np.ndarray],
    *,
    false_positive_rate: float,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Calibrates on the validation predictions, sets the threshold, saves; returns the evaluation.

    The threshold is the score above which `false_positive_rate` of the validation contigs that are
    not viral lie; 0.5 where there are too few of them to say.
    """
    scored = np.isfinite(validation["logit"])
    table = {name: column[scored] for name, column in validation.items()}
    fitted = calibration.fit(table["logit"], table["label"], table["length"])
    table["score"] = fitted.apply(table["logit"], table["length"])
    threshold = threshold_at_false_positive_rate(
        table["label"], table["score"], false_positive_rate
    )
    chosen = 0.5 if threshold is None else threshold
    evaluation = metrics.evaluate_predictions(table, threshold=chosen)
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    save_bundle(
        folder,
        params,
        {
            "kind": "bundle",
            "format": FORMAT,
            "reading": asdict(reading),
            "labels": ["not virus", "virus"],
            "parameters": shapes,
            "language_model_head": "lm_head" in params,
            "calibration": fitted.as_dict(),
            "threshold": chosen,
            "threshold_false_positive_rate": None if threshold is None else false_positive_rate,
            "validation": evaluation["overall"],
            **provenance,
        },
    )
    return evaluation
