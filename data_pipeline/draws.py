"""What will training windows be drawn from, how often, and how balanced is that?

Counted before a network exists, from the records and the rules by which windows are cut.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from data_pipeline.balancing import UNKNOWN
from data_pipeline.cutting import WindowBatches

Columns = Mapping[str, np.ndarray]
_CLASSES = {1: "viral", 0: "other"}


def records_by_group(columns: Columns) -> Iterator[str]:
    """Of each label and group: records, bases, clusters, families, and how many are of none."""
    yield (
        f"  {'':<6} {'group':<14} {'records':>9} {'bases':>14} {'clusters':>14} {'families':>14}"
        "   (records of unknown)"
    )
    for label, group, chosen in _groups(columns):
        yield (
            f"  {_CLASSES[label]:<6} {group:<14} {len(chosen):>9,} "
            f"{int(columns['length'][chosen].sum()):>14,} "
            f"{_values(columns['cluster'][chosen]):>14} {_values(columns['family'][chosen]):>14}"
        )


def lengths(columns: Columns) -> Iterator[str]:
    """How many records of each label have which length, as in a split of ready contigs."""
    values, counts = np.unique(columns["length"], return_counts=True)
    if len(values) > 12:
        low, middle, high = (int(n) for n in np.quantile(columns["length"], [0, 0.5, 1]))
        yield f"  lengths {low:,} to {high:,} bases, half of them up to {middle:,}"
        return
    for value, count in zip(values, counts, strict=True):
        viral = int(columns["label"][columns["length"] == value].sum())
        yield f"  {int(value):>9,} bases: {viral:,} viral, {count - viral:,} other"


def windows(columns: Columns, batches: WindowBatches, steps: int) -> Iterator[str]:
    """Windows by length, and by group its share of them and how often its bases are read."""
    expected = batches.expected()
    total = steps * sum(expected.values())
    bases = steps * sum(length * count for length, count in expected.items())
    yield f"  {steps:,} steps read about {total:,.0f} windows of {bases:,.0f} bases, half viral"
    yield f"  {'length':>9} {'a batch':>8} {'in all':>10}   from viral    from other records"
    for length, count in _in_short(expected):
        long_enough = [len(batches.shares(label, length)) for label in (1, 0)]
        yield (
            f"  {length:>9,} {count:>8.1f} {count * steps:>10,.0f} {long_enough[0]:>12,} "
            f"{long_enough[1]:>21,}"
        )
    drawn, read = _drawn(batches, len(columns["label"]))
    yield f"  {'':<6} {'group':<14} {'of windows':>10} {'times read':>10}   most drawn"
    for label, group, chosen in _groups(columns):
        share = float(drawn[chosen].sum())
        passes = steps * float(read[chosen].sum()) / max(int(columns["length"][chosen].sum()), 1)
        field = "family" if label else "cluster"
        name, most = _largest(columns[field][chosen], drawn[chosen])
        yield (
            f"  {_CLASSES[label]:<6} {group:<14} {share:>10.2%} {passes:>10.2f}   {field} {name} "
            f"{most:.2%}"
        )
    unknown = columns["family"] == UNKNOWN
    for label, word in _CLASSES.items():
        own = columns["label"] == label
        if (own & ~unknown).any() and (own & unknown).any():
            share = float(drawn[own & unknown].sum() / drawn[own].sum())
            yield f"  {word:<6} of unknown family: {share:.1%} of the {word} windows"


def _drawn(batches: WindowBatches, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each record: its share of all windows, and the bases of a batch that come from it."""
    drawn, read = np.zeros(records), np.zeros(records)
    expected = batches.expected()
    for length, count in expected.items():
        for label in (0, 1):
            shares = batches.shares(label, length)
            numbers, values = list(shares), np.array(list(shares.values())) / 2
            drawn[numbers] += values * count / sum(expected.values())
            read[numbers] += values * count * length
    return drawn, read


def _groups(columns: Columns) -> Iterator[tuple[int, str, np.ndarray]]:
    """(label, group, numbers of its records), viruses first."""
    for label in _CLASSES:
        own = columns["label"] == label
        for group in sorted(set(columns["group"][own].tolist())):
            yield label, group, np.flatnonzero(own & (columns["group"] == group))


def _values(column: np.ndarray) -> str:
    unknown = int((column == UNKNOWN).sum())
    known = len(set(column.tolist()) - {UNKNOWN})
    return f"{known:,} ({unknown:,})"


def _largest(names: np.ndarray, drawn: np.ndarray) -> tuple[str, float]:
    sums = {name: float(drawn[names == name].sum()) for name in sorted(set(names.tolist()))}
    name = max(sums, key=lambda name: (name != UNKNOWN, sums[name]))
    return name, sums[name]


def _in_short(expected: Mapping[int, float], most: int = 12) -> Iterator[tuple[int, float]]:
    """Each length, or of many some at even distances."""
    every = -(-len(expected) // most)
    for place, (length, count) in enumerate(expected.items()):
        if place % every == 0 or place == len(expected) - 1:
            yield length, count
