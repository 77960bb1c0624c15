"""Whose folder is this? A run claims it; another config's run, or a second one, is refused."""

import contextlib
import json
import pathlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax

from data_pipeline.datasets import sole_writer
from data_pipeline.errors import UserError
from dnallm_jax import __version__
from dnallm_jax.config import differences
from dnallm_jax.training.checkpoints import in_short, write_json

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


@contextlib.contextmanager
def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Holds `folder` for one run of one config while the context lasts (process 0 writes).

    Args:
      identity: JSON values that decide the run's result: config sections, data fingerprint.

    Raises:
      UserError: the folder belongs to a run with another identity (the keys that differ are named),
        another process is running in it now, or its run.json is not readable.
    """
    plain = json.loads(json.dumps(identity))
    path = folder / _RUN
    if path.exists():
        try:
            changed = differences(json.loads(path.read_text()), plain)
        except ValueError as error:
            raise UserError(
                f"{path} is not readable JSON ({error}); restore it from a copy"
            ) from None
        if changed:
            raise UserError(
                f"{folder} belongs to a run of another config ({in_short(changed)}); choose "
                "another --workdir, or delete the folder"
            )
    if jax.process_index() != 0:
        yield
        return
    with sole_writer(str(folder), "run"):
        if not path.exists():
            write_json(path, plain)
        yield
