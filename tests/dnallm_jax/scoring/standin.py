"""What do tests of rows and files score with? A detector that likes A, and needs no network."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from data_pipeline.spooling import Letters, Spooled
from dnallm_jax.evaluation.calibration import Calibration


class LikesA:
    """Log-odds are the A's less three; takes three sequences at a time, the real one megabases."""

    embeds = False

    def score(self, sequences: Iterable[Letters]) -> Iterator[Any]:
        group: list[bytes] = []
        for sequence in sequences:
            group.append(bytes(sequence))
            if len(group) == 3:
                yield from map(self.one, group)
                group = []
        yield from map(self.one, group)

    @staticmethod
    def one(sequence: bytes) -> Any:
        known = sum(letter in b"ACGTacgt" for letter in sequence)
        nan = float("nan")
        return SimpleNamespace(
            logit=sequence.count(b"A") - 3.0 if known else nan,
            windows=int(bool(sequence)),
            fraction_scored=known / len(sequence) if known else 0.0,
            strand_gap=0.25 if known else nan,
        )


class Detector:
    """As much of scoring.bundle.Detector as scoring needs."""

    def __init__(self, **manifest: Any) -> None:
        self.scorer, self.calibration, self.threshold = LikesA(), Calibration(), 0.5
        self.manifest = {"sha256": "5" * 64, **manifest}

    def probability(self, scored: Any, length: int) -> float:
        return float(self.calibration.apply([scored.logit], [max(length, 1)])[0])


def record(name: str, bases: bytes, description: str = "") -> Spooled:
    """A record of no file."""
    return Spooled(name, description, bases)
