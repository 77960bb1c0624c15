"""Are a platform and devices that are not there refused, and never replaced in silence?"""

import os
import pathlib
import socket
from typing import Any

import jax
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.parallel import execution, hosts


@pytest.fixture(autouse=True)
def _same_environment_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, os.environ[name])
    # A cache of the user's own choice is kept: nothing of this process changes.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"platform": "tpus"}, "--platform=tpus is not one of cpu, gpu, tpu"),
        (
            {"platform": "tpu", "devices": 8},
            "--devices=8 makes fake CPU devices; leave out --platform=tpu",
        ),
        (
            {"platform": "tpu"},
            "--platform=tpu was asked for but JAX found cpu; nothing was run",
        ),
        (
            {"devices": 4},
            "--devices=4 was asked for but JAX has 8; look for another "
            "xla_force_host_platform_device_count in the environment variable XLA_FLAGS",
        ),
    ],
)
def test_what_is_not_there_is_refused(asked: dict, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        hosts.start(**asked)
    assert str(error.value) == sentence


def test_a_tpu_is_looked_for_where_there_may_be_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"libtpu"}
    monkeypatch.setattr(hosts, "find_spec", lambda name: name if name in installed else None)
    assert hosts._compiler_without_tpu(tmp_path)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # the driver's own, on machines without any device too
    assert hosts._compiler_without_tpu(tmp_path)
    for device in ("vfio/0", "accel0"):
        (tmp_path / device).touch()
        assert not hosts._compiler_without_tpu(tmp_path)
        (tmp_path / device).unlink()
    installed.add("jax_cuda13_plugin")
    assert not hosts._compiler_without_tpu(tmp_path)
    installed.clear()
    assert not hosts._compiler_without_tpu(tmp_path)


@pytest.mark.parametrize("device", ["accel0", "vfio/0", "nvidia0", "dxg"])
def test_whether_it_will_be_cpus_is_known_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(hosts, "find_spec", lambda name: None)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "nvidiactl").touch()  # as `vfio` of the driver, not of a device
    assert hosts.on_cpus(found=tmp_path)
    (tmp_path / device).touch()
    assert not hosts.on_cpus(found=tmp_path)
    for platform, cpus in (("cpu", True), ("gpu", False), ("tpu", False)):
        assert hosts.on_cpus(platform, found=tmp_path) == cpus
        monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert hosts.on_cpus(found=tmp_path)


@pytest.mark.parametrize(
    ("peers", "sentence"),
    [
        (("nowhere", 2, 0), "--coordinator=nowhere is not of the form HOST:PORT"),
        (("", 2, 0), "--coordinator= is not of the form HOST:PORT"),
        (("a:1", 0, -1), "needs --processes=N and --process=I, I from 0 to N - 1; these are"),
        (("a:1", 2, 2), "these are --processes=2 and --process=2"),
        (("127.0.0.1:{used}", 2, 0), "process 0 cannot listen there (Address already in use)"),
        (("127.0.0.1:{free}", 2, 1), "did not answer for 0.5 s ("),
    ],
)
def test_peers_that_cannot_meet_are_told_why(
    peers: tuple[str, int, int], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "JOIN_SECONDS", 0.5)
    with socket.socket() as used, socket.socket() as free:
        used.bind(("", 0))
        used.listen()
        free.bind(("", 0))  # bound, but nobody listens
        ports = {"used": used.getsockname()[1], "free": free.getsockname()[1]}
        address, processes, process = peers
        asked = hosts.Peers(address.format(**ports), processes, process)
        with pytest.raises(UserError) as error, hosts.joined("cpu", peers=asked):
            pass
    assert sentence in str(error.value)


def test_alone_a_process_agrees_with_itself() -> None:
    hosts.agree({"jax": "1"})
    hosts.barrier("here")
    assert hosts.everyone({"a": [1, 2.5]}) == [{"a": [1, 2.5]}]
    assert hosts.from_main(lambda: 7) == 7
    with hosts.joined("cpu"):
        pass


def test_what_is_there_is_taken() -> None:
    hosts.start()
    hosts.start("cpu")
    hosts.start(devices=8)
    assert hosts.is_main()


def test_compiled_code_is_kept_where_nobody_said_otherwise(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    hosts.start()
    assert told == {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    hosts.start()
    assert told["jax_compilation_cache_dir"] == str(tmp_path / "dnallm_jax" / "xla")


def test_a_cpu_runs_float32_unrolled_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3 * jax.local_device_count())
    run, lines = execution.choose()
    assert (run.dtype, run.attention, run.unroll, run.remat) == (
        "float32",
        "blockwise",
        True,
        "none",
    )
    assert [line.split()[0] for line in lines] == ["precision", "attention", "unroll", "remat"]
    run, lines = execution.choose("bfloat16", "reference", "no", remat="dots")
    assert (run.dtype, run.attention, run.unroll, run.remat) == (
        "bfloat16",
        "reference",
        False,
        "dots",
    )
    assert lines[1] == (
        "attention   reference (as the config says; auto is blockwise: plain XLA, memory linear in "
        "the row; no fused kernel for this platform)"
    )
    assert lines[3].startswith("remat       dots (products with parameters are kept")
    assert len(lines) == 4


def test_offloading_is_refused_where_the_host_is_the_device() -> None:
    with pytest.raises(UserError) as error:
        execution.choose(remat="offload")
    assert str(error.value) == (
        "execution.remat offload moves activations to the host's memory, which cpu devices work in "
        "already; set --config.execution.remat=dots, or =block"
    )
