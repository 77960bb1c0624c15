"""python main.py finetune --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE ...]

Restores the backbone of the pre-training checkpoint in DIR/pretrain (or config.finetune.backbone:
another pretrain folder, or "random"), puts a binary head on it and trains it on the labelled
records that `prepare` wrote to DIR/data/contigs. The step with the best validation average
precision is calibrated on the validation contigs and written to DIR/bundle, without a
language-model head. Started again, it goes on from the last whole checkpoint.
"""

from dnallm_jax.commands import common


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    config, workdir = common.config(), common.workdir()
    common.start_devices()

    import pathlib

    from data_pipeline.contigs import open_contigs
    from data_pipeline.tokenizers import from_spec
    from data_pipeline.views import make_view
    from dnallm_jax.config import gpt_spec, tokenizer_spec
    from dnallm_jax.evaluation.metrics import point_metrics
    from dnallm_jax.parallel.execution import choose
    from dnallm_jax.parallel.mesh import make_mesh
    from dnallm_jax.planning.flops import device_peak
    from dnallm_jax.scoring import bundle
    from dnallm_jax.training import checkpoints, finetuning, pretraining

    settings = config.finetune
    contigs = open_contigs(str(workdir / common.CONTIGS))
    mesh = make_mesh(**vars(config.mesh))
    execution, _ = choose(**vars(config.execution))
    tokenizer = tokenizer_spec(config.tokenizer)
    view = make_view(settings.view, from_spec(tokenizer))
    spec = gpt_spec(config.model, view.tokenizer.vocab_size)
    backbone = None
    if settings.backbone != "random":
        given = settings.backbone
        folder = workdir / common.PRETRAIN if given == "pretrain" else pathlib.Path(given)
        backbone = checkpoints.newest_whole(folder.absolute() / pretraining.CHECKPOINTS)
        finetuning.check_backbone(backbone, spec, tokenizer)
    reading = bundle.Reading(
        spec, tokenizer, settings.view, settings.pooling, settings.causal, config.score.window
    )
    scorer = bundle.make_scorer(
        None, reading, execution, mesh, batch_tokens=config.score.batch_tokens
    )

    def validate(params: dict) -> dict[str, float]:
        table = bundle.predict(scorer.of(params), contigs, "validation", settings.eval_contigs)
        names = ("average_precision", "auroc")
        values = point_metrics(table["label"], table["logit"], names, None)
        return {f"validation_{name}": value for name, value in values.items()}

    params, provenance = finetuning.finetune(
        config,
        contigs,
        workdir / common.FINETUNE,
        backbone=backbone,
        spec=spec,
        run=execution,
        view=view,
        mesh=mesh,
        validate=validate,
        peak_flops=device_peak().flops,
    )
    evaluation = bundle.write_bundle(
        workdir / common.BUNDLE,
        params,
        reading,
        bundle.predict(scorer.of(params), contigs, "validation"),
        false_positive_rate=config.score.false_positive_rate,
        provenance=provenance,
    )
    auroc = evaluation["overall"]["auroc"]
    print(
        f"{workdir / common.BUNDLE}: validation AUROC {auroc['value']:.4f} "
        f"({auroc['low']:.4f} to {auroc['high']:.4f})"
    )
