"""How much of a figure is luck? The same detector from several seeds: mean, spread, the best."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from dnallm_jax.config import Config
from dnallm_jax.training.finetuning import SELECTED_BY


def runs(config: Config, folder: str) -> Iterator[tuple[int, Config, str]]:
    """(seed, config, folder) of each run; the first is the one of a config without more seeds."""
    settings = config.finetune
    for number in range(settings.seeds):
        seed = settings.seed + number
        own = dataclasses.replace(settings, seed=seed, seeds=1, ensemble=False)
        name = folder if not number else f"{folder}-seed{seed}"
        yield seed, dataclasses.replace(config, finetune=own), name


def compare(provenances: Mapping[int, Mapping[str, Any]]) -> tuple[int, dict[str, Any]]:
    """The seed of the best run, and what a bundle's manifest says of several; {} of one.

    Best is the highest validation average precision, of equals the first.
    """
    values = {seed: found["metrics"] for seed, found in provenances.items()}
    best = max(values, key=lambda seed: values[seed][SELECTED_BY])
    if len(values) == 1:
        return best, {}
    summary = {
        name: {
            "mean": statistics.mean(own[name] for own in values.values()),
            "standard_deviation": statistics.stdev(own[name] for own in values.values()),
            "by_seed": {str(seed): own[name] for seed, own in values.items()},
        }
        for name in next(iter(values.values()))
    }
    return best, {"best": best, "metrics": summary}


def lines(several: Mapping[str, Any]) -> Iterator[str]:
    """The summary of `compare` for a person."""
    for name, found in several.get("metrics", {}).items():
        values = found["by_seed"].values()
        error = found["standard_deviation"] / math.sqrt(len(values))
        yield (
            f"{len(values)} seeds     {name.replace('_', ' ')} {found['mean']:.4f}, standard "
            f"deviation {found['standard_deviation']:.4f}, of the mean {error:.4f}: "
            f"{', '.join(f'{value:.4f}' for value in values)}"
        )
    if several:
        yield f"best        seed {several['best']}"
