"""Does the detector still call what has a contig's composition and none of its genes?"""

from typing import Any

import numpy as np

from data_pipeline.contigs import Test, Validation
from data_pipeline.shuffling import shuffle_dinucleotides
from dnallm_jax.evaluation.thresholds import wilson
from dnallm_jax.scoring.bundle import Detector

LENGTHS = (500, 3_000)
"""Contigs as long as this, from and to, are shuffled: long enough to hold genes."""

NAMES = {1: "viral", 0: "not viral"}


def shuffled_controls(
    detector: Detector, source: Validation | Test, *, count: int = 200, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Of `count` contigs of each class, the share called viral with dinucleotides shuffled.

    Returns:
      "viral" and "not viral" -> {"value", "low", "high", "called", "of"}, Wilson intervals; a class
      of which the split has no contig of LENGTHS is left out.
    """
    rng = np.random.default_rng(seed)
    shuffled: dict[int, list[bytes]] = {1: [], 0: []}
    for number in rng.permutation(len(source)).tolist():
        record = source[number]
        own = shuffled[int(record["label"])]
        if len(own) < count and LENGTHS[0] <= len(record["bases"]) <= LENGTHS[1]:
            own.append(shuffle_dinucleotides(record["bases"].tobytes(), rng))
        if min(map(len, shuffled.values())) == count:
            break
    controls = {}
    for label, sequences in shuffled.items():
        if not sequences:
            continue
        scored = zip(detector.scorer.score(sequences), sequences, strict=True)
        scores = [detector.probability(each, len(sequence)) for each, sequence in scored]
        called = sum(score >= detector.threshold for score in scores)
        low, high = wilson(called, len(sequences))
        controls[NAMES[label]] = {
            "value": called / len(sequences),
            "low": low,
            "high": high,
            "called": called,
            "of": len(sequences),
        }
    return controls
