"""How does a config become a file that runs? What differs from the defaults, one line a key."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from dnallm_jax.config.schema import Config


def recipe(config: Config, heading: str) -> str:
    """The text of a file for configs/: `resolve(get_config())` of it equals `config`."""
    lines = "\n".join(f"    c.{key} = {value!r}" for key, value in changed(config, Config()))
    text = heading.strip().replace("\\", "\\\\").replace('"""', "'''")
    return (
        f'"""{text}\n"""\n\n'
        "from ml_collections import ConfigDict\n\n"
        "from dnallm_jax.config import default_config\n\n\n"
        "def get_config() -> ConfigDict:\n"
        f"    c = default_config()\n{lines}\n    return c\n"
    )


def changed(config: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every key whose value is not the default."""
    for field in dataclasses.fields(config):
        own, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(own):
            yield from changed(own, usual, f"{prefix}{field.name}.")
        elif own != usual:
            yield f"{prefix}{field.name}", own
