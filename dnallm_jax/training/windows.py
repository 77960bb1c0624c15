"""Which windows does a recipe train a detector on? Its config's keys, handed to the cutting."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from data_pipeline.contigs import Contigs
from data_pipeline.cutting import Cutting, WindowBatches, fixed_windows, table
from data_pipeline.views import Composition, View
from dnallm_jax.config import Config, Finetune

_RESIDENT = 4 << 30  # bases; up to so many are held in memory, by this process and its workers


def window_batches(
    settings: Finetune,
    contigs: Contigs,
    view: View,
    *,
    parts: int,
    process: int,
    processes: int,
    workers: int = 0,
) -> WindowBatches:
    """The training windows of a config; of workers that cut them each holds the records too."""
    source: Any = contigs.source("train")
    if contigs.splits["train"].bases * (workers + 1) <= _RESIDENT:
        source = [source[number] for number in range(len(source))]
    cutting = Cutting(**{field.name: getattr(settings, field.name) for field in fields(Cutting)})
    return WindowBatches(
        source,
        table(source),
        view,
        cutting,
        seed=settings.seed,
        parts=parts,
        process=process,
        processes=processes,
    )


def baseline_windows(
    config: Config, contigs: Contigs, count: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` training windows of each length, drawn as the model's are: (ASCII uint8, labels).

    Of the lengths of every member: a rival fitted on short windows alone would be too easily beaten
    on long ones.
    """
    lengths = set(config.finetune.lengths)
    if config.composition.steps:
        lengths |= set(config.composition.lengths)
    chosen = tuple(sorted(lengths))
    settings = replace(config.finetune, lengths=chosen, length_weights=(), min_length=0)
    batches = window_batches(settings, contigs, Composition(), parts=1, process=0, processes=1)
    return fixed_windows(batches, settings.lengths, count)


def composition_settings(config: Config) -> Finetune:
    """How the networks on composition are trained: as the GPT, but for what their section says."""
    chosen = config.composition
    shared = ("steps", "lengths", "optimizer", "log_every", "eval_every", "save_every", "keep")
    return replace(
        config.finetune,
        backbone="random",
        train="full",
        freeze_steps=0,
        layer_decay=1.0,
        patience=0,
        seeds=1,
        ensemble=False,
        view=Composition.name,
        batch_tokens=chosen.batch_windows * Composition().row_length(0),
        length_weights=(),
        min_length=0,
        unknown=0.0,
        **{key: getattr(chosen, key) for key in (*shared, "seed", "mutate")},
    )
