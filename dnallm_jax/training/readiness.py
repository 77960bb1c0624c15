"""Is all there that a run needs? Each check is one line: ok, or what to do."""

import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from data_pipeline.buckets import in_bucket
from data_pipeline.contigs import Contigs
from data_pipeline.corpora import Mixed
from data_pipeline.corpus import Corpus
from data_pipeline.datasets import sole_writer
from data_pipeline.errors import UserError
from dnallm_jax.config import Config, gpt_spec
from dnallm_jax.model.gpt import GPT, GPTSpec, initialise
from dnallm_jax.parallel import execution, hosts, watchdog
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.training import storage
from dnallm_jax.training.pretraining import check_fits
from dnallm_jax.training.units import si
from dnallm_jax.training.workdir import code, versions

# Bytes of a parameter in training: itself, its gradient and two moments, float32.
_BYTES = 16
# A checkpoint has the parameter and the moments.
_SAVED_BYTES = 12

# A check says what it found; its UserError says what to do. It asks this host alone: comparing the
# hosts is the work of `report`.
Check = Callable[[], str]
# What these find must be the same on every host.
_EQUAL = ("versions", "corpus", "contigs")


def report(checks: dict[str, Check]) -> tuple[list[str], int]:
    """A line for each check (from every host on which it failed), and how many checks failed."""
    lines, failed = [], 0
    for name, check in checks.items():
        watchdog.alive(f"the beginning of check {name!r}")
        try:
            own = {"ok": check()}
        except (UserError, OSError) as error:
            own = {"bad": " ".join(str(error).split())}
        said = hosts.everyone({**own, "host": socket.gethostname()})
        bad = [(n, s["host"], s["bad"]) for n, s in enumerate(said) if "bad" in s]
        if not bad and name in _EQUAL:
            bad = [
                (n, s["host"], f"differs from process 0, which has {said[0]['ok']}: {s['ok']}")
                for n, s in enumerate(said)
                if s["ok"] != said[0]["ok"]
            ]
        failed += bool(bad)
        if not bad:
            lines.append(f"ok    {name:<10}{said[0]['ok']}")
        for number, host, what in bad:
            where = f"process {number} on {host}: " if len(said) > 1 else ""
            lines.append(f"FAIL  {name:<10}{where}{what}")
    return lines, failed


def machine_checks() -> dict[str, Check]:
    """What holds for every run."""
    return {
        "devices": _devices,
        "hosts": _hosts,
        "ports": _ports,
        "versions": _versions,
        "cache": _cache,
    }


def workdir_checks(workdir: pathlib.Path) -> dict[str, Check]:
    """What a workdir must allow on every host."""
    return {"workdir": lambda: _writable(workdir), "shared": lambda: _shared(workdir)}


def data_check(prepared: Corpus | Mixed | Contigs, run: pathlib.Path) -> str:
    """A data set can be read at both ends of its splits, and is the one that `run` began with."""
    for split in prepared.splits:
        source = prepared.source(split)
        for number in (0, len(source) - 1):
            source[number]
    known = run / "run.json"
    if known.exists():
        begun = json.loads(known.read_text())["data"]
        if begun != prepared.fingerprint:
            raise UserError(
                f"{prepared.data_dir} has fingerprint {prepared.fingerprint[:12]}, but the run in "
                f"{run} began with {begun[:12]}; choose another --workdir, or prepare the old data"
            )
    sizes = (f"{name} {si(split.bases)}bases" for name, split in prepared.splits.items())
    return f"{prepared.fingerprint[:12]} can be read: {', '.join(sizes)}"


def model_checks(config: Config, rows: Corpus | Mixed, folder: pathlib.Path) -> dict[str, Check]:
    """What a recipe's network must fit into; its pre-training on `rows` will write to `folder`."""
    spec = gpt_spec(config.model, rows.tokenizer.vocab_size)
    shapes = jax.eval_shape(lambda: initialise(GPT, spec, seed=0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return {
        "mesh": lambda: _mesh(config, spec, rows.row_length),
        "execution": lambda: _execution(config),
        "memory": lambda: _memory(config, parameters),
        "disk": lambda: _disk(config, parameters, folder),
    }


def _devices() -> str:
    """Every device computes, and reaches every other."""
    found = jax.devices()
    mesh = meshes.make_mesh(data=-1, fsdp=1)
    ones = jax.jit(lambda: jnp.ones(len(found)), out_shardings=meshes.sharding(mesh, "batch"))()
    total = float(jax.jit(jnp.sum, out_shardings=meshes.sharding(mesh))(ones))
    if total != len(found):
        raise UserError(f"a sum over all devices gave {total}, not {len(found)}: restart them")
    kinds = ", ".join(sorted({device.device_kind for device in found}))
    return f"{len(found)} x {kinds} ({found[0].platform}) compute and reach each other"


def _hosts() -> str:
    start = time.perf_counter()
    names = hosts.everyone(socket.gethostname())
    return f"{len(names)} processes answer in {time.perf_counter() - start:.2f} s: " + ", ".join(
        sorted(set(names))
    )


def _ports() -> str:
    """Every process reaches a port that the system gave every other one, as collectives do."""
    with socket.create_server(("", 0)) as server:
        at = hosts.everyone([_address(), server.getsockname()[1]])
        try:
            for number, (address, port) in enumerate(at):
                reach(number, address, port)
        finally:
            hosts.barrier("ports")  # nobody closes his before all have come
    if len(at) == 1:
        return "one process: it needs none of another"
    return f"all {len(at)} processes reach a port of every other"


def reach(number: int, address: str, port: int) -> None:
    """UserError where the port of a process does not answer."""
    try:
        socket.create_connection((address, port), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"port {port} of process {number} at {address} does not answer ({error.strerror}); "
            "open the ports between the hosts"
        ) from None


def _address() -> str:
    """Where others find this machine: of its addresses the one with which it goes out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses a way; nothing is sent
        except OSError:
            return "127.0.0.1"  # a machine by itself
        return str(probe.getsockname()[0])


def _versions() -> str:
    found = {"code": code(), **versions()}
    return ", ".join(f"{name} {found[name]}" for name in ("code", "jax", "jaxlib", "python"))


def _cache() -> str:
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or "://" in folder:
        return f"compiled code is kept in {folder}" if folder else "compiled code is not kept"
    try:
        _try_file(pathlib.Path(folder))
    except OSError as error:
        raise UserError(
            f"compiled code cannot be kept in {folder} ({error.strerror}): every start will "
            "compile anew; set JAX_COMPILATION_CACHE_DIR to a folder that can be written"
        ) from None
    return f"{folder} can be written"


def _try_file(folder: pathlib.Path) -> None:
    """Writes, reads and deletes a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".doctor.{socket.gethostname()}.{os.getpid()}"
    text = f"{time.time()}"
    path.write_text(text)
    try:
        if path.read_text() != text:
            raise UserError(f"{folder}: a file was read back changed; do not trust this disk")
    finally:
        path.unlink()


def _writable(workdir: pathlib.Path) -> str:
    if in_bucket(workdir):
        with storage.sole_run(workdir / f".doctor.{socket.gethostname()}.{os.getpid()}"):
            return f"{workdir}: written, read, leased and deleted"
    mine = workdir / f".doctor.{socket.gethostname()}.{os.getpid()}"
    try:
        _try_file(workdir)
        with sole_writer(str(mine), "doctor"):
            pass
        shutil.rmtree(mine)
    except OSError as error:
        raise UserError(
            f"{workdir}: {error.strerror}; choose another --workdir, or change who may write there"
        ) from None
    return f"{workdir}: written, read, locked and deleted"


def _shared(workdir: pathlib.Path) -> str:
    path = workdir / ".doctor.shared"

    def write() -> str:
        path.write_text(token := f"{time.time()}")
        return token

    token = hosts.from_main(write)
    deadline = time.monotonic() + 10
    seen = False
    while not seen and time.monotonic() < deadline:
        seen = path.exists() and path.read_text() == token
        time.sleep(0 if seen else 0.2)
    hosts.barrier("shared")
    if hosts.is_main():
        path.unlink()
    if not seen:
        raise UserError(
            f"{workdir} is not the folder that process 0 sees; put it on storage that all hosts "
            "mount"
        )
    return "every host sees the same workdir"


def _mesh(config: Config, spec: GPTSpec, row_length: int) -> str:
    mesh = meshes.make_mesh(**vars(config.mesh))
    check_fits(config.pretrain, mesh, spec)
    meshes.check_row(mesh, "corpus.row_length", row_length)
    _, parts = meshes.batch_part(mesh)
    shape = meshes.describe(mesh)[0].split(maxsplit=1)[1]
    return f"{shape}; a batch is read in {parts} parts"


def _execution(config: Config) -> str:
    _, reasons = execution.choose(**vars(config.execution))
    return ", ".join(" ".join(line.split(" (")[0].split()) for line in reasons)


def _memory(config: Config, parameters: int) -> str:
    mesh = meshes.make_mesh(**vars(config.mesh))
    room = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if room is None:  # a CPU: its devices share the host's memory
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / jax.local_device_count()
    needed = _BYTES * parameters / (mesh.shape["fsdp"] * mesh.shape["tensor"])
    if needed > room / 2:
        raise UserError(
            f"parameters, gradients and moments need {si(needed)}B of a device's {si(room)}B, "
            "which leaves less than half to activations; set --config.mesh.fsdp or .tensor "
            "higher, or take a smaller model"
        )
    return f"{si(needed)}B of a device's {si(room)}B for parameters, gradients and moments"


def _disk(config: Config, parameters: int, folder: pathlib.Path) -> str:
    if in_bucket(folder):
        return f"a bucket has room for checkpoints of {si(_SAVED_BYTES * parameters)}B"
    while not folder.exists():
        folder = folder.parent
    free, one = shutil.disk_usage(folder).free, _SAVED_BYTES * parameters
    settings = config.pretrain
    count = settings.keep + 3  # the best, that of a stop, and the one being written
    if settings.keep_every:
        count += settings.steps // settings.keep_every
    if count * one > free:
        raise UserError(
            f"{count} checkpoints of {si(one)}B do not fit into the {si(free)}B that are free in "
            f"{folder}; free some, or lower --config.pretrain.keep"
        )
    return f"{si(free)}B free for {count} checkpoints of {si(one)}B"
