"""Does each check of doctor that finds something say in one line what to do?"""

import dataclasses
import os
import pathlib
import shutil
import socket
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from data_pipeline.errors import UserError
from dnallm_jax import config as configs
from dnallm_jax.training import readiness

CONFIG = configs.Config(name="tiny", pretrain=configs.Pretrain(keep=2, keep_every=10, steps=100))


def failed(check: readiness.Check) -> str:
    """The one line of a check that fails."""
    lines, count = readiness.report({"it": check})
    assert (len(lines), count) == (1, 1)
    assert lines[0].startswith("FAIL  it        ")
    return lines[0].removeprefix("FAIL  it").strip()


def test_a_port_that_does_not_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = free.getsockname()[1]
        said = failed(lambda: str(readiness.reach(1, "127.0.0.1", port)))
    assert said == (
        f"port {port} of process 1 at 127.0.0.1 does not answer (Connection refused); open the "
        "ports between the hosts"
    )
    assert readiness._ports() == "one process: it needs none of another"


def test_a_disk_that_is_too_small(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=170_000))
    folder = tmp_path / "pretrain"
    assert readiness._disk(CONFIG, 900, folder).startswith("170 kB free for 15 checkpoints of 10.8")
    assert failed(lambda: readiness._disk(CONFIG, 1_000, folder)) == (
        f"15 checkpoints of 12 kB do not fit into the 170 kB that are free in {tmp_path}; free "
        "some, or lower --config.pretrain.keep"
    )


def test_devices_that_are_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 8 * 1000, "SC_PAGE_SIZE": 100}  # eight devices of 100 kB
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    ok = readiness._memory(CONFIG, 25_000)
    assert ok.startswith("50 kB of a device's 100 kB")
    said = failed(lambda: readiness._memory(CONFIG, 26_000))
    assert said.startswith("parameters, gradients and moments need 52 kB of a device's 100 kB")
    assert said.endswith("set --config.mesh.fsdp or .tensor higher, or take a smaller model")


def test_a_cache_that_cannot_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    values = {"jax_compilation_cache_dir": str(tmp_path / "file" / "xla")}
    monkeypatch.setattr(jax, "config", SimpleNamespace(values=values))
    said = failed(readiness._cache)
    assert "Not a directory): every start will compile anew; set JAX_COMPILATION_CACHE_DIR" in said


def test_a_workdir_that_cannot_be_written_or_changes_what_it_keeps(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert readiness._writable(tmp_path / "new").endswith("written, read, locked and deleted")
    (tmp_path / "file").touch()
    said = failed(lambda: readiness._writable(tmp_path / "file"))
    assert "choose another --workdir, or change who may write there" in said
    monkeypatch.setattr(pathlib.Path, "read_text", lambda _: "something else")
    said = failed(lambda: readiness._writable(tmp_path / "new"))
    assert "a file was read back changed; do not trust this disk" in said


def test_one_host_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(own: dict[str, Any]) -> list[dict[str, Any]]:
        return [own, {**own, "host": "b", "ok": "jax 2"}]

    monkeypatch.setattr(readiness.hosts, "everyone", two)
    lines, count = readiness.report({"versions": lambda: "jax 1", "cache": lambda: "written"})
    assert count == 1
    assert lines == [
        "FAIL  versions  process 1 on b: differs from process 0, which has jax 1: jax 2",
        "ok    cache     written",
    ]


def test_a_mesh_that_does_not_fit() -> None:
    config = dataclasses.replace(CONFIG, mesh=configs.Mesh(fsdp=3))
    spec = configs.gpt_spec(config.model, 6)
    with pytest.raises(UserError, match="does not cover the 8 devices"):
        readiness._mesh(config, spec, 1024)
    parts = dataclasses.replace(CONFIG.pretrain, batch_rows=8, accumulate=2)
    assert readiness._mesh(CONFIG, spec, 1024).endswith("; a batch is read in 1 parts")
    said = failed(lambda: readiness._mesh(dataclasses.replace(CONFIG, pretrain=parts), spec, 1024))
    assert said.startswith("pretrain.batch_rows / pretrain.accumulate = 4 does not divide over")
    config = dataclasses.replace(CONFIG, mesh=configs.Mesh(fsdp=2, sequence=4))
    said = failed(lambda: readiness._mesh(config, spec, 30))
    assert said.startswith("corpus.row_length = 30 does not divide over the 4 parts")


def test_a_way_of_running_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3 * jax.local_device_count())
    assert readiness._execution(CONFIG) == (
        "precision float32, attention blockwise, unroll yes, remat none"
    )
    config = dataclasses.replace(CONFIG, execution=configs.Execution(attention="splash"))
    said = failed(lambda: readiness._execution(config))
    assert said.startswith("execution.attention splash is a kernel for tpu devices and these are")
