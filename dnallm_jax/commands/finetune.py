"""python main.py finetune --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE ...]
                               [--dry-run] [--coordinator=HOST:PORT --processes=N --process=I]
                               [--profile=10:15]

Restores the backbone of the pre-training checkpoint in DIR/pretrain (or config.finetune.backbone:
another pretrain folder, or "random"), puts a binary head on it and trains it on the labelled
records that `prepare` wrote to DIR/data/contigs. With config.composition.steps, small networks on
k-mers and open reading frames are trained first, and joined to it. Of each the step with the best
validation average precision is taken, calibrated on the validation contigs and written to
DIR/bundle, without a language-model head. Started again, it goes on from the last whole checkpoint;
stopped and started on many hosts as `pretrain` is.

--dry-run trains nothing: it prints what the records hold, what windows of which lengths would be
drawn from them, and how often each group is read under the balance keys.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from dnallm_jax.commands import common
from dnallm_jax.config import Config

if TYPE_CHECKING:
    from dnallm_jax.training.observed import Observed


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    common.define_peer_flags()
    common.define_profile_flag()
    flags.DEFINE_bool("dry_run", False, "print counts and balance, and train nothing")
    flags.DEFINE_alias("dry-run", "dry_run")


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    begun = time.perf_counter()
    config, workdir = common.config(), common.workdir(bucket=True)
    observed = common.observed(begun)
    if flags.FLAGS.dry_run:
        for line in _counts(config, workdir):
            print(line)
        return
    with common.joined_devices(), common.watched():
        _run(config, workdir, observed)


def _run(config: Config, workdir: pathlib.Path, observed: "Observed") -> None:
    from data_pipeline.contigs import open_contigs
    from dnallm_jax.config import tokenizer_spec
    from dnallm_jax.evaluation.metrics import point_metrics
    from dnallm_jax.model.gpt import Params
    from dnallm_jax.parallel import hosts
    from dnallm_jax.parallel.execution import choose, on_mesh
    from dnallm_jax.parallel.mesh import make_mesh
    from dnallm_jax.planning.flops import device_peak
    from dnallm_jax.scoring import bundle
    from dnallm_jax.scoring.joint import JointScorer
    from dnallm_jax.scoring.scorer import Scorer
    from dnallm_jax.training import checkpoints, finetuning, members, pretraining, storage

    settings = config.finetune
    contigs = hosts.together(lambda: open_contigs(str(workdir / common.CONTIGS)))
    mesh = make_mesh(**vars(config.mesh))
    execution, reasons = choose(**vars(config.execution))
    backbone = None
    if settings.backbone != "random":
        given = settings.backbone
        folder = workdir / common.PRETRAIN if given == "pretrain" else storage.folder(given)
        known = folder / pretraining.CHECKPOINTS
        backbone = storage.folder(hosts.from_main(lambda: str(checkpoints.newest_whole(known))))
    gpt = members.gpt_member(config, mesh, on_mesh(execution, mesh), backbone)
    score = config.score
    parts: list[tuple[members.Member, str, dict[str, Any] | None, tuple[int, int]]] = []
    if config.composition.steps:
        composition = members.composition_member(config, contigs)
        parts.append((composition, common.COMPOSITION, None, (config.composition.window, 0)))
    cut = (score.window, score.overlap)
    parts.append((gpt, common.FINETUNE, tokenizer_spec(config.tokenizer), cut))

    trained: dict[str, Params] = {}
    readings, scorers = {}, {}
    provenance: dict[str, dict[str, Any]] = {}
    for member, name, tokenizer, cut in parts:
        reading = bundle.Reading(member.network.description, tokenizer, member.view.name, *cut)
        scorer = bundle.make_scorer(None, reading, execution, mesh, batch_tokens=score.batch_tokens)

        def validate(params: Params, scorer: Scorer = scorer) -> dict[str, float]:
            table = bundle.predict(scorer.of(params), contigs, "validation", settings.eval_contigs)
            names = ("average_precision", "auroc")
            values = point_metrics(table["label"], table["logit"], names, None)
            return {f"validation_{name}": value for name, value in values.items()}

        trained[member.name], provenance[member.name] = finetuning.finetune(
            config,
            contigs,
            workdir / name,
            member,
            mesh=mesh,
            validate=validate,
            peak=device_peak(),
            reasons=reasons,
            observed=observed,
        )
        observed = dataclasses.replace(observed, begun=time.perf_counter())  # of the next one
        readings[member.name] = reading
        scorers[member.name] = scorer.of(trained[member.name])
    evaluation = bundle.write_bundle(
        workdir / common.BUNDLE,
        trained,
        readings,
        bundle.predict(JointScorer(scorers), contigs, "validation"),
        false_positive_rate=score.false_positive_rate,
        provenance={
            **provenance[gpt.name],
            "steps_taken": {name: known["step"] for name, known in provenance.items()},
        },
    )
    auroc = evaluation["overall"]["auroc"]
    if not hosts.is_main():
        return
    print(
        f"{workdir / common.BUNDLE}: validation AUROC {auroc['value']:.4f} "
        f"({auroc['low']:.4f} to {auroc['high']:.4f})"
    )


def _counts(config: Config, workdir: pathlib.Path) -> Iterator[str]:
    from data_pipeline import draws
    from data_pipeline.contigs import open_contigs
    from data_pipeline.cutting import table
    from data_pipeline.tokenizers import from_spec
    from data_pipeline.views import Composition, make_view
    from dnallm_jax.config import tokenizer_spec
    from dnallm_jax.training.windows import composition_settings, window_batches

    contigs = open_contigs(str(workdir / common.CONTIGS))
    columns = {split: table(contigs.source(split)) for split in contigs.splits if split != "test"}
    for split, own in columns.items():
        viral = int(own["label"].sum())
        yield f"{split}: {viral:,} viral and {len(own['label']) - viral:,} other records"
        yield from draws.records_by_group(own)
        if split != "train":
            yield from draws.lengths(own)
    sections = [
        (
            "finetune",
            config.finetune,
            make_view(config.finetune.view, from_spec(tokenizer_spec(config.tokenizer))),
        )
    ]
    if config.composition.steps:
        sections.append(("composition", composition_settings(config), Composition()))
    for name, settings, view in sections:
        keys = f"viruses by {settings.balance_key}, others by {settings.negative_balance_key}"
        yield f"{name}: windows are drawn evenly over {keys}"
        batches = window_batches(settings, contigs, view, parts=1, process=0, processes=1)
        yield from draws.windows(columns["train"], batches, settings.steps)
