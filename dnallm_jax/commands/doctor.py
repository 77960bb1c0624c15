"""python main.py doctor [--platform=tpu] [--devices=8] [--workdir=DIR] [--config=configs/NAME.py]
                             [--coordinator=HOST:PORT --processes=N --process=I]

Checks, before hours are spent, what a run needs: the platform is there (and free), devices compute
and reach each other, all hosts answer, on their ports too, and have the same code and libraries,
compiled code can be kept; with --workdir (a folder, or gs://), that every host can write, lock and
see the same folder; with --config too, that the prepared data can be read and are those that the
run began with, that network and batch fit the mesh and can run as the recipe says, and that memory
and disk are enough. One line a check: ok, or FAIL and what to do. Ends with exit code 2 when one
fails. On many hosts it is started on each of them, as `pretrain` is.
"""

import functools
import pathlib
from collections.abc import Callable

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common
from dnallm_jax.config import Config


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    common.define_peer_flags()


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    config = common.config() if flags.FLAGS.config is not None else None
    workdir = common.workdir(bucket=True) if flags.FLAGS.workdir else None
    if config and not workdir:
        raise UserError("--config needs --workdir, the folder of its data and runs")
    with common.joined_devices(), common.watched():
        from dnallm_jax.parallel.hosts import is_main
        from dnallm_jax.training import readiness

        checks = readiness.machine_checks()
        if workdir:
            checks |= readiness.workdir_checks(workdir)
        if config and workdir:
            checks |= _run_checks(config, workdir)
        lines, failed = readiness.report(checks)
        if is_main():
            for line in lines:
                print(line)
        if failed:
            raise UserError(f"{failed} of {len(checks)} checks failed")


def _run_checks(config: Config, workdir: pathlib.Path) -> dict[str, Callable[[], str]]:
    from data_pipeline.contigs import open_contigs
    from dnallm_jax.parallel.hosts import everyone
    from dnallm_jax.training import readiness

    contigs = str(workdir / common.CONTIGS)
    pretrain, finetune = workdir / common.PRETRAIN, workdir / common.FINETUNE
    checks: dict[str, Callable[[], str]] = {}
    if config.corpus.sources or config.pretrain.mixture:
        opened = functools.partial(common.open_rows, config, workdir)
        checks["corpus"] = lambda: readiness.data_check(opened(), pretrain)
    if config.contigs.train:
        checks["contigs"] = lambda: readiness.data_check(open_contigs(contigs), finetune)
    try:
        rows = common.open_rows(config, workdir)
    except UserError:  # of which the check of the corpus tells
        rows = None
    if all(everyone(rows is not None)) and rows is not None:  # the same checks on every host
        checks |= readiness.model_checks(config, rows, pretrain)
    return checks
