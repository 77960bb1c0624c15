"""What has been set, and does it fit? Frozen, typed views of a recipe's one config file.

The dataclasses of `schema` are the keys: their defaults make the ConfigDict that a file in configs/
edits (`default_config`), and a finished ConfigDict becomes a checked `Config` again (`resolve`).
The ConfigDict is locked: a key that is not a field there is refused with "Did you mean ...".
"""

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from data_pipeline.errors import UserError
from dnallm_jax.config.checks import check
from dnallm_jax.config.schema import (
    EXECUTION_CHOICES,
    TOKENIZER_KEYS,
    Composition,
    Config,
    Contigs,
    Corpus,
    Execution,
    Finetune,
    Lora,
    Mesh,
    Model,
    Optimizer,
    Pretrain,
    Score,
    Tokenizer,
    Tune,
    gpt_spec,
    tokenizer_spec,
)

__all__ = [
    "EXECUTION_CHOICES",
    "TOKENIZER_KEYS",
    "Composition",
    "Config",
    "Contigs",
    "Corpus",
    "Execution",
    "Finetune",
    "Lora",
    "Mesh",
    "Model",
    "Optimizer",
    "Pretrain",
    "Score",
    "Tokenizer",
    "Tune",
    "check",
    "default_config",
    "differences",
    "digest",
    "gpt_spec",
    "resolve",
    "to_dict",
    "tokenizer_spec",
]


def default_config() -> ConfigDict:
    """The schema with its defaults, as the locked ConfigDict that a config file edits and returns.

    Setting a key that does not exist raises AttributeError, a value of another type TypeError.
    """
    return ConfigDict(dataclasses.asdict(Config())).lock()


def resolve(config: ConfigDict) -> Config:
    """The checked, frozen view of a finished config file; UserError names the keys that clash."""
    resolved = _build(Config, config.to_dict())
    check(resolved)
    return resolved


def _build(kind: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    types = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"The keys are: {', '.join(types)}."
            raise UserError(f"config key {prefix}{key} does not exist. {hint}")
        if value is None:  # the one value that ml_collections takes for a field of any type
            raise UserError(f"config key {prefix}{key} is None; give a value, or leave it out")
    return kind(
        **{
            key: _build(types[key], value, f"{prefix}{key}.")
            if dataclasses.is_dataclass(types[key])
            else value
            for key, value in values.items()
        }
    )


def to_dict(value: Any) -> dict[str, Any]:
    """A dataclass of the schema as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def digest(*values: Any) -> str:
    """A short sha256 of dataclasses and JSON values; equal settings have equal digests."""
    plain = [to_dict(v) if dataclasses.is_dataclass(v) else v for v in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "key: old -> new" for every leaf that differs between two `to_dict` results."""
    lines = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines
