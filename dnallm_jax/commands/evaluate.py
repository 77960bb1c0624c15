"""python main.py evaluate --config=configs/NAME.py --workdir=DIR [--bundle=DIR] [--split=test]

Scores the labelled contigs of a split (DIR/data/contigs; validation unless named) with a bundle
(DIR/bundle unless named) and writes DIR/evaluation/SPLIT: metrics.json, predictions.tsv and
report.html (one file, with pictures): the detector and each of its members alone, beside simple
baselines fitted on windows drawn as its training windows were, and what it says of shuffled
contigs. --beside=DIR,... adds other bundles, such as the same from random initialisation;
--genomes=FILE,... scans whole genomes that hold no virus, and counts what is called there. That a
test split was opened is noted in the bundle.
"""

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    flags.DEFINE_string("bundle", "", "the bundle to evaluate; DIR/bundle when not given")
    flags.DEFINE_enum("split", "validation", ["validation", "test"], "which contigs")
    flags.DEFINE_list("beside", [], "other bundles, to be measured on the same contigs")
    flags.DEFINE_list("genomes", [], "files of whole genomes that hold no virus, to be scanned")
    flags.DEFINE_integer(
        "baseline_windows", 1000, "training windows per length for baselines; 0: none"
    )


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    config, workdir = common.config(), common.workdir()

    import pathlib

    from data_pipeline.contigs import Test, Validation, open_contigs
    from data_pipeline.reading import expand, read_blocks
    from data_pipeline.spooling import spooled

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
    from dnallm_jax.scoring.genomes import scan
    from dnallm_jax.training import telemetry, windows

    genomes = expand(flags.FLAGS.genomes) if flags.FLAGS.genomes else []
    execution, _ = choose(**vars(config.execution))
    mesh = make_mesh(**vars(config.mesh))

    def opened(folder: pathlib.Path) -> bundle.Detector:
        return bundle.open_bundle(folder, execution, mesh, batch_tokens=config.score.batch_tokens)

    folder = pathlib.Path(flags.FLAGS.bundle or workdir / common.BUNDLE)
    detector = opened(folder)
    others = {name: opened(pathlib.Path(name)) for name in flags.FLAGS.beside}
    held_out: Validation | Test
    held_out = contigs.source("test" if split == "test" else "validation")
    predictions = detector.predict(held_out).table
    training = None
    if flags.FLAGS.baseline_windows:
        training = windows.baseline_windows(config, contigs, flags.FLAGS.baseline_windows)
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
        controls=shuffled_controls(detector, held_out),
        others={name: other.predict(held_out).table for name, other in others.items()},
        genomes=scan(detector, spooled(read_blocks(genomes))) if genomes else None,
    )
    if split != "validation":
        bundle.note_opened(folder, split, contigs.fingerprint, result["model"]["overall"])
