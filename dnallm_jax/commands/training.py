"""How do `finetune` and `tune` train a member of a detector, judged by its validation contigs?"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dnallm_jax.commands import common
from dnallm_jax.config import Config

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from data_pipeline.contigs import Contigs
    from dnallm_jax.model.gpt import Execution, Params
    from dnallm_jax.planning.flops import Peak
    from dnallm_jax.scoring.bundle import Reading
    from dnallm_jax.scoring.scorer import Scorer
    from dnallm_jax.training.members import Member
    from dnallm_jax.training.observed import Observed


@dataclasses.dataclass(frozen=True)
class Opened:
    """What the members of one workdir's detectors are trained on and with."""

    contigs: "Contigs"
    mesh: "Mesh"
    execution: "Execution"
    backbone: pathlib.Path | None  # the pre-training checkpoint
    tokenizer: Mapping[str, Any]  # its specification
    peak: "Peak"
    reasons: tuple[str, ...]  # why the network runs as it does
    workers: int  # processes that make batches on this host


@dataclasses.dataclass(frozen=True)
class Trained:
    """A member at its best step."""

    params: "Params"
    reading: "Reading"
    scorer: "Scorer"
    provenance: dict[str, Any]


def open_workdir(config: Config, workdir: pathlib.Path, workers: int = 0) -> Opened:
    """UserError for a workdir without contigs, or without the backbone that the config names.

    And where mesh or backbone do not fit the GPT, which may be trained last.
    """
    from data_pipeline.contigs import open_contigs
    from dnallm_jax.parallel import hosts
    from dnallm_jax.parallel.execution import choose
    from dnallm_jax.parallel.mesh import make_mesh
    from dnallm_jax.planning.flops import device_peak
    from dnallm_jax.training import storage
    from dnallm_jax.training.members import gpt_member

    contigs = hosts.together(lambda: open_contigs(str(workdir / common.CONTIGS)))
    mesh = make_mesh(**vars(config.mesh))
    execution, reasons = choose(**vars(config.execution))
    backbone = hosts.from_main(lambda: str(find_backbone(config, workdir) or ""))
    backbone = storage.folder(backbone) if backbone else None
    tokenizer = hosts.together(lambda: tokenizer_of(config, workdir, backbone))
    gpt_member(config, mesh, execution, backbone, tokenizer)
    return Opened(
        contigs, mesh, execution, backbone, tokenizer, device_peak(), tuple(reasons), workers
    )


def find_backbone(config: Config, workdir: pathlib.Path) -> pathlib.Path | None:
    """The newest whole checkpoint of the pre-training that the config names, if it names one."""
    from dnallm_jax.training import checkpoints, pretraining, storage

    given = config.finetune.backbone
    if given == "random":
        return None
    folder = workdir / common.PRETRAIN if given == "pretrain" else storage.folder(given)
    return checkpoints.newest_whole(folder / pretraining.CHECKPOINTS)


def tokenizer_of(
    config: Config, workdir: pathlib.Path, backbone: pathlib.Path | None
) -> Mapping[str, Any]:
    """The tokenizer's specification: of a learned one the backbone's, or else the corpus's."""
    from data_pipeline.corpus import open_corpus
    from dnallm_jax.training import members

    corpus = str(workdir / common.CORPUS)
    return members.tokenizer_of(config, backbone, lambda: open_corpus(corpus).manifest["tokenizer"])


def train_gpt(
    opened: Opened,
    config: Config,
    folder: pathlib.Path,
    observed: "Observed",
    on_evaluation: Callable[[int, float], None] | None = None,
) -> Trained:
    """The GPT, trained in `folder`; `on_evaluation` as of `loop.train`."""
    from dnallm_jax.parallel.execution import on_mesh
    from dnallm_jax.scoring import bundle
    from dnallm_jax.training.members import gpt_member

    run = on_mesh(opened.execution, opened.mesh)
    member = gpt_member(config, opened.mesh, run, opened.backbone, opened.tokenizer)
    cut = (config.score.window, config.score.overlap)
    how = bundle.Reading(member.network.description, opened.tokenizer, member.view.name, *cut)
    return _train(opened, config, folder, member, how, observed, on_evaluation)


def train_composition(
    opened: Opened, config: Config, folder: pathlib.Path, observed: "Observed"
) -> Trained:
    """The networks on composition, trained in `folder`."""
    from dnallm_jax.scoring import bundle
    from dnallm_jax.training.members import composition_member

    member = composition_member(config, opened.contigs)
    window = config.composition.window
    how = bundle.Reading(member.network.description, None, member.view.name, window, 0)
    return _train(opened, config, folder, member, how, observed)


def _train(
    opened: Opened,
    config: Config,
    folder: pathlib.Path,
    member: "Member",
    reading: "Reading",
    observed: "Observed",
    on_evaluation: Callable[[int, float], None] | None = None,
) -> Trained:
    from dnallm_jax.evaluation.metrics import point_metrics
    from dnallm_jax.scoring import bundle
    from dnallm_jax.training import finetuning

    scorer = bundle.make_scorer(
        None, reading, opened.execution, opened.mesh, batch_tokens=config.score.batch_tokens
    )

    def validate(params: "Params") -> dict[str, float]:
        held = opened.contigs.source("validation")
        table = bundle.predict(scorer.of(params), held, config.finetune.eval_contigs).table
        names = ("average_precision", "auroc")
        values = point_metrics(table["label"], table["logit"], names, None)
        return {f"validation_{name}": value for name, value in values.items()}

    params, provenance = finetuning.finetune(
        config,
        opened.contigs,
        folder,
        member,
        mesh=opened.mesh,
        validate=validate,
        peak=opened.peak,
        reasons=opened.reasons,
        observed=observed,
        workers=opened.workers,
        on_evaluation=on_evaluation,
    )
    return Trained(params, reading, scorer.of(params), provenance)
