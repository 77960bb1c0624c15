"""Do relatives stay together, strangers apart, and is leakage measured as it is?"""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from data_pipeline import kmers, splits

COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


@dataclass(frozen=True)
class Sequence:
    """What splits.py needs of a reading.Record."""

    id: str
    bases: bytes


def random_bases(rng: np.random.Generator, length: int) -> bytes:
    return np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, length)].tobytes()


def mutated(rng: np.random.Generator, bases: bytes, rate: float) -> bytes:
    letters = np.frombuffer(bases, np.uint8).copy()
    hit = rng.random(len(letters)) < rate
    letters[hit] = np.frombuffer(random_bases(rng, int(hit.sum())), np.uint8)
    return letters.tobytes()


def canonical(bases: bytes) -> set[int]:
    return set(np.minimum(*kmers.kmers(kmers.base_codes(bases), splits.K)).tolist())


def brute_force(records: list[Sequence]) -> dict[str, str]:
    """All pairs, all k-mers, single linkage."""
    sets = {r.id: canonical(r.bases) for r in records}
    names = {r.id: r.id for r in records}
    for a, b in itertools.combinations(sets, 2):
        if sets[a] and sets[b]:
            shared = len(sets[a] & sets[b])
            if shared and shared >= splits.MIN_CONTAINMENT * min(len(sets[a]), len(sets[b])):
                old, new = names[a], names[b]
                names = {id_: new if name == old else name for id_, name in names.items()}
    members = {name: min(i for i in names if names[i] == name) for name in set(names.values())}
    return {id_: members[name] for id_, name in names.items()}


@pytest.fixture
def family() -> list[Sequence]:
    rng = np.random.default_rng(7)
    genome, other = random_bases(rng, 6000), random_bases(rng, 5000)
    return [
        Sequence("genome", genome),
        Sequence("copy", genome.translate(COMPLEMENT)[::-1]),
        Sequence("strain", mutated(rng, genome, 0.05)),
        Sequence("far", mutated(rng, genome, 0.30)),
        Sequence("fragment", genome[1000:1300]),
        Sequence("other", other.lower()),
        Sequence("chimera", random_bases(rng, 2000) + other[:150]),  # 7 % shared: not linked
        Sequence("bridge", random_bases(rng, 1000) + other[-150:]),  # 12 %: linked
        Sequence("broken", b"N".join(other[i : i + 20] for i in range(0, 4000, 20))),
        Sequence("short", b"ACGT"),
        Sequence("empty", b""),
    ]


def check_relatives(names: dict[str, str]) -> None:
    assert names["genome"] == names["copy"] == names["strain"] == names["fragment"]
    assert names["other"] == names["bridge"]
    alone = ("far", "chimera", "broken", "short", "empty")
    assert all(list(names.values()).count(names[id_]) == 1 for id_ in alone)


def test_clusters_are_those_of_all_pairs(family):
    names = splits.cluster(family)
    assert names == brute_force(family)
    check_relatives(names)
    assert names["strain"] == "copy"  # the smallest id of the cluster


def test_planted_fault_one_strand_only_is_caught(family, monkeypatch):
    both = kmers.kmers
    monkeypatch.setattr(splits.kmers, "kmers", lambda codes, k: (both(codes, k)[0],) * 2)
    with pytest.raises(AssertionError):
        check_relatives(splits.cluster(family))


def test_clusters_do_not_hang_on_the_order(family):
    rng = np.random.default_rng(0)
    expected = splits.cluster(family)
    for _ in range(5):
        shuffled = [family[i] for i in rng.permutation(len(family))]
        assert splits.cluster(shuffled) == expected


def test_thinned_sketches_find_the_same_clusters_in_any_order():
    rng = np.random.default_rng(3)
    genomes = [random_bases(rng, int(n)) for n in rng.integers(5_000, 60_000, 12)]
    records = [Sequence(f"g{i}", bases) for i, bases in enumerate(genomes)]
    records += [Sequence(f"s{i}", mutated(rng, bases, 0.03)) for i, bases in enumerate(genomes)]
    records += [Sequence(f"f{i}", bases[2000:4000]) for i, bases in enumerate(genomes)]
    expected = {r.id: f"f{r.id[1:]}" for r in records}
    for seed in range(3):
        shuffled = [records[i] for i in np.random.default_rng(seed).permutation(len(records))]
        _ids, sketches, levels = splits._sketch_all(shuffled, 80_000)
        assert levels.max() > 0
        assert sum(map(len, sketches)) <= 80_000
        assert all(len(s) > 400 for s in sketches)
        assert splits.cluster(shuffled, max_hashes=80_000) == expected


def in_stretches(records: list[Sequence], size: int, overlap: int = splits.K - 1) -> list[Sequence]:
    return [
        Sequence(record.id, record.bases[max(at - overlap, 0) : at + size])
        for record in records
        for at in range(0, max(len(record.bases), 1), size)
    ]


@pytest.mark.parametrize("size", [300, 700, 5_000])
def test_a_record_in_stretches_has_the_sketch_of_the_whole(family, size):
    rng = np.random.default_rng(4)
    records = [*family, *(Sequence(f"g{i}", random_bases(rng, 9_000 * i)) for i in range(1, 6))]

    def sketched(given, max_hashes):
        ids, sketches, levels = splits._sketch_all(given, max_hashes)
        return ids, [sketch.tolist() for sketch in sketches], levels.tolist()

    for max_hashes in (1 << 24, 60_000, 20_000):
        whole = sketched(records, max_hashes)
        assert sketched(in_stretches(records, size), max_hashes) == whole
        # The planted fault: stretches that do not overlap lose k-mers.
        assert sketched(in_stretches(records, size, 0), max_hashes) != whole
    train = splits.kmer_set(records[:3])
    assert splits.leakage(train, in_stretches(records, size)) == splits.leakage(train, records)


def test_many_relatives_of_one_family_are_counted_in_pieces(monkeypatch):
    rng = np.random.default_rng(5)
    bases = random_bases(rng, 2000)
    records = [Sequence(f"{i:03}", mutated(rng, bases, 0.01)) for i in range(60)]
    records += [Sequence(f"x{i}", random_bases(rng, 300)) for i in range(2000)]
    names = splits.cluster(records)
    assert {names[f"{i:03}"] for i in range(60)} == {"000"}
    assert all(names[f"x{i}"] == f"x{i}" for i in range(2000))


def test_two_records_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two records are named 'a'"):
        splits.cluster([Sequence(name, b"A" * 30) for name in "aba"])


def test_no_records_no_clusters():
    assert splits.cluster([]) == {}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("n_clusters", [2, 3, 40])
def test_assign_keeps_clusters_whole_and_no_side_empty(fraction, n_clusters):
    rng = np.random.default_rng(n_clusters)
    clusters = {f"r{i}": f"c{rng.integers(n_clusters)}" for i in range(200)}
    sizes = {id_: int(rng.integers(100, 2000)) for id_ in clusters}
    sides = splits.assign(clusters, sizes, fraction, seed=1)
    assert set(sides) == set(clusters.values())
    assert set(sides.values()) == {"train", "validation"}
    held = sum(sizes[i] for i in clusters if sides[clusters[i]] == "validation")
    if n_clusters == 40 and 0.1 <= fraction <= 0.9:
        assert held / sum(sizes.values()) == pytest.approx(fraction, abs=0.02)
    backwards = dict(reversed(clusters.items()))
    assert splits.assign(backwards, sizes, fraction, seed=1) == sides


def test_assign_by_seed_and_edges():
    clusters = {f"r{i}": f"c{i}" for i in range(50)}
    sizes = dict.fromkeys(clusters, 10)
    assert splits.assign(clusters, sizes, 0.2, 1) != splits.assign(clusters, sizes, 0.2, 2)
    assert set(splits.assign(clusters, sizes, 0.0, 1).values()) == {"train"}
    assert splits.assign({"r": "c"}, {"r": 5}, 0.9, 1) == {"c": "train"}
    assert splits.assign({}, {}, 0.5, 1) == {}
    with pytest.raises(ValueError, match="fraction"):
        splits.assign(clusters, sizes, 1.0, 1)


def test_leakage_is_the_share_of_kmers():
    rng = np.random.default_rng(11)
    train = [Sequence(f"t{i}", random_bases(rng, 3000)) for i in range(5)]
    half = train[2].bases[500:1500].translate(COMPLEMENT)[::-1] + b"N" + random_bases(rng, 1000)
    test = [Sequence("half", half), Sequence("new", random_bases(rng, 2000)), Sequence("no", b"AC")]
    found = splits.leakage(
        splits.kmer_set(train), test, {"half": "virus", "new": "host", "no": "host"}
    )
    assert found.scale == 1
    assert found.linked == ("half",)
    host, virus = found.rows
    assert (host.label, host.records, host.kmers, host.shared) == ("host", 2, 1980, 0)
    assert (virus.kmers, virus.shared, virus.linked) == (1960, 980, 1)
    assert found.share == 980 / 3940
    assert "virus" in str(found)
    assert found.copies == {"half": 1960}
    assert splits.leakage(splits.kmer_set([]), test).share == 0.0
    half, _, no = (splits.kmer_set([record]) for record in test)
    assert splits.nearest(half, train) == ("t2", 0.5)
    stretches = [
        Sequence(r.id, r.bases[at : at + 520]) for r in train for at in range(0, 3000, 500)
    ]
    assert splits.nearest(half, stretches) == ("t2", 0.5)
    assert splits.nearest(no, train) == ("", 0.0)


def test_leakage_by_a_sample_is_near_the_exact_share():
    rng = np.random.default_rng(12)
    train = [Sequence(f"t{i}", random_bases(rng, 20_000)) for i in range(10)]
    test = [Sequence("x", train[3].bases[:10_000] + random_bases(rng, 30_000))]
    exact = splits.leakage(splits.kmer_set(train), test)
    sampled = splits.leakage(splits.kmer_set(train, max_hashes=30_000), test)
    assert sampled.scale == 8
    assert sampled.share == pytest.approx(exact.share, abs=0.03)
