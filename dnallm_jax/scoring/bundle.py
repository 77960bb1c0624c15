"""What is a detector on disk? A bundle: arrays, and a manifest that explains and vouches."""

import datetime
import os
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline.errors import UserError
from data_pipeline.tokenizers import from_spec
from data_pipeline.views import make_view
from dnallm_jax.evaluation import aggregation, calibration, joining
from dnallm_jax.evaluation.thresholds import threshold_at_false_positive_rate
from dnallm_jax.model.gpt import Execution, GPTSpec, Params
from dnallm_jax.model.network import make_network
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.execution import on_mesh
from dnallm_jax.scoring.joint import JointScorer
from dnallm_jax.scoring.scorer import Scored, Scorer, gc_share
from dnallm_jax.training.checkpoints import load_bundle, save_bundle
from dnallm_jax.training.manifest import Damaged, read_manifest, write_manifest

if TYPE_CHECKING:  # which loads TFDS: scoring needs none
    from data_pipeline.contigs import ContigSource, Validation

FORMAT = 2
BUNDLES = pathlib.Path(__file__).parent.parent / "bundles"
"""The detectors that come with the package, each in a folder of its name."""
SHIPPED = BUNDLES / "default"
"""The one that is used where none is named; docs/model_card.md says what it is."""
FALSE_POSITIVE_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""A bundle holds a threshold for each of these that its validation contigs can support."""


Split = TypeVar("Split", bound="ContigSource")


@dataclass(frozen=True)
class Reading:
    """How a member of a detector reads sequences: all that turns its parameters into log-odds."""

    network: Mapping[str, Any]  # `Network.description`
    tokenizer: Mapping[str, Any] | None  # none where the view reads no tokens
    view: str
    window: int  # bases
    overlap: int = 0  # bases that neighbouring windows of a longer sequence share


def make_scorer(
    params: Params | None,
    reading: Reading,
    run: Execution,
    mesh: Mesh,
    *,
    batch_tokens: int,
    windows: aggregation.Aggregation | None = None,
) -> Scorer:
    """A scorer of these parameters; UserError for a reading whose strands would differ.

    Or for a mesh that splits rows.
    """
    meshes.check_whole_rows(mesh)
    if reading.view == "frames" and reading.network["pooling"] == "last":
        raise UserError(
            "pooling `last` looks at one end of the row, so with the view `frames` a sequence and "
            "its reverse complement would differ; set finetune.pooling to mean"
        )
    tokenizer = None if reading.tokenizer is None else from_spec(reading.tokenizer)
    return Scorer(
        params,
        make_network(reading.network, on_mesh(run, mesh)),
        view=make_view(reading.view, tokenizer),
        window=reading.window,
        overlap=reading.overlap,
        aggregation=windows,
        batch_tokens=batch_tokens,
        mesh=mesh,
    )


@dataclass(frozen=True)
class Detector:
    """A bundle in memory: scores, probabilities, calls."""

    scorer: JointScorer
    calibration: calibration.Calibration
    threshold: float
    manifest: Mapping[str, Any]

    def predict(self, source: "Split") -> "Predictions[Split]":
        """The predictions of a split, with a column `score` of calibrated probabilities."""
        found = predict(self.scorer, source)
        table = found.table
        scores = self.calibration.apply(table["logit"], table["length"])
        return Predictions(found.split, {**table, "score": scores})

    def probability(self, scored: Scored, length: int) -> float:
        """The calibrated probability that a sequence of `length` bases is viral."""
        return float(self.calibration.apply(np.array([scored.logit]), np.array([length]))[0])


def locate(name: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a bundle: a path, or the name of one that comes with the package.

    A folder here of the same name goes first. UserError for a word that is neither.
    """
    folder = pathlib.Path(name)
    if folder.is_dir() or len(folder.parts) != 1:
        return folder
    if (shipped := BUNDLES / folder).is_dir():
        return shipped
    names = ", ".join(sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    raise UserError(
        f"--bundle={name}: no such folder, and no detector of that name comes with the program "
        f"(there is {names}); name the folder that finetune wrote"
    )


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
    scorers = {}
    members = {name: Reading(**values) for name, values in manifest["members"].items()}
    targets = {}
    for name, reading in members.items():
        network = make_network(reading.network, run)
        if reading.network["kind"] == "gpt":
            names = {field.name for field in fields(GPTSpec)} & set(reading.network)
            spec = GPTSpec(**{name: reading.network[name] for name in names})
            meshes.check_divides(mesh, spec)
        targets[name] = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(lambda network=network: network.initialise(0)),
            meshes.tree_shardings(mesh, network.axes),
        )
    params = load_bundle(folder, targets)
    mean = aggregation.Aggregation().as_dict()  # of older bundles
    for name, reading in members.items():
        how = aggregation.Aggregation.from_dict(manifest.get("aggregation", {}).get(name, mean))
        scorers[name] = make_scorer(
            params[name], reading, run, mesh, batch_tokens=batch_tokens, windows=how
        )
    return Detector(
        JointScorer(scorers, joining.Joining.from_dict(manifest["joining"])),
        calibration.Calibration.from_dict(manifest["calibration"]),
        manifest["threshold"],
        manifest,
    )


def note_opened(folder: pathlib.Path, split: str, data: str, figures: Mapping[str, Any]) -> None:
    """Writes into a bundle that a split other than validation was looked at, and what it showed.

    Whoever chooses between bundles by their figures on test contigs can be seen to have done so.
    """
    manifest = read_manifest(folder)
    entry = {
        "split": split,
        "data": data,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "auroc": figures["auroc"]["value"],
    }
    write_manifest(folder, {**manifest, "opened": [*manifest.get("opened", []), entry]})


@dataclass(frozen=True)
class Predictions(Generic[Split]):
    """What a scorer says of the contigs of a split, without calibrated scores."""

    split: type[Split]
    table: dict[str, np.ndarray]


def predict(scorer: Scorer | JointScorer, source: Split, limit: int = 0) -> Predictions[Split]:
    """The predictions of a split.

    With a `limit`, of so many contigs spread evenly over it: they are often stored class by class.
    Columns: sequence_id, label, length, logit, and the metadata of the contigs; of a JointScorer
    also `logit_NAME` and `windows_NAME` (`aggregation.Windows`) for each member; `gc`, the share of
    G and C among known bases. A contig of unknown cluster is a cluster of its own.
    """
    count = min(limit, len(source)) if limit else len(source)
    records = [source[number * len(source) // count] for number in range(count)]
    scored = list(scorer.score(record["bases"].tobytes() for record in records))
    table = {
        "sequence_id": np.array([record["id"].decode() for record in records]),
        "label": np.array([record["label"] for record in records]),
        "length": np.array([len(record["bases"]) for record in records]),
        "gc": np.array([gc_share(record["bases"].tobytes()) for record in records]),
        "logit": np.array([s.logit for s in scored]),
    }
    if isinstance(scorer, JointScorer):
        for place, name in enumerate(scorer.names):
            own = [s.members[place] for s in scored]
            table[f"logit_{name}"] = np.array([s.logit for s in own])
            table[f"windows_{name}"] = np.array([s.read for s in own], dtype=object)
    for name in ("group", "cluster", "family", "genus", "novelty", "organism"):
        table[name] = np.array([record[name].decode() for record in records])
    table["cluster"] = np.where(table["cluster"] == "-", table["sequence_id"], table["cluster"])
    return Predictions(type(source), table)


def write_bundle(
    folder: pathlib.Path,
    params: Mapping[str, Params],
    members: Mapping[str, Reading],
    validation: "Predictions[Validation]",
    *,
    false_positive_rate: float,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Learns on the validation predictions what the members' words are worth together, and saves.

    In this order: how the windows of each member become one, how the members are joined, what that
    means as a probability, and the threshold.

    The threshold is the score above which `false_positive_rate` of the validation contigs that are
    not viral lie; 0.5 where there are too few of them to say.

    Args:
      params, members: the parameters of each member, and how it reads.
      validation: with columns `logit_NAME` and `windows_NAME` of each member.

    Returns:
      The evaluation on these predictions.

    Raises:
      TypeError: predictions of another split, by which nothing may be chosen.
    """
    from data_pipeline.contigs import Validation
    from dnallm_jax.evaluation import metrics  # which loads scikit-learn: scoring needs none

    if validation.split is not Validation:
        raise TypeError(f"a bundle is chosen by Validation, not by {validation.split.__name__}")
    given = validation.table
    scored = np.all([np.isfinite(given[f"logit_{name}"]) for name in members], axis=0)
    table = {name: column[scored] for name, column in given.items()}
    labels, lengths, clusters = table["label"], table["length"], table["cluster"]
    soft = {}
    for name in members:
        windows = table[f"windows_{name}"].tolist()
        soft[name] = aggregation.fit(windows, labels, lengths, clusters)
        table[f"logit_{name}"] = soft[name].of(windows)
    logits = np.stack([table[f"logit_{name}"] for name in members], axis=1)
    joint = joining.fit(logits, labels, lengths, clusters=clusters)
    table["logit"] = joint.apply(logits, table["length"])
    fitted = calibration.fit(table["logit"], labels, lengths, clusters=clusters)
    table["score"] = fitted.apply(table["logit"], table["length"])
    thresholds = {
        rate: threshold_at_false_positive_rate(table["label"], table["score"], rate)
        for rate in sorted({*FALSE_POSITIVE_RATES, false_positive_rate})
    }
    threshold = thresholds[false_positive_rate]
    chosen = 0.5 if threshold is None else threshold
    evaluation = metrics.evaluate_predictions(table, threshold=chosen)
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(dict(params))[0]
    }
    save_bundle(
        folder,
        dict(params),
        {
            "kind": "bundle",
            "format": FORMAT,
            "members": {name: asdict(reading) for name, reading in members.items()},
            "labels": ["not virus", "virus"],
            "parameters": shapes,
            "language_model_head": any("lm_head" in own for own in params.values()),
            "aggregation": {name: how.as_dict() for name, how in soft.items()},
            "joining": joint.as_dict(),
            "calibration": fitted.as_dict(),
            "threshold": chosen,
            "threshold_false_positive_rate": None if threshold is None else false_positive_rate,
            "thresholds": {
                f"{rate:g}": score for rate, score in thresholds.items() if score is not None
            },
            "validation": evaluation["overall"],
            **provenance,
        },
    )
    return evaluation
