"""python main.py tune --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE ...]

Searches the values of the config's section `tune` for the GPT that detects best: each trial is a
fine-tuning run in a folder of its own, DIR/tune/trial-N, on the data sets and the pre-training
checkpoint of DIR, and is judged by its average precision on validation contigs alone. A trial that
does worse at an evaluation than half of those before it is ended there. The first trial is the
config as it stands, where its values are among those searched.

After each trial DIR/tune holds trials.tsv (all trials), tune.html (pictures of them) and best.py:
the best config, as a file that finetune takes. Killed or stopped, and started again, a search goes
on exactly where it was; --config.tune.trials=40 goes on with a finished one. --workers=N cuts the
windows in N processes, as in finetune. The search is Optuna's
(pip install --require-hashes -r requirements-tune.txt).
"""

import pathlib
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from dnallm_jax.commands import common, training
from dnallm_jax.config import Config, to_dict

if TYPE_CHECKING:
    from dnallm_jax.training.search import Trial
    from dnallm_jax.training.space import Dimension

FOLDER = "tune"


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    common.define_workers_flag()


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    config, workdir = common.config(), common.workdir()

    from dnallm_jax.training import search, space

    dimensions = space.parse(config.tune.space)
    search.library()
    common.keep_memory()
    common.start_devices()
    _search(config, workdir, dimensions)


def _search(config: Config, workdir: pathlib.Path, dimensions: "tuple[Dimension, ...]") -> None:
    from dnallm_jax.config.writing import recipe
    from dnallm_jax.evaluation.search_page import write_page
    from dnallm_jax.training import search, space
    from dnallm_jax.training.observed import Observed
    from dnallm_jax.training.workdir import claim

    workers = flags.FLAGS.workers
    opened = training.open_workdir(config, workdir, workers)
    folder = workdir / FOLDER

    def attempt(trial: search.Trial, report: Callable[[int, float], None]) -> None:
        print(f"trial {trial.number}: {search.in_words(trial)}", flush=True)
        own = space.applied(config, dimensions, trial.chosen)
        backbone = opened
        if own.finetune.backbone != config.finetune.backbone:
            backbone = training.open_workdir(own, workdir, workers)
        observed = Observed(time.perf_counter())
        training.train_gpt(backbone, own, _folder(folder, trial), observed, report)

    def after(trials: list[search.Trial]) -> None:
        print(f"trial {trials[-1].number}: {search.outcome(trials[-1])}", flush=True)
        (folder / "trials.tsv").write_text(search.table(trials, dimensions))
        write_page(
            folder / "tune.html",
            config.name,
            [trial.as_dict() for trial in trials],
            {dimension.key: dimension.logarithmic for dimension in dimensions},
        )
        if not any(trial.state == search.COMPLETE for trial in trials):
            return
        best = search.best(trials)
        for trial in trials:
            if trial is not best:  # its figures stay
                shutil.rmtree(_folder(folder, trial) / "checkpoints", ignore_errors=True)
        heading = (
            f"The best of {len(trials)} trials of tune on {config.name}: {best.number}.\n\n"
            f"Expected: average precision {best.value:.4f} on the validation that chose it.\n\n"
            f"python main.py finetune --config={folder / 'best.py'} --workdir=DIR"
        )
        (folder / "best.py").write_text(
            recipe(space.applied(config, dimensions, best.chosen), heading)
        )

    # More trials and another limit go on with the same search.
    whole = to_dict(config)
    whole["tune"] = {key: whole["tune"][key] for key in ("startup", "seed", "space")}
    with claim(folder, {"config": whole, "data": opened.contigs.fingerprint}):
        trials = search.search(
            folder,
            dimensions,
            config.tune,
            attempt,
            first=space.present(config, dimensions),
            after=after,
        )
    best = search.best(trials)
    print(f"best of {len(trials)}: trial {best.number}, {search.in_words(best)}")
    print(f"{folder / 'tune.html'}; python main.py finetune --config={folder / 'best.py'} ...")


def _folder(folder: pathlib.Path, trial: "Trial") -> pathlib.Path:
    return folder / f"trial-{trial.number:03}"
