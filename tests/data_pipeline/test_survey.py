"""Is every record measured, counted and put on one side?"""

import pathlib

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.survey import chosen, read_table, summary, survey, write_table


def write_fasta(path: pathlib.Path, records: dict[str, str]) -> str:
    """`records` maps header to letters."""
    path.write_text("".join(f">{header}\n{bases}\n" for header, bases in records.items()))
    return str(path)


def random_bases(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def test_records_are_measured(tmp_path: pathlib.Path) -> None:
    path = write_fasta(
        tmp_path / "x.fa",
        {"a group=phage cluster=c1": "ACGTNNgcRY", "b": "AAAA", "c virus=1": "CC"},
    )
    found = survey({"train": [path]}, cluster_key="cluster")
    a, b, _ = found.records
    assert (a.id, a.length, a.ambiguous, a.gc, a.cluster, a.group, a.split) == (
        *("a", 10, 4, 4),
        *("c1", "phage", "train"),
    )
    assert (b.cluster, b.group) == ("-", "-")
    counts = summary(found.records)
    assert counts["records"] == 3
    assert counts["bases"] == 16
    assert counts["n_share"] == 4 / 16
    assert counts["gc"] == 6 / 12
    assert counts["clusters"] == 1
    assert counts["groups"]["phage"] == {"records": 1, "bases": 10}
    assert list(chosen([path], {"a", "c"}, 4)) == [
        ("a", 0, b"ACGT", False, False),
        ("a", 4, b"NNgc", False, False),
        ("a", 8, b"RY", True, False),
        ("c", 0, b"CC", True, False),
    ]
    skipped = [stretch[:3] for stretch in chosen([path], {"a", "c"}, 4, skip=3)]
    assert skipped == [("a", 3, b"TNNg"), ("a", 7, b"cRY")]

    table = tmp_path / "records.tsv.gz"
    write_table(str(table), found.records)
    once = table.read_bytes()
    write_table(str(table), found.records)
    assert table.read_bytes() == once
    rows = list(read_table(str(table)))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["description"] == "group=phage cluster=c1"
    assert rows[0]["source"] == "x.fa"
    assert rows[0]["length"] == "10"


def test_leaving_out_and_stopping(tmp_path: pathlib.Path) -> None:
    path = write_fasta(
        tmp_path / "x.fa", {"a": "A" * 10, "b virus=1": "C" * 20, "c": "G" * 10, "d": "T" * 11}
    )
    found = survey(
        {"train": [path]},
        leave_out=lambda r: "viral" if "virus=1" in r.description else "",
        max_bases=15,
    )
    assert [r.id for r in found.records] == ["a", "c"]  # whole records, until 15 are reached
    assert found.left_out == {"viral": {"records": 1, "bases": 20}}
    with pytest.raises(UserError, match=r"x.fa: every record is left out \(all\)"):
        survey({"train": [path]}, leave_out=lambda r: "all")


def test_validation_by_named_clusters(tmp_path: pathlib.Path) -> None:
    records = {f"r{i} cluster=c{i % 7}": random_bases(100, i) for i in range(35)}
    path = write_fasta(tmp_path / "x.fa", records)
    found = survey({"train": [path]}, cluster_key="cluster", validation_fraction=0.2, seed=3)
    sides = {r.cluster: r.split for r in found.records}
    assert all(sides[r.cluster] == r.split for r in found.records)
    assert 0.1 < sum(r.length for r in found.of("validation")) / 3500 < 0.3
    with pytest.raises(UserError, match="record r0 has no genus"):
        survey({"train": [path]}, cluster_key="genus", validation_fraction=0.2)


def test_validation_by_sketches_keeps_relatives_together(tmp_path: pathlib.Path) -> None:
    records = {}
    for i in range(10):
        genome = random_bases(2_000, i)
        records[f"g{i}"] = genome
        records[f"h{i}"] = genome[500:]
    path = write_fasta(tmp_path / "x.fa", records)
    found = survey({"train": [path]}, validation_fraction=0.3)
    side = {r.id: r.split for r in found.records}
    assert set(side.values()) == {"train", "validation"}
    assert all(side[f"g{i}"] == side[f"h{i}"] for i in range(10))
    one = write_fasta(tmp_path / "y.fa", {"g": records["g0"], "h": records["h0"]})
    with pytest.raises(UserError, match="all 2 records are in one cluster"):
        survey({"train": [one]}, validation_fraction=0.3)


def test_nothing_is_in_two_splits(tmp_path: pathlib.Path) -> None:
    one = write_fasta(tmp_path / "one.fa", {"a": "AACC", "b": "ACGT"})
    same_id = write_fasta(tmp_path / "id.fa", {"a": "TTTT"})
    other_strand = write_fasta(tmp_path / "strand.fa", {"z": "GGTT"})
    with pytest.raises(UserError, match=r"id.fa: record a: .*one.fa"):
        survey({"train": [one], "validation": [same_id]})
    with pytest.raises(UserError, match=r"strand.fa: record z \(validation\) .* a \(train\) in"):
        survey({"train": [one], "validation": [other_strand]})
    assert len(survey({"train": [one, other_strand]}).records) == 3


def test_names_and_near_duplicates_keep_records_together(tmp_path: pathlib.Path) -> None:
    """One genus, one genome, or copies of each other: on one side by any of them, or by a chain."""
    records = {}
    for i in range(12):
        first, second = random_bases(2_000, 2 * i), random_bases(2_000, 2 * i + 1)
        records[f"a{i} genus=A{i} genome=x{i}"] = first
        records[f"b{i} genus=- genome=x{i}"] = second
        records[f"c{i} genus=C{i}"] = second[300:]
        records[f"d{i} genus=C{i}"] = random_bases(500, 1_000 + i)
        records[f"e{i}"] = random_bases(500, 2_000 + i)
    path = write_fasta(tmp_path / "x.fa", records)
    found = survey({"train": [path]}, cluster_key="genus+genome+kmers", validation_fraction=0.3)
    side = {record.id: record.split for record in found.records}
    assert set(side.values()) == {"train", "validation"}
    for i in range(12):
        assert len({side[f"{letter}{i}"] for letter in "abcd"}) == 1
    names = {record.id: record.cluster for record in found.records}
    assert (names["d3"], names["e3"]) == ("genome=x3", "kmers=e3")
    assert len(set(names.values())) == 24
    # The planted fault: names alone part the copies.
    with pytest.raises(UserError, match=r"record e0 has no genus\+genome, which decides"):
        survey({"train": [path]}, cluster_key="genus+genome", validation_fraction=0.3)
    named = {header: bases for header, bases in records.items() if header[0] != "e"}
    path = write_fasta(tmp_path / "y.fa", named)
    found = survey({"train": [path]}, cluster_key="genus+genome", validation_fraction=0.3)
    side = {record.id: record.split for record in found.records}
    assert any(side[f"b{i}"] != side[f"c{i}"] for i in range(12))


def test_names_of_several_keys_in_two_splits(tmp_path: pathlib.Path) -> None:
    one = write_fasta(tmp_path / "one.fa", {"a genus=A family=F": "AACC", "b genus=B": "ACGT"})
    two = write_fasta(tmp_path / "two.fa", {"c genus=C family=F": "TTTTT", "d": "GGGGG"})
    files = {"train": [one], "validation": [two]}
    with pytest.raises(
        UserError, match=r"record c \(validation\) is of cluster family=F, as rec.* a"
    ):
        survey(files, cluster_key="genus+family")
    assert len(survey(files, cluster_key="genus+kmers").records) == 4
    for key in ("genus+", "genus+genus", "+"):
        with pytest.raises(UserError, match="write different header keys"):
            survey(files, cluster_key=key)
