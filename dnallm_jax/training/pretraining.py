"""How is the language model pre-trained? Packed rows in, checkpoints and bits per base out."""

import functools
import itertools
import math
import pathlib
from collections.abc import Collection, Generator, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipeline import floors, loader
from data_pipeline.corpora import Mixed
from data_pipeline.corpus import Corpus
from data_pipeline.errors import UserError
from data_pipeline.mixing import BLOCK
from data_pipeline.tokenizers import Tokenizer
from dnallm_jax.config import Config, Pretrain, digest, gpt_spec, to_dict, tokenizer_spec
from dnallm_jax.model.gpt import GPT, GPTSpec, Params, initialise, logical_axes
from dnallm_jax.parallel import execution, hosts, signals, watchdog
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.planning.flops import Peak, formula
from dnallm_jax.training import header, objectives, resuming, step
from dnallm_jax.training.checkpoints import Checkpoints
from dnallm_jax.training.loop import Plan, Progress, train
from dnallm_jax.training.objectives import Batch
from dnallm_jax.training.observed import NOTHING, Observed
from dnallm_jax.training.optimizer import make_optimizer
from dnallm_jax.training.speed import Speed
from dnallm_jax.training.telemetry import Telemetry
from dnallm_jax.training.units import si
from dnallm_jax.training.workdir import claim, versions

CHECKPOINTS = "checkpoints"


def bits_per_base(sums: Mapping[str, float]) -> float:
    """nats per token / ln 2 / bases per token, over weighted bases."""
    return float(sums["loss"]) / math.log(2) / max(float(sums["weight"]), 1.0)


def _added(sums: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and weight of some batches together."""
    found = [(float(own["loss"]), float(own["weight"])) for own in sums]
    return {"loss": sum(loss for loss, _ in found), "weight": sum(weight for _, weight in found)}


def check_fits(settings: Pretrain, mesh: Mesh, spec: GPTSpec) -> None:
    """UserError where a dimension of the network, or a batch, does not divide over the mesh."""
    meshes.check_divides(mesh, spec)
    key = "pretrain.batch_rows" + (" / pretrain.accumulate" if settings.accumulate > 1 else "")
    meshes.check_batch(mesh, key, settings.batch_rows // settings.accumulate)


def program(
    config: Config, tokenizer: Tokenizer, mesh: Mesh
) -> tuple[step.Program, GPTSpec, list[str]]:
    """The training step of a config on a mesh of any devices, the network, and why it runs so.

    Raises:
      UserError: dimensions or batch that do not divide over the mesh.
    """
    settings = config.pretrain
    spec = gpt_spec(config.model, tokenizer.vocab_size)
    run, reasons = execution.choose(**vars(config.execution), device=mesh.devices.flat[0])
    run = execution.on_mesh(run, mesh)
    check_fits(settings, mesh, spec)
    objective = functools.partial(
        objectives.next_token,
        spec=spec,
        run=run,
        token_bases=tokenizer.token_bases,
        z_loss=settings.z_loss,
    )
    made = step.Program(
        mesh,
        functools.partial(initialise, GPT, spec, seed=settings.seed),
        logical_axes(GPT, spec),
        make_optimizer(settings.optimizer, settings.steps),
        objective,
        accumulate=settings.accumulate,
        ema=settings.ema,
        skip=settings.on_bad_step == "skip",
    )
    return made, spec, reasons


def pretrain(
    config: Config,
    corpus: Corpus | Mixed,
    folder: pathlib.Path,
    *,
    flops_per_token: float,
    peak: Peak,
    observed: Observed = NOTHING,
    workers: int = 0,
) -> dict[str, float]:
    """Trains to the last step of the config, from the newest checkpoint if there is one.

    Writes checkpoints/, metrics.jsonl, speed.jsonl and tensorboard/ into `folder`.

    Args:
      peak: what a share of it is called MFU.
      observed: what the command line said about watching this run.
      workers: processes that make batches on this host; 0: a thread.

    Returns:
      The metrics of the last step: `validation_bits_per_base`, with "/NAME" behind it that of each
      corpus of a mixture; none without a validation split.

    Raises:
      UserError: dimensions or batch that do not divide over the mesh, a corpus of another
        tokenizer, a folder of another config, no whole checkpoint among those that are there, a
        loss that is not finite.
    """
    settings = config.pretrain
    tokenizer = corpus.tokenizer
    _check_tokenizer(config, corpus)
    mesh = meshes.make_mesh(**vars(config.mesh))
    steps, spec, reasons = program(config, tokenizer, mesh)
    meshes.check_row(mesh, "corpus.row_length", corpus.row_length)
    rows_at_once = settings.batch_rows // settings.accumulate
    identity = {
        "model": to_dict(config.model),
        "pretrain": to_dict(settings),
        "execution": to_dict(config.execution),
        "data": corpus.fingerprint,
    }
    with claim(folder, identity):
        state, shardings = steps.state()
        checkpoints = Checkpoints(
            folder / CHECKPOINTS,
            keep=settings.keep,
            keep_every=settings.keep_every,
            metric="validation_bits_per_base",
            identity=identity,
        )
        progress, last = Progress(), {}
        if (restored := checkpoints.restore(state)) is not None:
            state, manifest = restored
            progress, last = resuming.progress_of(manifest), manifest["metrics"]
        start = progress.step
        telemetry = Telemetry(
            folder, start_step=progress.told, main=hosts.is_main(), observed=observed
        )
        part, parts = meshes.batch_part(mesh)
        train_rows = corpus.source("train")
        rows = loader.CorpusBatches(
            train_rows,
            tokenizer,
            corpus.row_length,
            batch_rows=settings.batch_rows,
            seed=settings.seed,
            process=part,
            processes=parts,
        )
        tokens = settings.batch_rows * corpus.row_length
        bases = corpus.splits["train"].bases_per_token
        chosen = evaluated_rows(corpus, settings.eval_rows)
        evaluated = f"{settings.eval_rows} rows" if chosen else "none"
        asked = config.corpus.row_length
        prepared = "" if asked == corpus.row_length else f" as prepared (now {asked} are asked for)"
        telemetry.say(
            [
                f"pretrain    {config.name}: "
                + ", ".join(f"{key} {value}" for key, value in vars(spec).items()),
                *header.changed(observed.changes),
                *header.network(state),
                f"data        {corpus.fingerprint[:12]}, {si(corpus.splits['train'].bases)}bases, "
                f"{len(train_rows):,} rows of {corpus.row_length}{prepared}, {bases:.3g} bases a "
                "token",
                *_mixture(corpus, settings.steps * settings.batch_rows),
                *header.budget(
                    steps=settings.steps,
                    rows=settings.batch_rows,
                    parts=settings.accumulate,
                    row_length=corpus.row_length,
                    bases_per_token=bases,
                    available=len(train_rows),
                ),
                *header.due(settings, evaluated, state),
                *header.optimisation(settings.optimizer, settings.steps),
                *header.machine(mesh, reasons),
                *header.arithmetic(
                    flops_per_token, formula(window=spec.window), settings.steps * tokens, peak
                ),
                *header.started(start, "from scratch"),
            ]
        )

        def device_batches(start: int) -> Generator[Batch]:
            for batch in loader.stream(rows, start=start, workers=workers):
                yield meshes.to_device(batch, mesh)

        eval_step = step.make_eval_step(steps.objective)

        def validated(params: Params, metric: str) -> dict[str, float]:
            sums: dict[str, list[objectives.Sums]] = {name: [] for name in chosen}
            for name, numbers in chosen.items():
                for batch in loader.in_order(
                    corpus.source("validation"),
                    tokenizer,
                    corpus.row_length,
                    batch_rows=rows_at_once,
                    numbers=numbers,
                    process=part,
                    processes=parts,
                ):
                    sums[name].append(eval_step(params, meshes.to_device(batch, mesh)))
                    watchdog.alive("a batch of the validation rows")
            sums = jax.device_get(sums)
            metrics = {metric: bits_per_base(_added(itertools.chain(*sums.values())))}
            if len(chosen) > 1:
                metrics |= {f"{metric}/{n}": bits_per_base(_added(sums[n])) for n in chosen}
            return metrics

        def evaluate(state: step.TrainState) -> dict[str, float]:
            if not chosen:
                return {}
            metrics = validated(state["params"], "validation_bits_per_base")
            if "ema" in state:
                metrics |= validated(state["ema"], "validation_bits_per_base_of_ema")
            return metrics

        def save(progress: Progress, state: step.TrainState, metrics: dict[str, float]) -> None:
            nonlocal last
            last, number = metrics, progress.step
            manifest = {
                "kind": "pretrain",
                "tokens_seen": number * tokens,
                "bases_seen": round(number * tokens * bases),
                "model": vars(spec),
                "tokenizer": tokenizer.spec(),
                "data": corpus.fingerprint,
                "config": to_dict(config),
                "config_digest": digest(config),
                "versions": versions(),
                "progress": resuming.as_json(progress),
            }
            passing = progress.unevaluated or (
                number % settings.save_every > 0 and number < settings.steps
            )
            telemetry.keep()
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
                ),
                speed=Speed(bases, flops_per_token, peak.flops),
                batches=device_batches(progress.step),
                left_out=left_out,
                train_step=train_step,
                summarise=lambda total: {
                    "bits_per_base": bits_per_base(total),
                    "accuracy": total["correct"] / max(total["tokens"], 1.0),
                },
                headline=lambda metrics: f"{metrics['bits_per_base']:.4f} bits/base",
                evaluate=evaluate,
                save=save,
                asked_to_stop=asked_to_stop,
                telemetry=telemetry,
            )

        try:
            with signals.listening() as asked_to_stop:
                state = resuming.run_through(
                    run_steps,
                    state,
                    progress,
                    folder=folder,
                    on_bad_step=settings.on_bad_step,
                    records=lambda number: rows.record_ids(number - 1),
                    checkpoints=checkpoints,
                    telemetry=telemetry,
                )
                if start < settings.steps:
                    with telemetry.watch.phase("save"):
                        checkpoints.verify(settings.steps, state)
                    telemetry.sum_up(settings.steps)
        finally:
            checkpoints.close()
            telemetry.close()
    return last


def _mixture(corpus: Corpus | Mixed, rows: int) -> list[str]:
    """Which corpora the rows of a run come from, and how often it goes through each."""
    if not isinstance(corpus, Mixed):
        return []
    return [
        f"mixture     {share / BLOCK:.2%} {name}: {member.fingerprint[:12]}, "
        f"{si(member.splits['train'].bases)}bases, "
        f"{rows * share / BLOCK / member.splits['train'].rows:.2f} epochs"
        for name, member, share in zip(corpus.names, corpus.corpora, corpus.shares, strict=True)
    ]


def evaluated_rows(corpus: Corpus | Mixed, rows: int) -> dict[str, list[int]]:
    """Numbers of the validation rows that a run is judged by, by the name of their corpus.

    About `rows` in all, at even distances: of each corpus its share, and one at least.
    """
    members = (
        dict(zip(corpus.names, corpus.corpora, strict=True))
        if isinstance(corpus, Mixed)
        else {"": corpus}
    )
    sizes = {n: c.splits["validation"].rows for n, c in members.items() if "validation" in c.splits}
    total, before, numbers = sum(sizes.values()), 0, {}
    for name, size in sizes.items():
        numbers[name] = (before + loader.evenly(size, -(-rows * size // total))).tolist()
        before += size
    return numbers


def _check_tokenizer(config: Config, corpus: Corpus | Mixed) -> None:
    asked = tokenizer_spec(config.tokenizer)
    found = corpus.manifest["options"]["tokenizer"]  # as it was asked for
    if found != asked:
        raise UserError(
            f"{corpus.data_dir} was tokenised by {found}, the config asks for "
            f"{asked}; run prepare with this config, or set --config.tokenizer.*"
        )


def markov_beside(corpus: Corpus | Mixed, config: Config) -> dict[str, Any]:
    """Markov models of order 0 to 9 fitted on the very rows the run has read, scored where it was.

    Both strands are counted, as the model sees both. Of a codon stream, codon models of order 0 to
    3: see `floors.markov_floor`.
    """
    settings = config.pretrain
    source, validation = corpus.source("train"), corpus.source("validation")
    rows = loader.CorpusBatches(
        source,
        corpus.tokenizer,
        corpus.row_length,
        batch_rows=settings.batch_rows,
        seed=settings.seed,
    ).rows_seen(settings.steps)
    evaluated = evaluated_rows(corpus, settings.eval_rows).values()
    return floors.markov_floor(
        corpus.tokenizer,
        source.segments(rows.tolist()),
        validation.segments(itertools.chain.from_iterable(evaluated)),
        range(10),
    )


def comparison(metrics: Mapping[str, float], markov_summary: Mapping[str, Any]) -> list[str]:
    """The model's bits per base beside every Markov order's, in lines for a person."""
    bits = markov_summary["bits_per_base"]
    codons = "unit" in markov_summary
    model = "validation_bits_per_base"
    of_each = [
        f"  on {key.removeprefix(f'{model}/')}: {value:.4f}"
        for key, value in metrics.items()
        if key.startswith(f"{model}/")
    ]
    return [
        f"validation bits per base{' covered' if codons else ''}: model {metrics[model]:.4f}",
        *of_each,
        f"{'Codon ' if codons else ''}Markov models fitted on the rows it has seen, by order: "
        + "  ".join(f"{order}: {value:.4f}" for order, value in bits.items()),
    ]
