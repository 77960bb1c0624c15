"""Which window of which labelled record is training example j of batch i?

Windows are cut afresh from whole records: half of a batch viral, records drawn evenly over a field
of their metadata (so that a large family does not drown a small one), positions and strands at
random. Like the loader's, batch i is a pure function of (data set, settings, seed, i).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.loader import Batch, Source, layout, part_of, random, stack
from data_pipeline.tokenizers import reverse_complement
from data_pipeline.views import View

_TRIES = 20
_LETTERS = np.frombuffer(b"ACGT", np.uint8)


@dataclass(frozen=True)
class Cutting:
    """How windows are drawn; see the keys of the same names in the config's `finetune` section."""

    lengths: tuple[int, ...]  # bases; one of them for all windows of a batch
    batch_tokens: int
    balance_key: str
    negative_balance_key: str
    max_ambiguous: float
    mutate: float


def batch_rows(row_length: int, batch_tokens: int, parts: int) -> int:
    """Rows of about `batch_tokens`, a multiple of 2 (labels) and of `parts` (devices)."""
    multiple = int(np.lcm(2, parts))
    return max(multiple, batch_tokens // row_length // multiple * multiple)


METADATA = ("group", "cluster", "family", "genus", "phylum", "organism", "novelty", "source")


def table(source: Source) -> dict[str, np.ndarray]:
    """Columns of all records in order: `id`, `label`, `length` in bases, the metadata as text."""
    columns: dict[str, list] = {name: [] for name in ("id", "label", "length", *METADATA)}
    for number in range(len(source)):
        record = source[number]
        columns["label"].append(record["label"])
        columns["length"].append(len(record["bases"]))
        for name in ("id", *METADATA):
            columns[name].append(record[name].decode())
    return {name: np.array(values) for name, values in columns.items()}


class WindowBatches:
    """Global batches of labelled windows, and this process's part of each.

    Args:
      source: the records of the train split, with features `bases` and `label`.
      records: the columns of `table(source)`.
      parts: into how many parts the mesh splits a batch.

    Raises:
      UserError: no record of a label is as long as the longest window, or no such balance key.
    """

    def __init__(
        self,
        source: Source,
        records: Mapping[str, np.ndarray],
        view: View,
        cutting: Cutting,
        *,
        seed: int,
        parts: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._source, self._view, self._cutting = source, view, cutting
        self._seed, self._parts = seed, parts
        self._process, self._processes = process, processes
        keys = {1: cutting.balance_key, 0: cutting.negative_balance_key}
        self._groups = {
            (label, length): _groups(records, label, keys[label], length)
            for label in (0, 1)
            for length in cutting.lengths
        }

    def __call__(self, number: int) -> Batch:
        """This process's rows of global batch `number` (from 0)."""
        lengths = self._cutting.lengths
        length = lengths[int(random(self._seed, 2, number).integers(len(lengths)))]
        row_length = self._view.row_length(length)
        rows = batch_rows(row_length, self._cutting.batch_tokens, self._parts)
        mine = part_of(rows, self._process, self._processes)
        windows = [self.draw(number, j, length)[1] for j in mine]
        # The window's strand was drawn at random: of two strands the first one is enough.
        strands = [read[0] for read in self._view.segments_batch(windows)]
        batch = stack([layout(strand, row_length, self._view.tokenizer) for strand in strands])
        labels = np.array([j % 2 for j in mine], np.float32)
        return {**batch, "labels": labels, "example_weights": np.ones_like(labels)}

    def draw(self, number: int, j: int, length: int) -> tuple[int, bytes]:
        """(number of the record, letters of the window) of example j, which is viral if j is odd.

        A window with more than `max_ambiguous` of its letters outside A, C, G and T is drawn again,
        record and all; of twenty such the one with the fewest is taken.
        """
        rng = random(self._seed, 3, number, j)
        groups = self._groups[j % 2, length]
        most = -1.0
        for _ in range(_TRIES):
            members = groups[int(rng.integers(len(groups)))]
            chosen = int(members[int(rng.integers(len(members)))])
            bases = self._source[chosen]["bases"]
            start = int(rng.integers(len(bases) - length + 1))
            known = float(np.isin(bases[start : start + length], _LETTERS).mean())
            if known > most:
                most, record, window = known, chosen, bases[start : start + length]
            if most >= 1 - self._cutting.max_ambiguous:
                break
        if self._cutting.mutate:
            hit = rng.random(length) < self._cutting.mutate
            window = np.where(hit, _LETTERS[rng.integers(0, 4, length)], window)
        letters = window.tobytes()
        return record, reverse_complement(letters) if rng.integers(2) else letters


def _groups(
    records: Mapping[str, np.ndarray], label: int, key: str, length: int
) -> list[np.ndarray]:
    """Record numbers of one label that are long enough, by the value of a metadata field."""
    if key not in records:
        raise UserError(f"balance key {key!r} is not one of {', '.join(METADATA)}")
    groups: dict[str, list[int]] = defaultdict(list)
    chosen = (records["label"] == label) & (records["length"] >= length)
    for number in np.flatnonzero(chosen):
        groups[str(records[key][number])].append(int(number))
    if not groups:
        kind = "viral" if label else "non-viral"
        raise UserError(
            f"no {kind} training record is {length} bases or longer; take {length} out of "
            "--config.finetune.lengths, or add longer records"
        )
    return [np.array(groups[name]) for name in sorted(groups)]


def fixed_windows(
    batches: WindowBatches, lengths: Sequence[int], count: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` windows of each length, half of them viral, for baselines: (uint8 arrays, labels)."""
    windows, labels = [], []
    for length in lengths:
        for j in range(count):
            windows.append(np.frombuffer(batches.draw(0, j, length)[1], np.uint8))
            labels.append(j % 2)
    return windows, np.array(labels)
