"""How does the language model become a detector? Its backbone, a new head, binary cross-entropy."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipeline import loader
from data_pipeline.contigs import Contigs
from data_pipeline.cutting import Cutting, WindowBatches, batch_rows, fixed_windows, table
from data_pipeline.errors import UserError
from data_pipeline.views import View
from dnallm_jax.config import Config, Finetune, digest, to_dict
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.gpt import Execution, GPTSpec, Params, initialise, logical_axes
from dnallm_jax.parallel import hosts
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.execution import on_mesh
from dnallm_jax.planning.flops import flops_per_token
from dnallm_jax.training import objectives, step
from dnallm_jax.training.checkpoints import Account, Checkpoints, read_manifest, restore_part
from dnallm_jax.training.loop import Plan, Speed, train
from dnallm_jax.training.objectives import Batch
from dnallm_jax.training.optimizer import make_optimizer
from dnallm_jax.training.telemetry import Telemetry, si
from dnallm_jax.training.workdir import claim, versions

CHECKPOINTS = "checkpoints"
SELECTED_BY = "validation_average_precision"


def window_batches(
    settings: Finetune, contigs: Contigs, view: View, *, parts: int, process: int, processes: int
) -> WindowBatches:
    """The training windows of a config."""
    source = contigs.source("train")
    cutting = Cutting(
        lengths=settings.lengths,
        batch_tokens=settings.batch_tokens,
        balance_key=settings.balance_key,
        negative_balance_key=settings.negative_balance_key,
        max_ambiguous=settings.max_ambiguous,
        mutate=settings.mutate,
    )
    return WindowBatches(
        source,
        table(source),
        view,
        cutting,
        seed=settings.seed,
        parts=parts,
        process=process,
        processes=processes,
    )


def baseline_windows(
    settings: Finetune, contigs: Contigs, view: View, count: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` training windows of each length, drawn as the model's are: (ASCII uint8, labels)."""
    batches = window_batches(settings, contigs, view, parts=1, process=0, processes=1)
    return fixed_windows(batches, settings.lengths, count)


def finetune(
    config: Config,
    contigs: Contigs,
    folder: pathlib.Path,
    *,
    backbone: pathlib.Path | None,
    spec: GPTSpec,
    run: Execution,
    view: View,
    mesh: Mesh,
    validate: Callable[[Params], dict[str, float]],
    peak_flops: float,
) -> tuple[Params, dict[str, Any]]:
    """Trains the classifier to the last step, from the newest checkpoint if there is one.

    Args:
      backbone: the pre-training checkpoint (`.../<step>`) whose backbone is taken; None starts at
        random.
      validate: parameters -> metrics on the validation contigs, `validation_average_precision`
        among them, by which the best step is chosen.

    Returns:
      The parameters of the best step, and the provenance of the run for the bundle's manifest.

    Raises:
      UserError: a checkpoint that does not fit, a folder of another config, no whole checkpoint
        among those that are there, a loss that is not finite.
    """
    settings = config.finetune
    meshes.check_divides(mesh, spec)
    origin = _origin(backbone)
    identity = {
        "model": vars(spec),
        "finetune": to_dict(settings),
        "execution": to_dict(config.execution),
        "score": to_dict(config.score),
        "data": contigs.fingerprint,
        "backbone": origin,
    }
    with claim(folder, identity):
        tx = make_optimizer(
            settings.optimizer,
            settings.steps,
            frozen="backbone",
            frozen_steps=settings.freeze_steps,
        )
        axes = logical_axes(Classifier, spec)
        state, shardings = step.make_state(
            functools.partial(initialise, Classifier, spec, seed=settings.seed), tx, mesh, axes
        )
        objective = functools.partial(
            objectives.virus,
            spec=spec,
            run=on_mesh(run, mesh),
            pooling=settings.pooling,
            causal=settings.causal,
        )
        checkpoints = Checkpoints(
            folder / CHECKPOINTS,
            keep=settings.keep,
            metric=SELECTED_BY,
            maximise=True,
            identity=identity,
        )
        start, account, restored = 0, None, checkpoints.restore(state)
        if restored is not None:
            state, manifest = restored
            start = manifest["step"]
        elif backbone is not None:
            state["params"], account = restore_part(
                backbone, state["params"], take="backbone", drop=("lm_head",)
            )
        telemetry = Telemetry(folder, start_step=start, main=hosts.is_main())
        windows = window_batches(
            settings,
            contigs,
            view,
            parts=mesh.shape["data"] * mesh.shape["fsdp"],
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        telemetry.say(_header(config, contigs, spec, view, mesh, start, origin, account))

        def device_batches() -> Iterator[Batch]:
            for batch in loader.stream(windows, start=start):
                yield meshes.to_device(batch, mesh)

        def save(number: int, state: step.TrainState, metrics: dict[str, float]) -> None:
            manifest = {
                "kind": "finetune",
                "model": vars(spec),
                "config": to_dict(config),
                "data": contigs.fingerprint,
                "backbone": origin,
                "versions": versions(),
            }
            checkpoints.save(number, state, manifest, metrics)

        def name_records(number: int) -> str:
            return f"windows of batch {number - 1} of data set {contigs.fingerprint[:12]}"

        row = view.row_length(max(settings.lengths))
        try:
            train(
                state,
                start=start,
                plan=Plan(
                    settings.steps, settings.log_every, settings.eval_every, settings.save_every
                ),
                speed=Speed(
                    float(view.tokenizer.token_lengths.max()),
                    flops_per_token(spec, row, causal=settings.causal, language_model=False),
                    peak_flops,
                ),
                batches=device_batches(),
                train_step=step.make_train_step(objective, tx, shardings),
                summarise=lambda total: {
                    "loss": total["loss"] / max(total["weight"], 1.0),
                    "accuracy": total["correct"] / max(total["weight"], 1.0),
                },
                headline=lambda m: f"loss {m['loss']:.4f} (uniform {math.log(2):.4f})",
                evaluate=lambda state: validate(state["params"]),
                save=save,
                name_records=name_records,
                telemetry=telemetry,
            )
            checkpoints.finish()
            best, manifest = checkpoints.restore_best(state)
            telemetry.say(
                f"best        step {manifest['step']} by {SELECTED_BY}: "
                f"{manifest['metrics'][SELECTED_BY]:.4f}"
            )
        finally:
            checkpoints.close()
            telemetry.close()
    provenance = {
        "step": manifest["step"],
        "steps": settings.steps,
        "backbone": origin,
        "data": contigs.fingerprint,
        "config": to_dict(config),
        "config_digest": digest(config),
        "versions": versions(),
    }
    return best["params"], provenance


def _origin(backbone: pathlib.Path | None) -> dict[str, Any]:
    """What the manifest says of the pre-training; a random start says so."""
    if backbone is None:
        return {"kind": "random"}
    manifest = read_manifest(backbone)
    seen = ("tokens_seen", "bases_seen")
    kept = ("kind", "step", *seen, "tokenizer", "data", "config_digest", "metrics")
    return {key: manifest[key] for key in kept}


def check_backbone(backbone: pathlib.Path, spec: GPTSpec, tokenizer: dict[str, Any]) -> None:
    """UserError for what is no pre-training checkpoint, or has another tokenizer or dimensions."""
    manifest = read_manifest(backbone)
    if manifest["kind"] != "pretrain":
        raise UserError(
            f"{backbone} is a checkpoint of {manifest['kind']}; --config.finetune.backbone names a "
            "folder that pretrain wrote"
        )
    for name, theirs, ours in (
        ("tokenizer", manifest["tokenizer"], tokenizer),
        ("model", manifest["model"], vars(spec)),
    ):
        if theirs != ours:
            raise UserError(
                f"{backbone} was pre-trained with {name} {theirs}, the config says {ours}; give "
                f"--config.{name}.* the checkpoint's values, or pre-train again"
            )


def _header(
    config: Config,
    contigs: Contigs,
    spec: GPTSpec,
    view: View,
    mesh: Mesh,
    start: int,
    origin: dict[str, Any],
    account: Account | None,
) -> list[str]:
    settings, split = config.finetune, contigs.splits["train"]
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    shapes = ", ".join(
        f"{n} b: {batch_rows(length, settings.batch_tokens, parts)} x {length}"
        for n, length in ((n, view.row_length(n)) for n in settings.lengths)
    )
    if start:
        source = f"step {start} (restored)"
    elif account is None:
        source = "random initialisation"
    else:
        source = f"pre-trained, step {origin['step']}, {si(origin['bases_seen'])}bases seen"
    return [
        f"finetune    {config.name}: {spec.layers} layers of {spec.width}, view {settings.view}, "
        f"{'causal' if settings.causal else 'bidirectional'}, {settings.pooling} pooling",
        f"data        {contigs.fingerprint[:12]}, {split.viral:,} viral and "
        f"{split.records - split.viral:,} other records, {si(split.bases)}bases",
        f"batches     windows x tokens: {shapes}",
        *meshes.describe(mesh),
        f"start       {source}",
        *(account.lines() if account else []),
    ]
