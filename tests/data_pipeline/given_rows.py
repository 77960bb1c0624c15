"""What does a test give a loader for rows? Those it names, without a data set on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class GivenRows:
    """Rows as dicts of `tokens`, `segment_lengths` and, if they have any, `weights`."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]

    def read(self, index: int, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        row = self[index]
        tokens[: len(row["tokens"])] = row["tokens"]
        return row["segment_lengths"], row.get("weights")
