"""How much of whole genomes that hold no virus is called viral? Regions per million bases."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.reading import fields
from data_pipeline.spooling import Spooled
from dnallm_jax.evaluation.thresholds import poisson
from dnallm_jax.scoring.bundle import Detector
from dnallm_jax.scoring.output import choose_calls, score_part
from dnallm_jax.scoring.parts import cut, worked
from dnallm_jax.scoring.regions import Region, regions

LONGEST = 20
"""Regions that are named."""


def scan(detector: Detector, genomes: Iterable[Spooled]) -> dict[str, Any]:
    """What `score --regions` would call in these genomes, at the detector's own threshold.

    Returns:
      "threshold"; "all" and "by_group" (the header's word group=..., "-" without): "records",
      "bases", "regions", "called_bases" and "per_million_bases" (of regions: "value", "low" and
      "high" by the Poisson distribution); "longest": the longest regions by name.

    Raises:
      UserError: genomes without a base.
    """
    calls = choose_calls(detector)
    counts: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("records", "bases", "regions", "called_bases"), 0)
    )
    named: list[tuple[str, Region]] = []

    def found(part: Any) -> list[list[Region]]:
        results = score_part(detector, calls, part)
        return list(regions(detector, calls, part.records, results))

    for part, answers in worked(found, cut(genomes)):
        for record, own in zip(part.records, answers, strict=True):
            for name in ("all", fields(record.description).get("group", "-")):
                entry = counts[name]
                entry["records"] += 1
                entry["bases"] += len(record.bases)
                entry["regions"] += len(own)
                entry["called_bases"] += sum(stop - start for start, stop, _ in own)
            named += [(record.id, region) for region in own]
        named = sorted(named, key=lambda entry: entry[1][0] - entry[1][1])[:LONGEST]
    if not counts["all"]["bases"]:
        raise UserError("the genomes to be scanned hold no bases")
    rates = {name: {**entry, "per_million_bases": _rate(entry)} for name, entry in counts.items()}
    return {
        "threshold": calls.threshold,
        "all": rates.pop("all"),
        "by_group": rates,
        "longest": [
            {"sequence_id": name, "start": start, "stop": stop, "score": score}
            for name, (start, stop, score) in named
        ],
    }


def _rate(entry: dict[str, int]) -> dict[str, float]:
    low, high = poisson(entry["regions"])
    millions = entry["bases"] / 1e6
    return {
        "value": entry["regions"] / millions,
        "low": low / millions,
        "high": high / millions,
    }
