"""python main.py evaluate --config=configs/NAME.py --workdir=DIR [--bundle=DIR] [--split=test]

Scores the labelled contigs of a split (DIR/data/contigs; validation unless named) with a bundle
(DIR/bundle unless named) and writes DIR/evaluation/SPLIT: metrics.json, predictions.tsv and
report.html (one file, with pictures): the detector and each of its members alone, beside simple
baselines fitted on windows drawn as its training windows were, and what it says of shuffled
contigs. That a test split was opened is noted in the bundle.
"""

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    flags.DEFINE_string("bundle", "", "the bundle to evaluate; DIR/bundle when not given")
    flags.DEFINE_enum("split", "validation", ["validation", "test"], "which contigs")
    flags.DEFINE_integer(
        "baseline_windows", 2000, "training windows per length for baselines; 0: none"
    )


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    config, workdir = common.config(), common.workdir()

    import pathlib

    from data_pipeline.contigs import open_contigs

    split = flags.FLAGS.split
    contigs = open_contigs(str(workdir / common.CONTIGS))
    if split not in contigs.splits:
        raise UserError(
            f"{workdir / common.CONTIGS} has no {split} split, only {', '.join(contigs.splits)}; "
            f"choose one of them, or name {split} contigs in the config and prepare again"
        )
    common.start_devices()

    from dnallm_jax.evaluation import evaluating
    from dnallm_jax.parallel.execution import choose
    from dnallm_jax.parallel.mesh import make_mesh
    from dnallm_jax.scoring import bundle
    from dnallm_jax.scoring.controls import shuffled_controls
    from dnallm_jax.training import telemetry, windows

    execution, _ = choose(**vars(config.execution))
    folder = pathlib.Path(flags.FLAGS.bundle or workdir / common.BUNDLE)
    detector = bundle.open_bundle(
        folder,
        execution,
        make_mesh(**vars(config.mesh)),
        batch_tokens=config.score.batch_tokens,
    )
    predictions = bundle.predict(detector.scorer, contigs, split)
    predictions["score"] = detector.calibration.apply(predictions["logit"], predictions["length"])
    training = None
    if flags.FLAGS.baseline_windows:
        training = windows.baseline_windows(config.finetune, contigs, flags.FLAGS.baseline_windows)
    result = evaluating.evaluate(
        workdir / common.EVALUATION / split,
        predictions,
        contigs=contigs,
        split=split,
        threshold=detector.threshold,
        training_windows=training,
        history={
            "pre-training": telemetry.read_metrics(workdir / common.PRETRAIN / "metrics.jsonl"),
            "fine-tuning": telemetry.read_metrics(workdir / common.FINETUNE / "metrics.jsonl"),
        },
        pretraining=workdir / common.PRETRAIN / "result.json",
        manifest=detector.manifest,
        controls=shuffled_controls(detector, contigs, split),
    )
    if split != "validation":
        bundle.note_opened(folder, split, contigs.fingerprint, result["model"]["overall"])
