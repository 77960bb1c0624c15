"""Which window of which labelled record is training example j of batch i?

Windows are cut afresh from whole records: half of a batch viral, records drawn evenly over fields
of their metadata (so that a large family does not drown a small one), positions and strands at
random, and with the position the phase in which k-mers are read. Like the loader's, batch i is a
pure function of (data set, settings, seed, i).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.balancing import Choices, balanced, fields
from data_pipeline.errors import UserError
from data_pipeline.loader import Batch, Source, part_of
from data_pipeline.order import random
from data_pipeline.tokenizers import reverse_complement
from data_pipeline.views import View

_TRIES = 20
_LETTERS = np.frombuffer(b"ACGT", np.uint8)
_RATIO = 1.1  # of one length of windows to the next, where they are drawn evenly in log length
_LONGEST_RUN = 100  # bases of N


@dataclass(frozen=True)
class Cutting:
    """How windows are drawn; see the keys of the same names in the config's `finetune` section."""

    lengths: tuple[int, ...]  # bases; those of a batch have rows of one length
    batch_tokens: int
    balance_key: str
    negative_balance_key: str
    max_ambiguous: float
    mutate: float
    negative_weights: tuple[str, ...] = ()
    length_weights: tuple[float, ...] = ()
    min_length: int = 0
    unknown: float = 0.0
    start_step: int = 1
    strands: str = "both"

    def windows(self) -> dict[int, tuple[int, ...]]:
        """The lengths of the windows in rows for each of `lengths`.

        With a `min_length`, all from it up, in steps of at most a tenth: those longer than the next
        smaller of `lengths`, for which rows are shorter.
        """
        if not self.min_length:
            return {length: (length,) for length in self.lengths}
        found: dict[int, tuple[int, ...]] = {}
        shorter = self.min_length
        for length in sorted(self.lengths):
            steps = max(1, math.ceil(math.log(length / shorter) / math.log(_RATIO)))
            rising = {
                round(shorter * (length / shorter) ** (n / steps)) for n in range(1, steps + 1)
            }
            found[length] = tuple(sorted(rising if found else rising | {self.min_length}))
            shorter = length
        return found


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
        self._ids = records["id"]
        self._process, self._processes = process, processes
        self._windows = cutting.windows()
        # How often each of the lengths is drawn for a batch.
        shares = cutting.length_weights or [len(own) for own in self._windows.values()]
        self._until = np.cumsum(shares) / np.sum(shares)
        weights = _weights(cutting.negative_weights)
        made: dict[tuple[int, bytes], Choices] = {}
        self._choices = {}
        for label, key in ((0, cutting.negative_balance_key), (1, cutting.balance_key)):
            for length in sorted(set().union(*self._windows.values()), reverse=True):
                chosen = _long_enough(records, label, length)
                known = (label, chosen.tobytes())
                if known not in made:
                    made[known] = _choices(records, label, key, chosen, {} if label else weights)
                self._choices[label, length] = made[known]

    def __call__(self, number: int) -> Batch:
        """This process's rows of global batch `number` (from 0)."""
        lengths = self.lengths(number)
        row_length = self._view.row_length(max(lengths))
        # The same windows on any number of devices: empty rows without weight fill the last parts.
        rows = batch_rows(row_length, self._cutting.batch_tokens, 1)
        filled = -(-rows // self._parts) * self._parts
        mine = part_of(filled, self._process, self._processes)
        windows = [
            self.draw(number, j, self._length(number, j, lengths))[1] if j < rows else b""
            for j in mine
        ]
        # The window's strand was drawn at random: of two strands the first one is enough.
        batch = self._view.read(windows, max(lengths))[0]
        labels = np.array([j % 2 for j in mine], np.float32)
        weights = np.array([j < rows for j in mine], np.float32)
        return {**batch, "labels": labels, "example_weights": weights}

    def _length(self, number: int, j: int, lengths: list[int]) -> int:
        """Of window j: the same for a viral one and the next that is not."""
        pair = j // 2
        if self._cutting.min_length:
            pair = int(random(self._seed, 4, number, pair).integers(len(lengths)))
        return lengths[pair % len(lengths)]

    def record_ids(self, number: int) -> list[str]:
        """Ids of the records in the whole global batch `number`, each once."""
        lengths = self.lengths(number)
        row_length = self._view.row_length(max(lengths))
        rows = range(batch_rows(row_length, self._cutting.batch_tokens, 1))
        drawn = (self.draw(number, j, self._length(number, j, lengths))[0] for j in rows)
        return [str(self._ids[record]) for record in dict.fromkeys(drawn)]

    def lengths(self, number: int) -> list[int]:
        """The lengths of the windows of global batch `number`: of one drawn, and of all like it.

        Like it are those whose rows are as long. A viral window and one that is not, of each length
        in turn: so that length says nothing of the label.
        """
        tops, rng = list(self._windows), random(self._seed, 2, number)
        even = not (self._cutting.length_weights or self._cutting.min_length)
        place = rng.integers(len(tops)) if even else np.searchsorted(self._until, rng.random())
        return self._like(tops[int(place)])

    def _like(self, top: int) -> list[int]:
        row_length = self._view.row_length(top)
        alike = (own for n, own in self._windows.items() if self._view.row_length(n) == row_length)
        return [length for own in alike for length in own]

    def expected(self) -> dict[int, float]:
        """How many windows of each length a batch holds on average."""
        found: dict[int, float] = dict.fromkeys(sorted(set().union(*self._windows.values())), 0.0)
        for top, share in zip(self._windows, np.diff(self._until, prepend=0.0), strict=True):
            lengths = self._like(top)
            rows = batch_rows(self._view.row_length(max(lengths)), self._cutting.batch_tokens, 1)
            for length in lengths:
                found[length] += float(share) * rows / len(lengths)
        return found

    def shares(self, label: int, length: int) -> dict[int, float]:
        """How often each record is drawn, of all windows of a label and a length."""
        return self._choices[label, length].shares()

    def draw(self, number: int, j: int, length: int) -> tuple[int, bytes]:
        """(number of the record, letters of the window) of example j, which is viral if j is odd.

        A window with more than `max_ambiguous` of its letters outside A, C, G and T is drawn again,
        record and all; of twenty such the one with the fewest is taken.
        """
        rng = random(self._seed, 3, number, j)
        choices = self._choices[j % 2, length]
        most = -1.0
        for _ in range(_TRIES):
            chosen = choices.draw(rng)
            bases = self._source[chosen]["bases"]
            step = self._cutting.start_step
            start = step * int(rng.integers((len(bases) - length) // step + 1))
            known = float(np.isin(bases[start : start + length], _LETTERS).mean())
            if known > most:
                most, record, window = known, chosen, bases[start : start + length]
            if most >= 1 - self._cutting.max_ambiguous:
                break
        if self._cutting.mutate:
            hit = rng.random(length) < self._cutting.mutate
            window = np.where(hit, _LETTERS[rng.integers(0, 4, length)], window)
        if self._cutting.unknown:
            window = np.where(_hidden(rng, length, self._cutting.unknown), ord("N"), window)
        letters = window.astype(np.uint8).tobytes()
        other = self._cutting.strands == "both" and rng.integers(2)
        return record, reverse_complement(letters) if other else letters


def _hidden(rng: np.random.Generator, length: int, share: float) -> np.ndarray:
    """bool[length]: runs of 1 to 100 bases (evenly in log length) that cover about a `share`."""
    longest = max(2, min(_LONGEST_RUN, length // 4))
    usual = (longest - 1) / math.log(longest)
    found = np.zeros(length, bool)
    for _ in range(rng.poisson(share * length / usual)):
        run = round(longest ** rng.random())
        start = int(rng.integers(max(1, length - run + 1)))
        found[start : start + run] = True
    return found


def _long_enough(records: Mapping[str, np.ndarray], label: int, length: int) -> np.ndarray:
    chosen = np.flatnonzero((records["label"] == label) & (records["length"] >= length))
    if not len(chosen):
        kind = "viral" if label else "non-viral"
        raise UserError(
            f"no {kind} training record is {length} bases or longer; take {length} out of "
            "--config.finetune.lengths (or composition.lengths), or add longer records"
        )
    return chosen


def _choices(
    records: Mapping[str, np.ndarray], label: int, key: str, chosen: np.ndarray, weights: Mapping
) -> Choices:
    """Those records of one label, drawn as `balancing.balanced` says."""
    by = fields(key, (*METADATA, "id"))
    first = by[0][0]
    unknown = sorted(set(weights) - set(records[first][records["label"] == label].tolist()))
    if unknown:
        raise UserError(
            f"--config.finetune.negative_weights names {unknown[0]!r}, but no non-viral training "
            f"record has this {first}"
        )
    return balanced(records, chosen, by, weights)


def _weights(words: Sequence[str]) -> dict[str, float]:
    """("bacteria=4", ...) -> {"bacteria": 4.0, ...}; UserError for anything else."""
    weights = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < np.inf:
            raise UserError(
                f"--config.finetune.negative_weights: {word!r} is not of the form NAME=NUMBER "
                "with a number above 0"
            )
    return weights


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
