"""A folder in which commands run as a user's do, each in processes of its own that can be killed.

The processes are forked from a server that has imported everything and touched no device, so that a
start takes a second.
"""

import atexit
import contextlib
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess

import fsspec
import jax
import numpy as np
import orbax.checkpoint as ocp

from dnallm_jax.parallel import hosts
from dnallm_jax.training.checkpoints import saved_steps
from dnallm_jax.training.manifest import read_manifest

SAVE_EVERY = 4

RECIPE = """
from dnallm_jax.config import default_config

def get_config():
    c = default_config()
    c.name = "tiny"
    c.corpus.sources = ("genomes.fa",)
    c.corpus.validation_fraction = c.contigs.validation_fraction = 0.3
    c.corpus.cluster_key = "cluster"
    c.corpus.row_length = 64
    c.contigs.train = ("contigs.fa",)
    m, p, f, s = c.model, c.pretrain, c.finetune, c.score
    m.width, m.layers, m.heads, m.kv_heads, m.head_width, m.feed_forward = 32, 1, 2, 1, 16, 32
    p.batch_rows, p.eval_rows, p.ema = 8, 8, 0.5
    f.batch_tokens, f.lengths, f.freeze_steps = 384, (60,), 6
    s.window, s.batch_tokens = 60, 1024
    for t in (p, f):
        t.steps, t.log_every, t.eval_every, t.save_every = STEPS, 2, SAVE_EVERY, SAVE_EVERY
    return c
"""
# Compiles faster, for runs of which only the bits matter.
_QUICK = " ".join(
    flag
    for flag in ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
    if "emitters" not in flag or jax.__version_info__ < (0, 11)
)

_IMPORTED = [
    *("main", "jax", "flax.nnx", "optax", "orbax.checkpoint", "tensorflow_datasets", "sklearn"),
    *("tensorboardX", "dnallm_jax.training.finetuning", "dnallm_jax.training.pretraining"),
    *("dnallm_jax.scoring.bundle", "tests.dnallm_jax.training.place"),
]


class Place:
    """A folder with a recipe of so many steps, and data; a workdir in it has a relative name."""

    def __init__(
        self, folder: pathlib.Path, steps: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.steps, self.environment = folder, steps, environment or {}
        recipe = RECIPE.replace("STEPS", str(steps)).replace("SAVE_EVERY", str(SAVE_EVERY))
        (folder / "tiny.py").write_text(recipe)
        rng = np.random.default_rng(0)

        def record(name: str, words: str, bases: int, gc: float) -> str:
            share = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
            letters = "".join(rng.choice(list("ACGT"), bases, p=share))
            return f">{name} cluster={name} {words}\n{letters}\n"

        genomes = [record(f"g{n}", "", 800, 0.4) for n in range(10)]
        contigs = [
            record(f"c{n}", f"label={n % 2} group={'ab'[n % 2]}", 100, 0.45 + 0.1 * (n % 2))
            for n in range(40)
        ]
        (folder / "genomes.fa").write_text("".join(genomes))
        (folder / "contigs.fa").write_text("".join(contigs))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)

    def start(
        self, command: str, workdir: str, *words: str, devices: int = 1, processes: int = 1
    ) -> list[BaseProcess]:
        """The processes of a command; what process 0 says goes to WORKDIR.txt."""
        line = ["main.py", command, f"--config={self.folder / 'tiny.py'}"]
        place = workdir if "://" in workdir else self.folder / workdir
        line += [f"--config.root={self.folder}", f"--workdir={place}"]
        line += words
        if command != "prepare":
            line.append(f"--devices={devices}")
        if processes > 1:
            line += [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={processes}"]
        started: list[BaseProcess] = []
        for process in range(processes):
            said = self.said(workdir, process)
            said.write_bytes(b"")
            own = [word.format(process=process) for word in line]
            own += [f"--process={process}"] if processes > 1 else []
            arguments = (own, str(said), str(self.folder / "compiled"), self.environment)
            started.append(self._context.Process(target=_run, args=arguments, daemon=True))
            started[-1].start()
        return started

    def said(self, workdir: str, process: int = 0) -> pathlib.Path:
        return self.folder / f"{workdir.rpartition('/')[2]}.{process}.txt"

    def run(
        self, command: str, workdir: str, *words: str, devices: int = 1, processes: int = 1
    ) -> str:
        """What the command said; it must succeed."""
        started = self.start(command, workdir, *words, devices=devices, processes=processes)
        codes = self.ended(started)
        said = self.said(workdir).read_text()
        assert set(codes) == {0}, (codes, said, self.said(workdir, processes - 1).read_text())
        return said

    def ended(self, started: Sequence[BaseProcess], seconds: float = 600) -> list[int | None]:
        """The exit codes; a process that has not ended by then is killed."""
        deadline = time.monotonic() + seconds
        for process in started:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in started]
        for process in started:
            process.kill()
            process.join()
        return codes

    def until(self, started: Sequence[BaseProcess], happened: Callable[[], bool]) -> None:
        """Waits for what shall happen while the processes run."""
        while all(process.is_alive() for process in started) and not happened():
            time.sleep(0.001)

    def kill_when(
        self, happened: Callable[[], bool], command: str, workdir: str, *words: str, **options: int
    ) -> None:
        """Starts the command and kills it as soon as something has happened."""
        started = self.start(command, workdir, *words, **options)
        self.until(started, happened)
        for process in started:
            process.kill()
        codes = self.ended(started)
        assert set(codes) == {-signal.SIGKILL}, (codes, self.said(workdir).read_text())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _run(words: list[str], said: str, compiled: str, environment: Mapping[str, str]) -> None:
    """In a new process: `python main.py WORDS` as far as a fork can."""
    os.environ.update(environment)
    fsspec.config.set_conf_env(fsspec.config.conf)
    os.environ["XLA_FLAGS"] = _QUICK
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words
    hosts.LOST_SECONDS = 5
    import main

    code = 0
    try:
        main.run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        atexit._run_exitfuncs()
        with contextlib.suppress(ValueError):
            sys.stdout.flush()
        os._exit(code)


def arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of one checkpoint or bundle, as they lie on disk."""
    read_manifest(folder)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder / "arrays").item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(folder / "arrays", restore_args=plain)


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are not equal bit for bit, or are in one of them only."""
    return sorted(one.keys() ^ other.keys()) + [
        name
        for name in sorted(one.keys() & other.keys())
        if one[name].dtype != other[name].dtype or one[name].tobytes() != other[name].tobytes()
    ]


def assert_equal_runs(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same last checkpoint, bit for bit, and any other that both have; the same metrics."""
    steps = [saved_steps(run / "checkpoints") for run in (one, other)]
    assert steps[0][-1] == steps[1][-1]
    for step in sorted({*steps[0]} & {*steps[1]}):
        folders = [run / "checkpoints" / str(step) for run in (one, other)]
        assert differing(arrays(folders[0]), arrays(folders[1])) == [], step
        manifests = [read_manifest(folder) for folder in folders]
        for key in ("metrics", "progress"):
            assert manifests[0][key] == manifests[1][key]
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
