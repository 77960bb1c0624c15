"""Whose folder is this? A run claims it; another config's run, or a second one, is refused."""

import contextlib
import hashlib
import json
import pathlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import data_pipeline
import dnallm_jax
from data_pipeline.errors import UserError
from dnallm_jax import __version__
from dnallm_jax.config import differences, digest
from dnallm_jax.parallel import hosts
from dnallm_jax.training import storage
from dnallm_jax.training.checkpoints import in_short
from dnallm_jax.training.manifest import write_json

_RUN = "run.json"


def versions() -> dict[str, str]:
    """Versions of this code and of the libraries that numbers depend on."""
    names = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "tensorflow-datasets",
        "grain",
    )
    libraries = {name: metadata.version(name) for name in names}
    return {"dnallm_jax": __version__, "python": platform.python_version(), **libraries}


def code() -> str:
    """A short sha256 of the source files that are running."""
    total = hashlib.sha256()
    for package in (dnallm_jax, data_pipeline):
        root = pathlib.Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            total.update(f"{path.relative_to(root.parent)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]


@contextlib.contextmanager
def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Holds `folder` for one run of one config while the context lasts.

    Args:
      identity: JSON values that decide the run's result: config sections, data fingerprint.

    Raises:
      UserError: a host has another code, config, data set or library than process 0, the folder
        belongs to a run with another identity (the keys that differ are named), another process is
        running in it now, or its run.json is not readable.
    """
    plain = json.loads(json.dumps(identity))
    data = {"data": str(plain.get("data", ""))[:16]}
    hosts.agree({"code": code(), **versions(), **data, "config": digest(plain)})
    with contextlib.ExitStack() as held:
        hosts.from_main(lambda: _take(folder, plain, held))
        yield


def _take(folder: pathlib.Path, identity: dict[str, Any], held: contextlib.ExitStack) -> None:
    path = folder / _RUN
    if path.exists():
        try:
            changed = differences(json.loads(path.read_text()), identity)
        except ValueError as error:
            raise UserError(
                f"{path} is not readable JSON ({error}); restore it from a copy"
            ) from None
        if changed:
            raise UserError(
                f"{folder} belongs to a run of another config ({in_short(changed)}); choose "
                "another --workdir, or delete the folder"
            )
    held.enter_context(storage.sole_run(folder))
    if not path.exists():
        write_json(path, identity)
