"""python main.py finetune --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE ...]
                               [--dry-run] [--coordinator=HOST:PORT --processes=N --process=I]
                               [--profile=10:15] [--workers=N]

Restores the backbone of the pre-training checkpoint in DIR/pretrain (or config.finetune.backbone:
another pretrain folder, or "random"), puts a binary head on it and trains it (all of it, its head,
or low-rank adapters: config.finetune.train) on the labelled records that `prepare` wrote to
DIR/data/contigs. With config.composition.steps, small networks on k-mers and open reading frames
are trained first, and joined to it. Of each the step with the best validation average precision is
taken, calibrated on the validation contigs and written to DIR/bundle, without a language-model
head. With config.finetune.seeds=3 three GPTs are trained, their mean and spread are told, and the
best one (config.finetune.ensemble: all) is taken. Started again, it goes on from the last whole
checkpoint; stopped and started on many hosts as `pretrain` is. Windows are cut by one thread, which
an accelerator may have to wait for ("input" on the lines of progress): --workers=N cuts the same
ones in N processes on every host.

--dry-run trains nothing: it prints what the records hold, what windows of which lengths would be
drawn from them, and how often each group is read under the balance keys.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from dnallm_jax.commands import common, training
from dnallm_jax.config import Config

if TYPE_CHECKING:
    from dnallm_jax.training.observed import Observed


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    common.define_peer_flags()
    common.define_profile_flag()
    common.define_workers_flag()
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
    from dnallm_jax.parallel import hosts
    from dnallm_jax.scoring import bundle
    from dnallm_jax.scoring.joint import JointScorer
    from dnallm_jax.training import seeds

    opened = training.open_workdir(config, workdir, flags.FLAGS.workers)
    members: dict[str, training.Trained] = {}
    if config.composition.steps:
        folder = workdir / common.COMPOSITION
        members["composition"] = training.train_composition(opened, config, folder, observed)
        observed = dataclasses.replace(observed, begun=time.perf_counter())  # of the next one
    gpts = {}
    for seed, own, name in seeds.runs(config, common.FINETUNE):
        gpts[seed] = training.train_gpt(opened, own, workdir / name, observed)
        observed = dataclasses.replace(observed, begun=time.perf_counter())
    best, several = seeds.compare({seed: gpt.provenance for seed, gpt in gpts.items()})
    members["gpt"] = gpts.pop(best)
    if config.finetune.ensemble:
        members |= {f"gpt_seed{seed}": gpt for seed, gpt in gpts.items()}
    scorer = JointScorer({name: member.scorer for name, member in members.items()})
    evaluation = bundle.write_bundle(
        workdir / common.BUNDLE,
        {name: member.params for name, member in members.items()},
        {name: member.reading for name, member in members.items()},
        bundle.predict(scorer, opened.contigs.source("validation")),
        false_positive_rate=config.score.false_positive_rate,
        provenance={
            **members["gpt"].provenance,
            **({"seeds": several} if several else {}),
            "trained_on": opened.contigs.trained_on,
            "steps_taken": {name: member.provenance["step"] for name, member in members.items()},
        },
    )
    auroc = evaluation["overall"]["auroc"]
    if not hosts.is_main():
        return
    for line in seeds.lines(several):
        print(line)
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
    tokens: Mapping[str, Any] = tokenizer_spec(config.tokenizer)
    if tokens["name"] == "bpe":  # only then a checkpoint, and JAX, is needed to know them
        backbone = training.find_backbone(config, workdir)
        tokens = training.tokenizer_of(config, workdir, backbone)
    tokenizer = from_spec(tokens)
    sections = [("finetune", config.finetune, make_view(config.finetune.view, tokenizer))]
    if config.composition.steps:
        sections.append(("composition", composition_settings(config), Composition()))
    for name, settings, view in sections:
        keys = f"viruses by {settings.balance_key}, others by {settings.negative_balance_key}"
        yield f"{name}: windows are drawn evenly over {keys}"
        batches = window_batches(settings, contigs, view, parts=1, process=0, processes=1)
        yield from draws.windows(columns["train"], batches, settings.steps)
