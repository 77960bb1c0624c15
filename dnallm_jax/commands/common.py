"""The flags that several commands share, and where a recipe keeps its things in its workdir."""

import contextlib
import json
import os
import pathlib
import runpy
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from data_pipeline.errors import UserError
from dnallm_jax.config import Config, differences, resolve

if TYPE_CHECKING:
    from data_pipeline.corpora import Mixed
    from data_pipeline.corpus import Corpus
    from dnallm_jax.training.observed import Observed

CORPUS, CONTIGS, PRETRAIN, FINETUNE = "data/corpus", "data/contigs", "pretrain", "finetune"
COMPOSITION = "composition"
BUNDLE, EVALUATION = "bundle", "evaluation"


def define_config_flags() -> None:
    """--config and --workdir."""
    config_flags.DEFINE_config_file("config", help_string="a recipe in configs/", lock_config=True)
    flags.DEFINE_string("workdir", "", "the folder of this recipe's data, checkpoints and results")


def define_device_flags() -> None:
    """--platform and --devices."""
    flags.DEFINE_string("platform", "", "cpu, gpu or tpu; that one or an error")
    flags.DEFINE_integer("devices", 0, "make the CPU look like this many devices")


def define_peer_flags() -> None:
    """--coordinator, --processes and --process, or the variables of the same meaning."""
    named = os.environ if "JAX_NUM_PROCESSES" in os.environ else {}
    flags.DEFINE_string(
        "coordinator", named.get("JAX_COORDINATOR_ADDRESS", ""), "HOST:PORT of process 0"
    )
    flags.DEFINE_integer("processes", int(named.get("JAX_NUM_PROCESSES", 0)), "how many there are")
    flags.DEFINE_integer("process", int(named.get("JAX_PROCESS_ID", -1)), "which this is, from 0")
    flags.DEFINE_float("hang_minutes", 20.0, "end what does nothing for so long; 0: never")


def define_profile_flag() -> None:
    """--profile."""
    flags.DEFINE_string("profile", "", "FIRST:LAST, the steps of which a profile is written")


def define_workers_flag() -> None:
    """--workers."""
    told = "processes that make batches on this host; 0: a thread"
    flags.DEFINE_integer("workers", 0, told, lower_bound=0)


def observed(begun: float) -> "Observed":
    """What a run that began at `begun` (`time.perf_counter()`) shall say and write of itself."""
    from dnallm_jax.training.observed import Observed, profiled_steps

    return Observed(begun, changes(), profiled_steps(flags.FLAGS.profile))


def changes() -> list[str]:
    """Lines "key: old -> new": what the command line changed in the recipe."""
    flag = flags.FLAGS["config"]
    path, *argument = config_flags.get_config_filename(flag).split(":", 1)
    recipe = runpy.run_path(path)["get_config"](*argument)
    old, new = (json.loads(value.to_json()) for value in (recipe, flags.FLAGS.config))
    return differences(old, new)


def config() -> Config:
    """The checked config; UserError when --config is missing, or names no file."""
    if flags.FLAGS.config is None:
        raise UserError("--config is missing; name a recipe, for example --config=configs/small.py")
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    if not os.path.isfile(name.split(":")[0]):
        raise UserError(f"--config={name}: no such file; the recipes are in configs/")
    return resolve(flags.FLAGS.config)


def workdir(*, bucket: bool = False) -> pathlib.Path:
    """The workdir as an absolute path, which may be in a `bucket` (gs://) where that is allowed.

    UserError when --workdir is missing, or is no such place.
    """
    named = flags.FLAGS.workdir
    if not named:
        raise UserError("--workdir is missing; name a folder, for example --workdir=runs/small")
    if "://" in named and not bucket:
        raise UserError(
            f"--workdir={named} is no folder, which this command needs; copy it here first: "
            f"gcloud storage rsync --recursive {named} runs/copy"
        )
    if "://" not in named:
        return pathlib.Path(named).absolute()

    from dnallm_jax.training import storage

    return storage.folder(named)


def keep_memory() -> None:
    """On CPUs, memory that a training step frees is kept for the next one."""
    from dnallm_jax.parallel import heap, hosts

    if hosts.on_cpus(flags.FLAGS.platform, flags.FLAGS.devices):
        heap.keep_freed()


def open_rows(config: Config, workdir: pathlib.Path) -> "Corpus | Mixed":
    """What `pretrain` reads: the workdir's corpus, or those that the config mixes."""
    from data_pipeline.corpora import mixed
    from data_pipeline.corpus import open_corpus
    from data_pipeline.corpus_options import mixture_of

    parts = mixture_of(config.pretrain.mixture)
    if not parts:
        return open_corpus(str(workdir / CORPUS))
    names, weights = zip(*parts, strict=True)
    corpora = [open_corpus(os.path.join(name, CORPUS)) for name in names]
    return mixed(names, corpora, weights)


def start_devices() -> None:
    """Starts JAX as --platform and --devices ask."""
    from dnallm_jax.parallel import hosts

    hosts.start(flags.FLAGS.platform, flags.FLAGS.devices)


@contextlib.contextmanager
def joined_devices() -> Iterator[None]:
    """The same with all processes of the job, which end together."""
    from dnallm_jax.parallel import hosts

    f = flags.FLAGS
    keep_memory()
    peers = hosts.Peers(f.coordinator, f.processes, f.process)
    with hosts.joined(f.platform, f.devices, peers):
        yield


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Ends this process, and so its peers, when it does nothing for --hang_minutes."""
    from dnallm_jax.parallel import hosts, watchdog

    if flags.FLAGS.hang_minutes < 0:
        raise UserError(f"--hang_minutes={flags.FLAGS.hang_minutes:g} is below 0")
    with watchdog.watching(60 * flags.FLAGS.hang_minutes, hosts.STOPPED):
        yield


def refuse_arguments(arguments: list[str]) -> None:
    """UserError for words that no flag took."""
    if arguments:
        raise UserError(f"unexpected {arguments[0]!r}; options are written --name=value")
