"""How many records are there of each kind? Counts that a run keeps, and a killed one takes up."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from dnallm_jax.scoring.output import Result

LENGTHS = {
    "under 100 bp": 0,
    "100–299 bp": 100,
    "300–999 bp": 300,
    "1–3 kb": 1_000,
    "3–10 kb": 3_000,
    "10–100 kb": 10_000,
    "100 kb and more": 100_000,
}
"""Length classes: name -> the shortest length in it."""
BINS = 20
"""Of scores, of equal width from 0 to 1."""

_STARTS = list(LENGTHS.values())
_STATUSES = ("ok", "short", "ambiguous", "empty", "duplicate_id")


class Tally:
    """Counts of rows; `counts` is plain JSON, and all there is to know."""

    def __init__(self, counts: Mapping[str, Any] | None = None) -> None:
        self.counts: dict[str, Any] = dict(counts or {})
        if not self.counts:
            for name in ("records", "scored", "viral", "bases", "viral_bases"):
                self.counts[name] = [0] * len(LENGTHS)
            self.counts["scores"] = [[0] * BINS for _ in LENGTHS]
            self.counts["status"] = dict.fromkeys(_STATUSES, 0)

    def add(self, rows: Iterable[Result]) -> None:
        counts = self.counts
        for row in rows:
            of = bisect_right(_STARTS, row.length) - 1
            counts["records"][of] += 1
            counts["bases"][of] += row.length
            counts["status"][row.status] += 1
            if row.virus_score is not None:
                counts["scored"][of] += 1
                counts["scores"][of][min(int(row.virus_score * BINS), BINS - 1)] += 1
            if row.is_virus:
                counts["viral"][of] += 1
                counts["viral_bases"][of] += row.length

    def include(self, counts: Mapping[str, Any]) -> None:
        """Adds the counts of other rows."""
        own = self.counts
        for name in ("records", "scored", "viral", "bases", "viral_bases"):
            own[name] = [a + b for a, b in zip(own[name], counts[name], strict=True)]
        own["scores"] = [
            [a + b for a, b in zip(*bins, strict=True)]
            for bins in zip(own["scores"], counts["scores"], strict=True)
        ]
        own["status"] = {name: n + counts["status"][name] for name, n in own["status"].items()}

    def total(self, name: str) -> int:
        """Of `records`, `scored`, `viral`, `bases` or `viral_bases`, over all lengths."""
        return int(sum(self.counts[name]))

    def told(self) -> str:
        """One line for people."""
        return (
            f"{self.total('records'):,} records ({self.total('bases'):,} bases): "
            f"{self.total('scored'):,} scored, {self.total('viral'):,} called viral"
        )
