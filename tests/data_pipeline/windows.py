"""What do tests of training windows run on? Records of random bases, and what is drawn of them."""

import dataclasses
from typing import Any

import numpy as np

from data_pipeline import cutting
from data_pipeline.cutting import Cutting, WindowBatches, table
from data_pipeline.loader import Batch
from data_pipeline.tokenizers import Nucleotide
from data_pipeline.views import Bases, View

USUAL = Cutting(
    lengths=(60, 100),
    batch_tokens=1024,
    balance_key="family",
    negative_balance_key="group",
    max_ambiguous=0.1,
    mutate=0.0,
)


class Records:
    """Labelled records of random bases, as the data set gives them."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.records[index]


def record(number: int, label: int, bases: bytes, **known: str) -> dict[str, Any]:
    text = {**dict.fromkeys(cutting.METADATA, "-"), **known, "id": f"r{number}"}
    return {
        "bases": np.frombuffer(bases, np.uint8),
        "label": label,
        **{name: value.encode() for name, value in text.items()},
    }


def random_bases(seed: int, length: int) -> bytes:
    return np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), length).tobytes()


def usual_records() -> Records:
    """Viruses of three families, 12, 3 and 1 records; others of two groups, 9 and 1; short ones."""
    viral = ["big"] * 12 + ["mid"] * 3 + ["small"]
    other = ["bacteria"] * 9 + ["archaea"]
    rows = [(1, {"family": name}) for name in viral] + [(0, {"group": name}) for name in other]
    records = [
        record(n, label, random_bases(n, 100 + 37 * (n % 5)), **known)
        for n, (label, known) in enumerate(rows)
    ]
    short = [
        record(len(records) + label, label, random_bases(90 + label, 80), family="short", group="s")
        for label in (0, 1)
    ]
    return Records([*records, *short])


def windows_of(
    records: Records | None = None, view: View | None = None, seed: int = 3, **changed: Any
) -> WindowBatches:
    split = {k: changed.pop(k) for k in ("parts", "process", "processes") if k in changed}
    records = records or usual_records()
    settings = dataclasses.replace(USUAL, **changed)
    return WindowBatches(
        records, table(records), view or Bases(Nucleotide()), settings, seed=seed, **split
    )


def draws(batches: WindowBatches, count: int, length: int = 100) -> list[tuple[int, int, bytes]]:
    """(label, record, window) of `count` examples."""
    return [(j % 2, *batches.draw(0, j, length)) for j in range(count)]


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        x.dtype == b[key].dtype and np.array_equal(x, b[key]) for key, x in a.items()
    )


def joined(parts: list[Batch]) -> Batch:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
