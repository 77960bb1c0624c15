"""What may a search change in a config, and to what? One line a key.

finetune.optimizer.learning_rate = 1e-4 .. 3e-3 log
finetune.layer_decay = 0.6 .. 1
finetune.pooling = mean | attention
finetune.lengths = (300, 500, 1000) | (300, 1000, 3000)
"""

import ast
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.errors import UserError
from dnallm_jax.config import Config, check

SECTION = "finetune"
# They do not change what is tried, but how often, or what it starts from.
_NOT_SEARCHED = ("seed", "seeds", "ensemble", "keep", "keep_every", "log_every", "save_every")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The values of one key: some choices, or a range.

    Attributes:
      words: choices as they were written, none for a range. A trial names its choice so.
    """

    key: str
    words: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    whole: bool = False  # numbers

    def value(self, chosen: str | float) -> Any:
        """What the config is given for a choice's word, or a number of the range."""
        if self.words:
            return self.values[self.words.index(str(chosen))]
        return int(chosen) if self.whole else float(chosen)

    def chosen(self, value: Any) -> str | float | None:
        """The word or number that stands for a config's value; None where it is not among them."""
        if self.words:
            return next(
                (w for w, v in zip(self.words, self.values, strict=True) if v == value), None
            )
        return value if self.low <= value <= self.high else None


def parse(lines: Sequence[str]) -> tuple[Dimension, ...]:
    """The dimensions of a search; UserError names the line that says none."""
    found = tuple(_dimension(line) for line in lines)
    keys = [dimension.key for dimension in found]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"tune.space names {key} twice; keep one of its lines")
    if not found:
        raise UserError(
            "tune.space is empty; name what may change, for example "
            "'finetune.optimizer.learning_rate = 1e-4 .. 3e-3 log'"
        )
    return found


def _dimension(line: str) -> Dimension:
    def refuse(why: str) -> typing.NoReturn:
        raise UserError(f"tune.space: {line!r}: {why}")

    key, equals, given = (part.strip() for part in line.partition("="))
    if not equals or not given:
        refuse("write KEY = LOW .. HIGH, with log after it or not, or KEY = ONE | OTHER")
    kind = _kind(key)
    if kind is None or key.split(".")[1] in _NOT_SEARCHED:
        refuse(f"{key} is no key that a search may change; those are of the section {SECTION}")
    low, dots, high = (part.strip() for part in given.partition(".."))
    if not dots:
        words = tuple(part.strip() for part in given.split("|"))
        return Dimension(key, words, tuple(_typed(word, kind, refuse) for word in words))
    logarithmic = high.endswith("log")
    if kind not in (int, float):
        refuse(f"{key} is no number: write its values with | between them")
    bounds = [_typed(word, kind, refuse) for word in (low, high.removesuffix("log").strip())]
    if not bounds[0] < bounds[1] or (logarithmic and bounds[0] <= 0):
        refuse("a range rises, and with log begins above 0")
    return Dimension(key, low=bounds[0], high=bounds[1], logarithmic=logarithmic, whole=kind is int)


def _kind(key: str) -> Any:
    """The type of a key of the schema; None where there is no such key of the section."""
    names = key.split(".")
    kind: Any = Config
    if names[0] != SECTION or len(names) < 2:
        return None
    for name in names:
        kind = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    return None if dataclasses.is_dataclass(kind) else kind


def _typed(word: str, kind: Any, refuse: Any) -> Any:
    """A word as a value of a type of the schema: bool, int, float, str or a tuple."""
    if kind is str:
        return word
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        refuse(f"{word!r} is no value")
    if kind is float and type(value) is int:
        value = float(value)
    wanted = typing.get_origin(kind) or kind
    if type(value) is not wanted or (kind is float and not math.isfinite(value)):
        refuse(f"{word!r} is no {wanted.__name__}")
    return value


def applied(
    config: Config, space: Sequence[Dimension], chosen: Mapping[str, str | float]
) -> Config:
    """The config of a trial; UserError where its values do not go together."""
    changed = config
    for dimension in space:
        value = dimension.value(chosen[dimension.key])
        changed = _replaced(changed, dimension.key.split("."), value)
    alone = dataclasses.replace(changed.finetune, seeds=1, ensemble=False)
    changed = dataclasses.replace(changed, finetune=alone)
    check(changed)
    return changed


def _replaced(part: Any, names: Sequence[str], value: Any) -> Any:
    first, *rest = names
    return dataclasses.replace(
        part, **{first: _replaced(getattr(part, first), rest, value) if rest else value}
    )


def present(config: Config, space: Sequence[Dimension]) -> dict[str, str | float] | None:
    """What the config itself chooses, where the search may choose all of it."""
    found = {}
    for dimension in space:
        value: Any = config
        for name in dimension.key.split("."):
            value = getattr(value, name)
        chosen = dimension.chosen(value)
        if chosen is None:
            return None
        found[dimension.key] = chosen
    return found
