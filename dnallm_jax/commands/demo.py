"""python main.py demo [--workdir=runs/demo] [--devices=8]

Simulates genomes of a host and a virus, then runs prepare, pretrain, finetune, evaluate and score
on them, through the very commands that you would type, and says how far the result is from the
best possible, which is known exactly for simulated genomes. --devices=8 does all that on eight
fake CPU devices.
"""

from absl import flags

from dnallm_jax.commands import common

_OWN = (
    *("simulated", "data", common.PRETRAIN, common.FINETUNE, common.BUNDLE, common.EVALUATION),
    "scores.tsv",
)


def define_flags() -> None:
    flags.DEFINE_string("workdir", "runs/demo", "the folder of the demo; begun anew each time")
    flags.DEFINE_string("config", "configs/demo.py", "the recipe of the demo")
    flags.DEFINE_integer("devices", 0, "make the CPU look like this many devices")


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)

    import json
    import pathlib
    import shlex
    import shutil
    import subprocess
    import sys

    from data_pipeline.errors import UserError
    from data_pipeline.simulate import write_demo

    workdir = pathlib.Path(flags.FLAGS.workdir).absolute()
    # What is begun anew is deleted, so it must be a demo's and hold nothing else.
    found = sorted(path.name for path in workdir.iterdir()) if workdir.is_dir() else []
    foreign = [name for name in found if not name.startswith(_OWN)]
    if workdir.is_file() or foreign or (found and "simulated" not in found):
        raise UserError(
            f"{workdir} is not a demo's folder ({', '.join(foreign or found) or 'a file'}); "
            "choose another --workdir"
        )
    shutil.rmtree(workdir, ignore_errors=True)
    truth = write_demo(workdir / "simulated", contigs=120)
    main = pathlib.Path(__file__).resolve().parents[2] / "main.py"
    recipe = [f"--config={flags.FLAGS.config}", f"--workdir={workdir}"]
    recipe.append(f"--config.root={workdir / 'simulated'}")
    devices = [f"--devices={flags.FLAGS.devices}"] if flags.FLAGS.devices else []
    scores = workdir / "scores.tsv"
    for command in (
        ["prepare", *recipe],
        ["pretrain", *recipe, *devices],
        ["finetune", *recipe, *devices],
        ["evaluate", *recipe, *devices, "--split=test", "--baseline_windows=250"],
        [
            *("score", *devices, f"--bundle={workdir / common.BUNDLE}", f"--output={scores}"),
            str(workdir / "simulated" / "virus" / "test.fa.gz"),
        ],
    ):
        print(f"\n$ python main.py {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, str(main), *command], check=False).returncode
        if status:
            sys.exit(status)

    from dnallm_jax.evaluation.truth import compare

    evaluated = workdir / common.EVALUATION / "test"
    print()
    for line in compare(
        truth,
        json.loads((workdir / common.PRETRAIN / "result.json").read_text()),
        json.loads((evaluated / "metrics.json").read_text()),
    ):
        print(line)
    print(f"report: {evaluated / 'report.html'}")
