"""How does a program start on this machine and its peers? Platform, fake devices, cache, hosts."""

import atexit
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar, cast

from data_pipeline.errors import LostError, UserError
from dnallm_jax.parallel import signals

# The exit code of a run that ended early through no fault of its own: start the same command again.
STOPPED = 75
T = TypeVar("T")

# How long the processes of a job wait for each other at the start: a pod's hosts set up one by one.
JOIN_SECONDS = 900
# A process that has said nothing for so long is lost, and ends the others.
LOST_SECONDS = 100

# What each platform needs to be installed.
_REQUIREMENTS = {
    "cpu": "requirements.txt",
    "gpu": "requirements-cuda.txt",
    "tpu": "requirements-tpu.txt",
}

# Files of devices, below /dev.
_TPUS = ("accel*", "vfio/[0-9]*")
_GPUS = ("nvidia[0-9]*", "dxg")


@dataclasses.dataclass(frozen=True)
class Peers:
    """Where the processes of a job meet; JAX finds out by itself on TPU pods and under SLURM."""

    coordinator: str = ""  # HOST:PORT of process 0
    processes: int = 0
    process: int = -1  # this one, from 0


@contextlib.contextmanager
def joined(platform: str = "", devices: int = 0, peers: Peers | None = None) -> Iterator[None]:
    """Starts JAX on this process and all its peers, and ends all of them together.

    Args:
      platform, devices: as in `start`; the devices are those of each process.
      peers: how they meet. Without an address one process runs alone, unless --platform=tpu, SLURM
        or Open MPI say that it has peers.

    Raises:
      UserError: an address that is incomplete, wrong or in use, other than `start` raises.
    """
    peers = peers or Peers()
    platform = _choose(platform, devices)
    if peers != Peers():
        _join(peers)
    elif platform == "tpu" or _scheduler_says_many():
        _join_by_environment()
    try:
        start(platform, devices)
        yield
    except Exception as error:
        # A usual exit would wait for the peers, which know nothing of this.
        lost = STOPPED if isinstance(error, LostError) else 1
        atexit.register(_leave_alone, 2 if isinstance(error, UserError) else lost)
        _await_verdict(error)
        raise
    except SystemExit:
        barrier("stopped")
        raise
    barrier("done")


def start(platform: str = "", devices: int = 0) -> None:
    """Sets up JAX before its first use; call it once, before anything touches a device.

    Args:
      platform: "cpu", "gpu" or "tpu" is demanded and never replaced by another; "" takes what is
        there.
      devices: more than 0 makes the CPU look like that many devices (a rehearsal of a pod).

    Raises:
      UserError: no such platform, or it (or that many devices) is not there.
    """
    platform = _choose(platform, devices)
    import jax

    _set_compilation_cache(jax)
    try:
        found = jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        # Without the driver's devices JAX does not try CUDA, and says nothing.
        reason, *_ = str(error).splitlines() or ["its driver shows none"]
        install = _REQUIREMENTS.get(platform, "the requirements of the accelerator in use")
        raise UserError(
            f"--platform={platform or 'auto'}: no such device here ({reason}); install {install}, "
            "or check that no other process holds the device"
        ) from error
    if platform and found[0].platform != platform:
        raise UserError(
            f"--platform={platform} was asked for but JAX found {found[0].platform}; "
            "nothing was run"
        )
    if devices and len(found) != devices:
        raise UserError(
            f"--devices={devices} was asked for but JAX has {len(found)}; look for another "
            "xla_force_host_platform_device_count in the environment variable XLA_FLAGS"
        )


def _choose(platform: str, devices: int) -> str:
    """Tells JAX the platform through the environment; returns it, "" where any will do."""
    if platform not in ("", *_REQUIREMENTS):
        raise UserError(f"--platform={platform} is not one of {', '.join(_REQUIREMENTS)}")
    if devices:
        if platform not in ("", "cpu"):
            raise UserError(
                f"--devices={devices} makes fake CPU devices; leave out --platform={platform}"
            )
        platform = "cpu"
        flag = f"--xla_force_host_platform_device_count={devices}"
        given = os.environ.get("XLA_FLAGS", "")
        if flag not in given.split():
            os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()
    if platform:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(platform, platform)
    elif "JAX_PLATFORMS" not in os.environ and _compiler_without_tpu():
        os.environ["JAX_PLATFORMS"] = "cpu"
    return platform


def _compiler_without_tpu(devices: pathlib.Path = pathlib.Path("/dev")) -> bool:
    """Whether libtpu is installed for its compiler alone: it would look for TPUs, and complain."""
    if find_spec("libtpu") is None or find_spec("jax_cuda13_plugin") is not None:
        return False
    return not _any_of(_TPUS, devices)


def on_cpus(
    platform: str = "", devices: int = 0, found: pathlib.Path = pathlib.Path("/dev")
) -> bool:
    """Whether `start` will use CPUs, as far as can be told before; no JAX is started."""
    _choose(platform, devices)
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked == "cpu" if asked else not _any_of((*_TPUS, *_GPUS), found)


def _any_of(names: Sequence[str], devices: pathlib.Path) -> bool:
    return any(any(devices.glob(name)) for name in names)


def _set_compilation_cache(jax: ModuleType) -> None:
    """Compiled steps are kept between runs, so that a second start takes seconds."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # the user's own choice
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "dnallm_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# Joining


def _scheduler_says_many() -> bool:
    """Whether SLURM or Open MPI started more than this process."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return any(int(os.environ.get(name) or 1) > 1 for name in counts)


def _join(peers: Peers) -> None:
    where = f"--coordinator={peers.coordinator}"
    host, _, port = peers.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{where} is not of the form HOST:PORT, where HOST is that of process 0")
    if not 0 <= peers.process < peers.processes:
        raise UserError(
            f"{where} needs --processes=N and --process=I, I from 0 to N - 1; these are "
            f"--processes={peers.processes} and --process={peers.process}"
        )
    if peers.process == 0:
        _check_port(host, int(port))
    else:
        _await_coordinator(host, int(port))
    _initialise(
        f"{where}: not all of {peers.processes} processes came; start the same command on every "
        "host, each with another --process",
        coordinator_address=peers.coordinator,
        num_processes=peers.processes,
        process_id=peers.process,
        cluster_detection_method="deactivate",
    )
    import jax

    if jax.process_count() != peers.processes:
        raise UserError(
            f"--processes={peers.processes} was asked for but process 0 was told of "
            f"{jax.process_count()}; give every process the same number"
        )


def _join_by_environment() -> None:
    try:
        _initialise("not all hosts of this job came; start the same command on every one of them")
    except ValueError:  # JAX knows of no peers: one process, alone
        signal.signal(signal.SIGABRT, signal.SIG_DFL)


def _initialise(why_lost: str, **arguments: Any) -> None:
    import jax

    # JAX ends the process with SIGABRT when a peer is lost, and when one never comes.
    signals.last_words(f"{why_lost} (waited {JOIN_SECONDS} s)", code=1)
    jax.distributed.initialize(
        **arguments,
        initialization_timeout=JOIN_SECONDS,
        heartbeat_timeout_seconds=LOST_SECONDS,
        shutdown_timeout_seconds=LOST_SECONDS,
    )
    signals.last_words(
        "another process of this run is lost: it ended, or said nothing for "
        f"{LOST_SECONDS} s; its own log says why. The last whole checkpoint is untouched: start "
        "all of them again",
        code=STOPPED,
    )


def _check_port(host: str, port: int) -> None:
    """JAX would crash without a word on a port that is in use."""
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--coordinator={host}:{port}: process 0 cannot listen there ({error.strerror}); "
                "choose another port, for all processes"
            ) from None


def _await_coordinator(host: str, port: int) -> None:
    deadline, said = time.monotonic() + JOIN_SECONDS, False
    while True:
        try:
            with socket.create_connection((host, port), timeout=10):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"--coordinator={host}:{port} did not answer for {JOIN_SECONDS} s ({error}); "
                    "check that process 0 runs there and that the port is open between the hosts"
                ) from None
            if not said:
                print(f"waiting for process 0 at {host}:{port} ({error})", file=sys.stderr)
                said = True
            time.sleep(1)


# Ending together, or not


def _await_verdict(error: Exception) -> None:
    """After a failed collective: was it a peer's end? JAX knows before long, and ends this one."""
    import jax

    ours = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")
    if jax.distributed.is_initialized() and isinstance(error, jax.errors.JaxRuntimeError):
        if not str(error).startswith(ours):
            time.sleep(LOST_SECONDS + 10)


def _leave_alone(code: int) -> None:
    """Ends this process now; JAX would first wait for its peers."""
    import jax

    if jax.distributed.is_initialized():
        # With process 0 the coordinator goes: let the others fail by themselves first.
        time.sleep(3)
        sys.stdout.flush()
        os._exit(code)


# Speaking to each other


def is_main() -> bool:
    """Whether this process writes logs and reports (process 0 of the job)."""
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def from_main(compute: Callable[[], Any]) -> Any:
    """What process 0 computes (JSON values), on every process; what it raises, all raise."""
    import jax

    if jax.process_count() == 1:
        return compute()
    said: dict[str, Any] = {}
    failed = None
    if is_main():
        try:
            said = {"value": compute()}
        except Exception as error:  # of whatever kind, the others wait to hear of it
            said, failed = {"error": str(error)}, error
    heard = everyone(said)[0]
    if "error" in heard:
        raise failed or UserError(heard["error"])
    return heard["value"]


def together(compute: Callable[[], T]) -> T:
    """What each process computes for itself; the UserError of any of them is raised on all."""
    result, failed = None, ""
    try:
        result = compute()
    except UserError as error:
        failed = str(error)
    said = everyone(failed)
    for number, told in enumerate(said):
        if told:
            raise UserError(told if len(said) == 1 else f"process {number}: {told}")
    return cast(T, result)


def everyone(value: Any) -> list[Any]:
    """The JSON values of all processes, in order, on every process."""
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = process_allgather(np.int32(len(text)))
    room = np.zeros(-(-int(lengths.max()) // 4096) * 4096, np.uint8)  # few shapes to compile for
    room[: len(text)] = text
    texts = process_allgather(room)
    return [json.loads(t[:n].tobytes()) for t, n in zip(texts, lengths, strict=True)]


def agree(facts: Mapping[str, str]) -> None:
    """UserError, on every process, when a process has other facts than process 0.

    Args:
      facts: what must be the same everywhere (versions, digests), by name.
    """
    first, *others = everyone({"host": socket.gethostname(), **facts})
    differ = [
        f"process {number} ({other['host']}) has {name} {other.get(name)}, process 0 "
        f"({first['host']}) has {first[name]}"
        for number, other in enumerate(others, start=1)
        for name in facts
        if other.get(name) != first[name]
    ]
    if differ:
        more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(
            f"the hosts differ: {'; '.join(differ[:3])}{more}. Make all of them equal and start "
            "again"
        )
