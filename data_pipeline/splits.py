"""Which sequences are relatives, and on which side of a split do they go, so that none leaks?

Near-duplicate clusters: each record is sketched by FracMinHash (Irber et al. 2022, sourmash): the
canonical 21-mers whose 64-bit hash lies below 2^64 / scale. Two records are linked when the smaller
sketch shares a tenth of its hashes with the other (containment >= 0.1), and a cluster is what links
hold together (single linkage). Whole clusters are then put on one side.

The scale is a power of two: 1 (every k-mer) while the hashes of all records fit `max_hashes`,
coarser for the long records only when they do not, so that short ones keep a sketch of about 1,000
hashes. Two records are compared at the coarser of their scales. Where that leaves a short record a
handful of hashes, one in common is enough to link: the error is on the side of keeping together.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline import kmers

if TYPE_CHECKING:
    from data_pipeline.reading import Record

K = 21
MIN_CONTAINMENT = 0.1
NEAR_COPY = 0.5  # share of a record's k-mers above which it is a near-copy, not a relative
USEFUL_SKETCH = 1024  # k-mers below which a record is never thinned
MAX_HASHES = 1 << 24  # 128 MiB of hashes


def cluster(
    records: Iterable["Record"],
    *,
    min_containment: float = MIN_CONTAINMENT,
    max_hashes: int = MAX_HASHES,
) -> dict[str, str]:
    """Name of each record's cluster, by id: the smallest id in it, in whatever order they come.

    Records are read once and may be a generator, and each may come in stretches, one after the
    other, that overlap by K - 1 letters. Memory: about 30 bytes for each hash kept, at most
    `max_hashes` of them unless records of about 1,000 letters or less alone exceed that; plus two
    bytes for each letter of a stretch. Records without a whole 21-mer stay alone. Raises ValueError
    for an id that comes again after another.
    """
    ids, sketches, levels = _sketch_all(records, max_hashes)
    roots = _linked(sketches, levels, min_containment)
    names: dict[int, str] = {}
    for id_, root in zip(ids, roots, strict=True):
        names[root] = min(id_, names.get(root, id_))
    return {id_: names[root] for id_, root in zip(ids, roots, strict=True)}


def assign(
    clusters: Mapping[str, str], sizes: Mapping[str, int], fraction: float, seed: int
) -> dict[str, str]:
    """Side of each cluster, "train" or "validation", about `fraction` of all bases on the latter.

    `clusters` maps record ids to cluster names, `sizes` record ids to bases. Clusters are taken in
    the order of a hash of seed and name, each if it brings validation closer to its share; so the
    side of a cluster hangs on its name rather than on the order of the input, and a cluster larger
    than about twice what is wanted stays in train. With two clusters or more neither side is empty
    when fraction > 0; a single cluster is train.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the validation fraction must be in [0, 1), not {fraction}")
    bases: dict[str, int] = {}
    for id_, name in clusters.items():
        bases[name] = bases.get(name, 0) + sizes[id_]
    order = sorted(bases, key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
    wanted = fraction * sum(bases.values())
    held, validation = 0, set()
    for name in order:
        if abs(held + bases[name] - wanted) < abs(held - wanted):
            validation.add(name)
            held += bases[name]
    if fraction > 0 and order:
        smallest = min(order, key=bases.__getitem__)
        if len(validation) == len(order):
            validation.remove(smallest)
        elif not validation and len(order) > 1:
            validation.add(smallest)
    return {name: "validation" if name in validation else "train" for name in sorted(bases)}


@dataclass(frozen=True)
class Overlap:
    """How much of a set of test records was seen in train; k-mers are distinct within a record."""

    label: str
    records: int
    kmers: int
    shared: int  # of the k-mers, those that occur in train
    linked: int  # records with a tenth of their k-mers or more in train

    @property
    def share(self) -> float:
        return self.shared / self.kmers if self.kmers else 0.0


@dataclass(frozen=True)
class Leakage:
    """The `share` of test k-mers found in train; `rows` by label; `linked`: relatives of train.

    `copies`: the records with half of their k-mers or more in train, with the number of k-mers.
    """

    rows: tuple[Overlap, ...]
    linked: tuple[str, ...]
    copies: Mapping[str, int]
    scale: int

    @property
    def kmers(self) -> int:
        """K-mers of all test records."""
        return sum(row.kmers for row in self.rows)

    @property
    def share(self) -> float:
        return sum(row.shared for row in self.rows) / self.kmers if self.kmers else 0.0

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "k": K,
            "scale": self.scale,
            "share": self.share,
            "copies": len(self.copies),
            "rows": [{**asdict(row), "share": row.share} for row in self.rows],
        }

    def __str__(self) -> str:
        lines = [f"{'label':<12} {'records':>9} {'k-mers':>12} {'in train':>9} {'linked':>7}"]
        lines += [
            f"{row.label:<12} {row.records:>9,} {row.kmers:>12,} {row.share:>9.4%} {row.linked:>7,}"
            for row in self.rows
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class KmerSet:
    """The canonical 21-mers of many records, or those of them whose hash is small."""

    level: int  # log2 of the scale
    hashes: np.ndarray  # uint64, sorted, distinct

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """bool, of each hash whether it is in the set."""
        if len(self.hashes) == 0:
            return np.zeros(len(hashes), bool)
        at = np.searchsorted(self.hashes, hashes)
        return self.hashes[np.minimum(at, len(self.hashes) - 1)] == hashes


def kmer_set(
    records: Iterable["Record"], *, letters: int = 0, max_hashes: int = MAX_HASHES
) -> KmerSet:
    """All their k-mers while at most `max_hashes` are distinct, else a sample by hash.

    Records may come in stretches that overlap by K - 1 letters. `letters`, about how many there are
    if that is known, sets the scale beforehand, which is faster than thinning later. Memory: about
    32 bytes for each of `max_hashes`, and what the longest stretch takes.
    """
    return KmerSet(*_distinct(records, max_hashes, _least_level(letters, max_hashes)))


def leakage(
    train: KmerSet, test: Iterable["Record"], labels: Mapping[str, str] | None = None
) -> Leakage:
    """Share of the test records' canonical 21-mers that occur in the train records, by label.

    `labels` maps test ids to the label a row is made for (one row, "all", without). Each record is
    compared at the scale of `train`; it may come in stretches, as in `cluster`.
    """
    totals: dict[str, list[int]] = {}
    linked: list[str] = []
    copies: dict[str, int] = {}
    for name, stretches in itertools.groupby(test, key=lambda record: record.id):
        parts = [_hashes(kmers.base_codes(part.bases), train.level) for part in stretches]
        hashes = _union(parts)
        shared = int(np.count_nonzero(train.contains(hashes)))
        related = shared > 0 and shared >= MIN_CONTAINMENT * len(hashes)
        if related:
            linked.append(name)
        if shared > 0 and shared >= NEAR_COPY * len(hashes):
            copies[name] = len(hashes)
        label = "all" if labels is None else str(labels[name])
        row = totals.setdefault(label, [0, 0, 0, 0])
        for i, value in enumerate((1, len(hashes), shared, int(related))):
            row[i] += value
    rows = tuple(Overlap(label, *totals[label]) for label in sorted(totals))
    return Leakage(rows, tuple(linked), copies, 1 << train.level)


def nearest(own: KmerSet, train: Iterable["Record"]) -> tuple[str, float]:
    """The train record that holds most of these 21-mers, and the share it holds.

    A train record may come in stretches, as in `cluster`.
    """
    best, most = "", 0.0
    found, name = np.zeros(len(own.hashes), bool), ""
    for stretch in train:
        if stretch.id != name:
            found, name = np.zeros(len(own.hashes), bool), stretch.id
        for piece in kmers.pieces(kmers.base_codes(stretch.bases), K):
            hashes = _mix(np.minimum(*kmers.kmers(piece, K)))
            found[np.searchsorted(own.hashes, hashes[own.contains(hashes)])] = True
        share = float(found.mean()) if len(found) else 0.0
        if share > most:
            best, most = name, share
    return best, most


def _hashes(codes: np.ndarray, level: int) -> np.ndarray:
    """uint64, sorted, distinct: hashes of the canonical 21-mers below 2^(64 - level)."""
    kept = []
    for piece in kmers.pieces(codes, K):
        forward, backward = kmers.kmers(piece, K)
        hashes = _mix(np.minimum(forward, backward))
        kept.append(hashes if level == 0 else hashes[hashes >> np.uint64(64 - level) == 0])
    return _sorted_distinct(kept)


def _sorted_distinct(parts: list[np.ndarray]) -> np.ndarray:
    """uint64: what `np.unique` gives of all parts, in a fraction of its time."""
    values = np.concatenate([*parts, np.zeros(0, np.uint64)])
    values.sort()
    return values[np.append(values[1:] != values[:-1], np.ones(len(values[:1]), bool))]


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatters 64-bit words one to one (splitmix64, Steele et al. 2014); x is overwritten."""
    x += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x


def _level(n_kmers: int, cap: int) -> int:
    """log2 of the scale of a record: `cap`, but less where that would leave under USEFUL_SKETCH."""
    return min(cap, max(n_kmers // USEFUL_SKETCH, 1).bit_length() - 1)


def _least_level(n_kmers: int, max_hashes: int) -> int:
    """The level at which so many k-mers, were they all distinct, give at most `max_hashes` hashes.

    Asked for before a record is hashed, so that a long chromosome never takes more memory than
    that.
    """
    return max(-(-n_kmers // max_hashes) - 1, 0).bit_length()


def _sketch_all(
    records: Iterable["Record"], max_hashes: int
) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Ids, sketches and levels. When it becomes too much, what is held is thinned.

    The cap ends as the smallest that fits, whatever the order, since thinning later equals thinning
    at once.
    """
    ids: dict[str, int] = {}  # to the number of k-mers
    sketches: list[np.ndarray] = []  # of the records before
    cap, held, longest = 0, 0, 0
    for name, stretches in itertools.groupby(records, key=lambda record: record.id):
        if name in ids:
            raise ValueError(f"two records are named {name!r}")
        ids[name] = 0
        parts: list[np.ndarray] = []  # of this record's stretches; what two of them hold is in both
        for stretch in stretches:
            n_kmers = ids[name] = ids[name] + max(len(stretch.bases) - K + 1, 0)
            longest = max(longest, n_kmers)
            level = _level(n_kmers, max(cap, _least_level(n_kmers, max_hashes)))
            parts.append(_hashes(kmers.base_codes(stretch.bases), level))
            parts = [_thinned(part, level) for part in parts]
            if held + sum(map(len, parts)) > max_hashes:
                parts = [_union(parts)]
            while cap < _least_level(longest, max_hashes) or (
                held + sum(map(len, parts)) > max_hashes and _level(longest, cap) == cap
            ):
                cap += 1
                sketches = [
                    _thinned(s, _level(n, cap))
                    for s, n in zip(sketches, ids.values(), strict=False)
                ]
                held = sum(map(len, sketches))
                parts = [_thinned(part, _level(n_kmers, cap)) for part in parts]
        sketches.append(_union(parts))
        held += len(sketches[-1])
    return list(ids), sketches, np.array([_level(n, cap) for n in ids.values()], np.int64)


def _union(parts: list[np.ndarray]) -> np.ndarray:
    """The hashes of sorted parts, sorted, distinct."""
    return _sorted_distinct(parts) if len(parts) > 1 else parts[0]


def _thinned(sketch: np.ndarray, level: int) -> np.ndarray:
    """What of a sketch belongs to that level; a copy, so that the longer array is given back."""
    count = _below(sketch, level)
    return sketch if count == len(sketch) else sketch[:count].copy()


def _below(sketch: np.ndarray, level: int) -> int:
    """How many hashes of a sorted sketch belong to that level."""
    return len(sketch) if level == 0 else int(np.searchsorted(sketch, np.uint64(1 << (64 - level))))


def _linked(sketches: list[np.ndarray], levels: np.ndarray, min_containment: float) -> list[int]:
    """Root of each record's cluster: union-find over the pairs the inverted index brings up."""
    count = len(sketches)
    parents = list(range(count))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    top = int(levels.max(initial=0))
    sizes = np.array([[_below(s, level) for level in range(top + 1)] for s in sketches], np.int64)
    # Postings sorted by (hash, record): those that follow an entry within its hash are its
    # partners.
    hashes = np.concatenate([*sketches, np.zeros(0, np.uint64)])
    owners = np.repeat(np.arange(count, dtype=np.int32), [len(s) for s in sketches])
    order = np.argsort(hashes, kind="stable").astype(np.uint32)
    hashes = hashes[order]
    last = np.flatnonzero(np.append(hashes[1:] != hashes[:-1], [True] * (len(hashes) > 0)))
    ends = np.repeat(last + 1, np.diff(last, prepend=-1)).astype(np.uint32)
    del hashes
    # Entries that have a later partner, gathered by record.
    entries = np.flatnonzero(ends > np.arange(1, len(ends) + 1)).astype(np.uint32)
    posted = owners[order]
    del owners, order
    entries = entries[np.argsort(posted[entries], kind="stable")]
    bounds = np.searchsorted(posted[entries], np.arange(count + 1))
    for record in np.flatnonzero(np.diff(bounds)).tolist():
        own = entries[bounds[record] : bounds[record + 1]].astype(np.int64)
        partners, shared = _partners(posted, own + 1, ends[own].astype(np.int64), count)
        level = np.maximum(levels[record], levels[partners])
        smaller = np.minimum(sizes[record, level], sizes[partners, level])
        for partner in partners[shared >= min_containment * smaller].tolist():
            parents[root(partner)] = root(record)
    return [root(i) for i in range(count)]


def _partners(
    posted: np.ndarray, starts: np.ndarray, ends: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Records in the given ranges of the postings, and how often each occurs; bounded memory."""
    step = 1 << 22
    before = np.cumsum(ends - starts)
    if before[-1] * 8 < count:  # a few partners among very many records: sorting beats counting
        return np.unique(posted[_ranges(starts, ends)], return_counts=True)
    total = np.zeros(count, np.int64)
    at = 0
    while at < len(starts):
        done = before[at - 1] if at else 0
        to = max(int(np.searchsorted(before, done + step, side="right")), at + 1)
        total += np.bincount(posted[_ranges(starts[at:to], ends[at:to])], minlength=count)
        at = to
    partners = np.flatnonzero(total)
    return partners, total[partners]


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The integers of all ranges start..end, one after the other."""
    lengths = ends - starts
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())


def _distinct(records: Iterable["Record"], max_hashes: int, level: int) -> tuple[int, np.ndarray]:
    """The finest level from `level` on that fits, and the sorted distinct hashes of all records."""
    waiting = 0
    parts: list[np.ndarray] = []
    for record in records:
        level = max(level, _least_level(len(record.bases) - K + 1, max_hashes))
        parts.append(_hashes(kmers.base_codes(record.bases), level))
        waiting += len(parts[-1])
        if waiting > max_hashes:
            level, merged = _merged(parts, level, max_hashes)
            # What is merged counts as nothing until as much again has come, so merging stays rare.
            parts, waiting = [merged], 0
    return _merged(parts, level, max_hashes)


def _merged(parts: list[np.ndarray], level: int, max_hashes: int) -> tuple[int, np.ndarray]:
    """The union of sorted hashes at `level`, or the first above it where they fit `max_hashes`."""
    merged = _sorted_distinct(parts)
    while _below(merged, level) > max_hashes:
        level += 1
    return level, merged[: _below(merged, level)].copy()
