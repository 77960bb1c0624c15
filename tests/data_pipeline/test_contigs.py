"""Does every labelled sequence keep its letters, label and metadata, in one split only?"""

import pathlib
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline import contigs, datasets
from data_pipeline.contigs import Contigs, ContigsOptions, build_contigs, open_contigs
from data_pipeline.errors import UserError
from data_pipeline.reading import read_records

COLUMNS = "contig\tlabel\tlength\tgroup\tcluster\tfamily\torganism"


def write_contigs(path: pathlib.Path, names: list[str], *, length: int = 60, seed: int = 0) -> str:
    """Sequences and a table beside them; every third is viral."""
    rng = np.random.default_rng([seed, *path.stem.encode()])
    rows = [COLUMNS]
    with path.open("w") as file:
        for i, name in enumerate(names):
            bases = "".join(rng.choice(list("ACGTacgtN"), length + i))
            file.write(f">{name} novelty=none family=Header\n{bases}\n")
            cluster = f"{path.stem}{i // 2}"
            rows.append(f'{name}\t{int(i % 3 == 0)}\t{length}\tphage\t{cluster}\t-\tSome "phage"')
    path.with_suffix(".tsv").write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def three(tmp_path: pathlib.Path) -> ContigsOptions:
    return ContigsOptions(
        train=(write_contigs(tmp_path / "train.fa", [f"t{i}" for i in range(20)]),),
        validation=(write_contigs(tmp_path / "val.fa", [f"v{i}" for i in range(7)]),),
        test=(write_contigs(tmp_path / "test.fa", [f"e{i}" for i in range(5)]),),
    )


def stored(found: Contigs, split: str) -> list[dict]:
    source = found.source(split)
    return [source[i] for i in range(len(source))]


def check_holds(found: Contigs, split: str, path: str) -> None:
    records = list(read_records([path]))
    examples = stored(found, split)
    assert [e["id"].decode() for e in examples] == [r.id for r in records]
    assert [e["bases"].tobytes() for e in examples] == [r.bases.upper() for r in records]
    assert [int(e["label"]) for e in examples] == [int(i % 3 == 0) for i in range(len(records))]
    info = found.splits[split]
    assert info.records == len(records)
    assert info.bases == sum(len(r.bases) for r in records)
    assert info.viral == sum(int(e["label"]) for e in examples)


def test_records_and_labels(three: ContigsOptions, tmp_path: pathlib.Path) -> None:
    found = build_contigs(three, str(tmp_path / "d"))
    for split, kind in contigs.SPLITS.items():
        assert type(found.source(split)) is kind
        check_holds(found, split, getattr(three, split)[0])
    example = found.source("train")[3]
    assert {name: example[name] for name in contigs.METADATA} == {
        "group": b"phage",
        "cluster": b"train1",
        "family": b"-",  # the table is asked before the header
        "genus": b"-",
        "phylum": b"-",
        "organism": b'Some "phage"',
        "novelty": b"none",  # from the header
        "source": b"-",
    }
    assert example["label"].dtype == np.int32
    assert found.manifest["splits"]["train"]["clusters"] == 10
    assert open_contigs(str(tmp_path / "d")).manifest == found.manifest


def test_a_damaged_record_is_told_in_one_sentence(
    three: ContigsOptions, tmp_path: pathlib.Path
) -> None:
    found = build_contigs(three, str(tmp_path / "d"))
    (shard,) = pathlib.Path(found.folder).glob("*-train.array_record*")
    held = bytearray(shard.read_bytes())
    held[200] ^= 1
    shard.write_bytes(held)
    with pytest.raises(UserError, match=f"{found.folder}: record 0 .*damaged.* run prepare again"):
        found.source("train")[0]


def test_planted_fault_labels_by_position(
    three: ContigsOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contigs.Labels, "label", lambda self, record: 1)
    found = build_contigs(three, str(tmp_path / "d"))
    with pytest.raises(AssertionError):
        check_holds(found, "train", three.train[0])


def test_many_shards_and_tfds_read_the_same(
    three: ContigsOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contigs, "SHARD_RECORDS", 3)
    monkeypatch.setattr(contigs, "SHARD_BASES", 160)
    found = build_contigs(three, str(tmp_path / "d"))
    check_holds(found, "train", three.train[0])
    builder = tfds.builder_from_directory(found.folder)
    assert builder.info.splits["train"].shard_lengths == [2] * 10
    ours, theirs = (
        pickle.loads(pickle.dumps(found.source("train"))),
        builder.as_data_source("train"),
    )
    for index in range(len(theirs)):
        mine = ours[index]
        assert set(mine) == set(theirs[index])
        for name, value in theirs[index].items():
            assert np.array_equal(mine[name], value)
        assert mine["bases"].dtype == theirs[index]["bases"].dtype


def test_validation_by_cluster_and_by_sketch(tmp_path: pathlib.Path) -> None:
    path = write_contigs(tmp_path / "x.fa", [f"t{i}" for i in range(40)], length=400)
    for key in ("cluster", ""):
        options = ContigsOptions((path,), validation_fraction=0.2, cluster_key=key)
        found = build_contigs(options, str(tmp_path / "d"))
        side = {split: stored(found, split) for split in ("train", "validation")}
        assert sum(len(examples) for examples in side.values()) == 40
        assert 2 <= len(side["validation"]) <= 14
        clusters = [{e["cluster"] for e in examples} for examples in side.values()]
        assert not clusters[0] & clusters[1]


def test_reuse_and_change(
    three: ContigsOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_contigs(three, str(tmp_path / "d"))
    with monkeypatch.context() as patch:
        patch.setattr(contigs, "survey", None)  # whoever builds, fails
        assert build_contigs(three, str(tmp_path / "d")).fingerprint == first.fingerprint
    table = tmp_path / "train.tsv"
    table.write_text(table.read_text().replace("t1\t0", "t1\t1"))
    changed = build_contigs(three, str(tmp_path / "d"))
    assert changed.fingerprint != first.fingerprint
    assert changed.source("train")[1]["label"] == 1


def test_ambiguous_records_are_left_out(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.fa"
    path.write_text(">a label=1\nACGT\n>b label=0\nANNN\n>c label=0\nACGN\n")
    found = build_contigs(ContigsOptions((str(path),), max_ambiguous=0.25), str(tmp_path / "d"))
    assert [e["id"] for e in stored(found, "train")] == [b"a", b"c"]
    (reason,) = found.manifest["left_out"]
    assert found.manifest["left_out"][reason] == {"records": 1, "bases": 4}


def test_nothing_is_in_two_splits(three: ContigsOptions, tmp_path: pathlib.Path) -> None:
    first = next(read_records([three.train[0]]))
    other = tmp_path / "other.fa"
    other.write_text(f">z label=1\n{first.bases.decode()[::-1].translate(COMPLEMENT)}\n")
    options = ContigsOptions(three.train, test=(str(other),))
    with pytest.raises(UserError, match=r"other.fa: record z \(test\) .* record t0 \(train\)"):
        build_contigs(options, str(tmp_path / "d"))
    other.write_text(">t0 label=1\nACGTTT\n")
    with pytest.raises(UserError, match=r"other.fa: record t0: .*train.fa"):
        build_contigs(options, str(tmp_path / "d"))
    # A relative by name, though sequence and id are its own; of unknown cluster it is nobody's.
    other.write_text(">z label=1 cluster=train1\nACGTTT\n")
    with pytest.raises(UserError, match=r"record z \(test\) is of cluster train1, as record t"):
        build_contigs(options, str(tmp_path / "d"))
    other.write_text(">z label=1 cluster=-\nACGTTT\n")
    build_contigs(options, str(tmp_path / "d"))


COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")


def test_two_builds_at_once(three: ContigsOptions, tmp_path: pathlib.Path) -> None:
    with datasets.sole_writer(str(tmp_path)), pytest.raises(UserError, match="another prepare"):
        build_contigs(three, str(tmp_path))


def test_mistakes_in_options(three: ContigsOptions, tmp_path: pathlib.Path) -> None:
    for options, message in (
        (ContigsOptions(three.train, validation_fraction=-0.1), "validation_fraction is -0.1"),
        (ContigsOptions(three.train, three.validation, validation_fraction=0.1), "both given"),
        (ContigsOptions(three.train, max_ambiguous=2), "max_ambiguous is 2"),
    ):
        with pytest.raises(UserError, match=message):
            build_contigs(options, str(tmp_path / "d"))
    found = build_contigs(ContigsOptions(three.train), str(tmp_path / "d"))
    with pytest.raises(UserError, match="no split 'test', only train"):
        found.source("test")


def test_real_contigs(real_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = str(real_data / "small" / "virus_small.fa.gz")
    found = build_contigs(ContigsOptions((path,), validation_fraction=0.1), str(tmp_path))
    examples = stored(found, "train") + stored(found, "validation")
    records = {r.id: r for r in read_records([path])}
    assert {e["id"].decode(): e["bases"].tobytes() for e in examples} == {
        name: record.bases.upper() for name, record in records.items()
    }
    for example in examples:
        words = dict(
            word.split("=") for word in records[example["id"].decode()].description.split()
        )
        for name in ("group", "cluster", "novelty", "source"):
            assert example[name].decode() == words[name]
        assert int(words["label"]) == example["label"]
