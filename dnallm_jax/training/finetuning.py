"""How does the language model become a detector? Its backbone, a new head, binary cross-entropy."""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipeline import loader
from data_pipeline.contigs import Contigs
from data_pipeline.cutting import batch_rows
from dnallm_jax.config import Config, Finetune, digest, to_dict
from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import Network
from dnallm_jax.parallel import hosts, signals
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training import header, objectives, resuming, step
from dnallm_jax.training.checkpoints import Checkpoints, read_manifest, restore_part
from dnallm_jax.training.loop import Plan, Progress, train
from dnallm_jax.training.members import Member, bases_per_token
from dnallm_jax.training.objectives import Batch
from dnallm_jax.training.observed import NOTHING, Observed
from dnallm_jax.training.optimizer import make_optimizer
from dnallm_jax.training.speed import Speed
from dnallm_jax.training.telemetry import Telemetry
from dnallm_jax.training.units import si
from dnallm_jax.training.windows import window_batches
from dnallm_jax.training.workdir import claim, versions

CHECKPOINTS = "checkpoints"
SELECTED_BY = "validation_average_precision"


def program(settings: Finetune, network: Network, mesh: Mesh) -> step.Program:
    """The training step of a classifier on a mesh of any devices."""
    return step.Program(
        mesh,
        functools.partial(network.initialise, settings.seed),
        network.axes,
        make_optimizer(
            settings.optimizer,
            settings.steps,
            frozen="backbone",
            frozen_steps=settings.freeze_steps,
            held=network.held,
            layer_decay=settings.layer_decay,
        ),
        functools.partial(objectives.virus, logits=network.logits),
        skip=settings.on_bad_step == "skip",
    )


def finetune(
    config: Config,
    contigs: Contigs,
    folder: pathlib.Path,
    member: Member,
    *,
    mesh: Mesh,
    validate: Callable[[Params], dict[str, float]],
    peak: Peak,
    reasons: Sequence[str] = (),
    observed: Observed = NOTHING,
    workers: int = 0,
    on_evaluation: Callable[[int, float], None] | None = None,
) -> tuple[Params, dict[str, Any]]:
    """Trains one member to its last step, from the newest checkpoint if there is one.

    Args:
      validate: parameters -> metrics on the validation contigs, `validation_average_precision`
        among them, by which the best step is chosen.
      peak: what a share of it is called MFU.
      reasons: why the network runs as it does, for the header.
      observed: what the command line said about watching this run.
      workers: processes that make batches on this host; 0: a thread.
      on_evaluation: see `loop.train`.

    Returns:
      The parameters of the best step, and the provenance of the run for the bundle's manifest.

    Raises:
      UserError: a checkpoint that does not fit, a folder of another config, no whole checkpoint
        among those that are there, a loss that is not finite.
    """
    settings, network, view, backbone = (
        member.settings,
        member.network,
        member.view,
        member.backbone,
    )
    origin = _origin(backbone)
    finished = jax.jit(network.finished) if network.finished else _as_they_are
    identity = {
        "network": json.loads(json.dumps(network.description)),
        "finetune": to_dict(settings),
        "execution": to_dict(config.execution),
        "score": to_dict(config.score),
        "data": contigs.fingerprint,
        "backbone": origin,
    }
    with claim(folder, identity):
        steps = program(settings, network, mesh)
        state, shardings = steps.state()
        checkpoints = Checkpoints(
            folder / CHECKPOINTS,
            keep=settings.keep,
            keep_every=settings.keep_every,
            metric=SELECTED_BY,
            maximise=True,
            identity=identity,
        )
        progress, account, restored = Progress(), None, checkpoints.restore(state)
        if restored is not None:
            state, manifest = restored
            progress = resuming.progress_of(manifest)
        elif backbone is not None:
            state["params"], account = restore_part(
                backbone, state["params"], take="backbone", drop=("lm_head",)
            )
        start = progress.step
        telemetry = Telemetry(
            folder, start_step=progress.told, main=hosts.is_main(), observed=observed
        )
        part, parts = meshes.batch_part(mesh)
        windows = window_batches(
            settings,
            contigs,
            view,
            parts=mesh.shape["data"] * mesh.shape["fsdp"],
            process=part,
            processes=parts,
            workers=workers,
        )
        row = view.row_length(max(settings.lengths))
        tokens = settings.steps * batch_rows(row, settings.batch_tokens, 1) * row
        telemetry.say(
            [
                *_header(config, contigs, member),
                *header.changed(observed.changes),
                *header.network(state),
                *header.due(settings, f"{settings.eval_contigs or 'all'} contigs", state),
                *header.optimisation(settings.optimizer, settings.steps),
                *header.machine(mesh, reasons),
                *header.arithmetic(member.flops_per_token, member.formula, tokens, peak),
                *header.started(start, _source(origin)),
                *(account.lines() if account else []),
            ]
        )

        def device_batches(start: int) -> Generator[Batch]:
            for batch in loader.stream(windows, start=start, workers=workers):
                yield meshes.to_device(batch, mesh)

        saved: list[int] = []

        def save(progress: Progress, state: step.TrainState, metrics: dict[str, float]) -> None:
            number = progress.step
            manifest = {
                "kind": "finetune",
                "network": network.description,
                "config": to_dict(config),
                "data": contigs.fingerprint,
                "backbone": origin,
                "versions": versions(),
                "progress": resuming.as_json(progress),
            }
            passing = progress.unevaluated or (
                number % settings.save_every > 0 and number < settings.steps
            )
            telemetry.keep()
            saved.append(number)
            checkpoints.save(number, state, manifest, metrics, passing=passing)

        train_step = steps.train_step(shardings)

        def run_steps(
            state: step.TrainState, progress: Progress, left_out: Collection[int]
        ) -> step.TrainState:
            return train(
                state,
                progress,
                plan=Plan(
                    settings.steps,
                    settings.log_every,
                    settings.eval_every,
                    settings.save_every,
                    settings.spike,
                    SELECTED_BY,
                    settings.patience,
                ),
                speed=Speed(bases_per_token(member, windows), member.flops_per_token, peak.flops),
                batches=device_batches(progress.step),
                left_out=left_out,
                train_step=train_step,
                summarise=lambda total: {
                    "loss": total["loss"] / max(total["weight"], 1.0),
                    "accuracy": total["correct"] / max(total["weight"], 1.0),
                },
                headline=lambda m: f"loss {m['loss']:.4f} (uniform {math.log(2):.4f})",
                evaluate=lambda state: validate(finished(state["params"])),
                save=save,
                asked_to_stop=asked_to_stop,
                telemetry=telemetry,
                on_evaluation=on_evaluation,
            )

        try:
            with signals.listening() as asked_to_stop:
                state = resuming.run_through(
                    run_steps,
                    state,
                    progress,
                    folder=folder,
                    on_bad_step=settings.on_bad_step,
                    records=lambda number: windows.record_ids(number - 1),
                    checkpoints=checkpoints,
                    telemetry=telemetry,
                )
                if saved:
                    with telemetry.watch.phase("save"):
                        checkpoints.verify(saved[-1], state)
                    telemetry.sum_up(saved[-1])
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
        "metrics": manifest["metrics"],
        "backbone": origin,
        "data": contigs.fingerprint,
        "config": to_dict(config),
        "config_digest": digest(config),
        "versions": versions(),
    }
    return finished(best["params"]), provenance


def _as_they_are(params: Params) -> Params:
    return params


def _origin(backbone: pathlib.Path | None) -> dict[str, Any]:
    """What the manifest says of the pre-training; a random start says so."""
    if backbone is None:
        return {"kind": "random"}
    manifest = read_manifest(backbone)
    seen = ("tokens_seen", "bases_seen")
    kept = ("kind", "step", *seen, "tokenizer", "data", "config_digest", "metrics")
    return {key: manifest[key] for key in kept}


def _header(config: Config, contigs: Contigs, member: Member) -> list[str]:
    settings, view, split = member.settings, member.view, contigs.splits["train"]
    shapes = ", ".join(
        f"{n} b: {batch_rows(view.row_length(n), settings.batch_tokens, 1)} windows"
        for n in settings.lengths
    )
    network = ", ".join(f"{key} {value}" for key, value in member.network.description.items())
    return [
        f"finetune    {config.name}: view {settings.view}, {network}",
        f"data        {contigs.fingerprint[:12]}, {split.viral:,} viral and "
        f"{split.records - split.viral:,} other records, {si(split.bases)}bases",
        f"batches     {shapes}",
    ]


def _source(origin: dict[str, Any]) -> str:
    if origin["kind"] == "random":
        return "random initialisation"
    return f"pre-trained, step {origin['step']}, {si(origin['bases_seen'])}bases seen"
