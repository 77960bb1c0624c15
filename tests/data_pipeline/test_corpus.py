"""Does a corpus hold its sources, all of them and once, and can nothing else pass for it?"""

import dataclasses
import pathlib
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline import corpus, datasets, pieces, writing
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus, open_corpus
from data_pipeline.errors import UserError
from data_pipeline.packing import Row
from data_pipeline.reading import read_records
from data_pipeline.tokenizers import Kmer, from_spec

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_genomes(path: pathlib.Path, lengths: list[int], seed: int = 0, ns: bool = True) -> str:
    rng = np.random.default_rng(seed)
    letters = list("ACGTacgt" * 8 + "NR" * ns)
    with path.open("w") as file:
        for i, length in enumerate(lengths):
            words = f"group=g{i % 2} cluster=c{i} virus={int(i % 3 == 0)}"
            file.write(f">{path.stem}{i} {words}\n{''.join(rng.choice(letters, length))}\n")
    return str(path)


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("genomes") / "g.fa"
    return write_genomes(path, [1_000, 64, 300, 2_000, 63, 65, 1, 128, 500])


def reassembled(found: Corpus, split: str) -> dict[str, bytes]:
    """The records, from ids and starts of the stored rows; AssertionError at a gap or overlap."""
    source, tokenizer = found.source(split), found.tokenizer
    parts: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for index in range(len(source)):
        row = source[index]
        assert row["tokens"].dtype == tokenizer.dtype
        assert len(row["tokens"]) <= found.row_length
        segments = np.split(row["tokens"], np.cumsum(row["segment_lengths"])[:-1])
        ids = row["record_ids"].decode().split("\n")
        for record_id, start, tokens in zip(ids, row["starts"], segments, strict=True):
            parts[record_id].append((int(start), tokenizer.decode(tokens)))
    records = {}
    for record_id, own in parts.items():
        records[record_id] = b""
        for start, bases in sorted(own):
            assert start == len(records[record_id]), f"gap or overlap in {record_id}"
            records[record_id] += bases
    return records


def plain(path: str) -> dict[str, bytes]:
    return {r.id: r.bases.upper().replace(b"R", b"N") for r in read_records([path])}


def check_holds(found: Corpus, split: str, expected: dict[str, bytes]) -> None:
    assert reassembled(found, split) == expected
    info = found.splits[split]
    assert info.rows == len(found.source(split))
    assert info.bases == sum(map(len, expected.values()))


@pytest.mark.parametrize("spec", [{"name": "nucleotide"}, {"name": "kmer", "k": 4}])
def test_rows_hold_the_sources(genomes: str, tmp_path: pathlib.Path, spec: dict) -> None:
    found = build_corpus(CorpusOptions((genomes,), tokenizer=spec, row_length=64), str(tmp_path))
    check_holds(found, "train", plain(genomes))
    assert found.tokenizer == from_spec(spec)
    assert found.row_length == 64
    assert set(found.splits) == {"train"}
    assert found.manifest["markov"] is None
    counts = found.manifest["splits"]["train"]
    assert counts["records"] == 9
    assert counts["fill"] == counts["tokens"] / counts["rows"] / 64
    letters = b"".join(plain(genomes).values())
    assert counts["n_share"] == pytest.approx(letters.count(b"N") / len(letters))
    gc = letters.count(b"G") + letters.count(b"C")
    assert counts["gc"] == pytest.approx(gc / (len(letters) - letters.count(b"N")))
    assert [row["id"] for row in found.records()] == [f"g{i}" for i in range(9)]
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "corpus.json", "packed_corpus"}


@pytest.mark.parametrize("spec", [{"name": "kmer", "k": 3}, {"name": "nucleotide"}])
def test_many_shards_hold_the_same(
    genomes: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, spec: dict
) -> None:
    """Also: rows travel by pickle, and TFDS itself decodes them to the same."""
    monkeypatch.setattr(corpus, "BLOCK_BASES", 84)
    monkeypatch.setattr(pieces, "BLOCK_BASES", 84)
    monkeypatch.setattr(corpus, "LEAST_SHARD_ROWS", 5)
    found = build_corpus(CorpusOptions((genomes,), tokenizer=spec, row_length=20), str(tmp_path))
    check_holds(found, "train", plain(genomes))
    builder = tfds.builder_from_directory(found.folder)
    assert builder.info.splits["train"].num_shards > 5
    assert max(builder.info.splits["train"].shard_lengths) < 5 * 3
    source = pickle.loads(pickle.dumps(found.source("train")))
    theirs = builder.as_data_source("train")
    assert len(source) == len(theirs)
    for index in range(len(source)):
        ours, stored = source[index], theirs[index]
        if "token_halves" in stored:
            halves = stored.pop("token_halves")
            stored["tokens"] = np.concatenate([halves % 16, halves // 16])[: len(ours["tokens"])]
        assert set(ours) == set(stored)
        for name, value in stored.items():
            assert np.array_equal(ours[name], value)
            assert np.asarray(ours[name]).dtype == np.asarray(value).dtype


def lose_a_row(rows: list[Row]) -> list[Row]:
    return rows[:-1]


def repeat_a_row(rows: list[Row]) -> list[Row]:
    return [*rows, rows[-1]]


@pytest.mark.parametrize("fault", [lose_a_row, repeat_a_row])
def test_planted_faults_stop_the_build(
    genomes: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[list[Row]], list[Row]],
) -> None:
    pack = writing.pack
    monkeypatch.setattr(writing, "pack", lambda *args: iter(fault(list(pack(*args)))))
    with pytest.raises(RuntimeError, match="bases went in"):
        build_corpus(CorpusOptions((genomes,), row_length=64), str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        open_corpus(str(tmp_path))


def test_planted_fault_in_the_order_of_letters(
    genomes: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts alone do not see it; putting the records together again does."""
    monkeypatch.setattr(Kmer, "encode", lambda self, bases: self.reverse_complement(ENCODE(bases)))
    found = build_corpus(
        CorpusOptions((genomes,), tokenizer={"name": "kmer", "k": 4}, row_length=64), str(tmp_path)
    )
    with pytest.raises(AssertionError):
        check_holds(found, "train", plain(genomes))


ENCODE = Kmer(4).encode


def test_building_again_reuses_and_changes_do_not(
    genomes: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CorpusOptions((genomes,), row_length=64)
    first = build_corpus(options, str(tmp_path / "d"))
    copy = pathlib.Path(
        write_genomes(tmp_path / "g.fa", [1_000, 64, 300, 2_000, 63, 65, 1, 128, 500])
    )
    assert copy.read_bytes() == pathlib.Path(genomes).read_bytes()

    def must_not_build(*args: object, **options: object) -> None:
        raise AssertionError("built again")

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "survey", must_not_build)
        for path in (genomes, str(copy)):  # the same file elsewhere is the same data
            again = build_corpus(dataclasses.replace(options, sources=(path,)), str(tmp_path / "d"))
            assert again.fingerprint == first.fingerprint
        with pytest.raises(AssertionError, match="built again"):
            build_corpus(dataclasses.replace(options, seed=1), str(tmp_path / "d"))
        patch.setattr(corpus, "CODE_VERSION", corpus.CODE_VERSION + 1)
        with pytest.raises(AssertionError, match="built again"):
            build_corpus(options, str(tmp_path / "d"))
        with pytest.raises(UserError, match="prepared by another version of this program"):
            open_corpus(str(tmp_path / "d"))
    assert open_corpus(str(tmp_path / "d")).manifest == first.manifest

    copy.write_text(copy.read_text().replace("A", "C"))
    changed = build_corpus(CorpusOptions((str(copy),), row_length=64), str(tmp_path / "d"))
    assert changed.fingerprint != first.fingerprint
    check_holds(changed, "train", plain(str(copy)))
    check_holds(first, "train", plain(genomes))  # whoever still reads the old one can


def test_the_same_sources_give_the_same_files(genomes: str, tmp_path: pathlib.Path) -> None:
    found = [
        build_corpus(CorpusOptions((genomes,), row_length=64), str(tmp_path / name))
        for name in ("one", "two")
    ]
    shards = [sorted(pathlib.Path(c.folder).glob("*array_record*")) for c in found]
    assert [p.read_bytes() for p in shards[0]] == [p.read_bytes() for p in shards[1]]
    tables = [pathlib.Path(c.folder, corpus.RECORDS).read_bytes() for c in found]
    assert tables[0] == tables[1]


def test_a_damaged_row_is_told_in_one_sentence(genomes: str, tmp_path: pathlib.Path) -> None:
    found = build_corpus(CorpusOptions((genomes,), row_length=64), str(tmp_path))
    (shard,) = pathlib.Path(found.folder).glob("*-train.array_record*")
    held = bytearray(shard.read_bytes())
    held[200] ^= 1
    shard.write_bytes(held)
    with pytest.raises(UserError, match=f"{shard.name}: row 0 .*damaged.* run prepare again"):
        found.source("train")[0]


def test_validation_and_markov(tmp_path: pathlib.Path) -> None:
    train = write_genomes(tmp_path / "t.fa", [900] * 10, seed=1)
    validation = write_genomes(tmp_path / "v.fa", [900] * 3, seed=2)
    found = build_corpus(CorpusOptions((train,), (validation,), row_length=128), str(tmp_path))
    check_holds(found, "train", plain(train))
    check_holds(found, "validation", plain(validation))
    floor = found.manifest["markov"]["bits_per_base"]
    assert set(floor) == {str(order) for order in range(13)}
    assert all(1.9 < bits < 2.1 for bits in floor.values())

    cut = build_corpus(
        CorpusOptions((train,), validation_fraction=0.2, cluster_key="cluster", row_length=128),
        str(tmp_path),
    )
    both = {**reassembled(cut, "train"), **reassembled(cut, "validation")}
    assert both == plain(train)
    assert cut.splits["validation"].bases == 1_800


def test_records_left_out_are_counted(genomes: str, tmp_path: pathlib.Path) -> None:
    found = build_corpus(
        CorpusOptions((genomes,), exclude=("virus=1", "group=g1"), row_length=64, max_bases=400),
        str(tmp_path),
    )
    kept = {k: v for k, v in plain(genomes).items() if k in ("g2", "g4", "g8")}
    check_holds(found, "train", kept)
    assert found.manifest["left_out"] == {
        "virus=1": {"records": 3, "bases": 3_001},
        "group=g1": {"records": 3, "bases": 257},
    }


def test_a_table_stands_for_header_words(tmp_path: pathlib.Path) -> None:
    sources = write_genomes(tmp_path / "g.fa", [400] * 12)
    table = tmp_path / "taxa.tsv"

    def write_table(name: str = "host kind") -> None:
        rows = [f"g{i}\tG {i % 3}\t{name}{i % 2}\tx" for i in range(12)]
        table.write_text("\n".join(["id\tgenus\tgroup\tnote", *rows, "unused\tG\t-\t-"]) + "\n")

    write_table()
    plain = CorpusOptions((sources,), validation_fraction=0.3, row_length=64, seed=2)
    options = dataclasses.replace(
        plain, metadata=str(table), cluster_key="genus", exclude=("group=host_kind1", "virus=1")
    )
    found = build_corpus(options, str(tmp_path / "d"))
    rows = list(found.records())
    assert [row["id"] for row in rows] == ["g2", "g4", "g8", "g10"]  # neither odd nor virus=1
    assert {row["group"] for row in rows} == {"host kind0"}
    side = {row["cluster"]: row["split"] for row in rows}
    assert set(side) == {"G 1", "G 2"}
    assert all(side[row["cluster"]] == row["split"] for row in rows)
    assert found.manifest["tables"][0]["path"] == str(table)
    # Another content of the table is another data set; no table, that of before there were any.
    write_table("other")
    other = build_corpus(dataclasses.replace(options, exclude=()), str(tmp_path / "d"))
    assert other.fingerprint != found.fingerprint
    assert len(list(other.records())) == 12
    for content, message in {
        "id\tgenus\ng0\tA\n": "record g1 has no row in .*taxa.tsv; add one",
        "name\tgenus\ng0\tA\n": "line 1: the header needs one of contig, record",
        "id\tgenus\ng0\tA\ng0\tB\n": "line 3: g0 is in line 2 too",
    }.items():
        table.write_text(content)
        with pytest.raises(UserError, match=message):
            build_corpus(options, str(tmp_path / "d"))
    with pytest.raises(UserError, match=r"nowhere.tsv: no such file"):
        build_corpus(dataclasses.replace(options, metadata="nowhere.tsv"), str(tmp_path / "d"))


KILLED = """
import os, sys
from data_pipeline import corpus, writing
pack = writing.pack
def fatal_pack(*args):
    for number, row in enumerate(pack(*args)):
        if number == 4:
            os.kill(os.getpid(), 9)
        yield row
writing.pack = fatal_pack
corpus.build_corpus(corpus.CorpusOptions((sys.argv[1],), row_length=64), sys.argv[2])
"""


def test_killed_half_way_nothing_looks_whole(genomes: str, tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, genomes, str(tmp_path)], cwd=ROOT, capture_output=True
    )
    assert done.returncode == -9, done.stderr.decode()
    assert list(tmp_path.glob("*/*/incomplete.*")), "the planted kill came too late or too early"
    with pytest.raises(UserError, match="no such file"):
        open_corpus(str(tmp_path))
    found = build_corpus(CorpusOptions((genomes,), row_length=64), str(tmp_path))
    check_holds(found, "train", plain(genomes))
    assert not list(tmp_path.glob("*/*/incomplete.*"))


def test_killed_before_the_pointer_builds_again(
    genomes: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    options = CorpusOptions((genomes,), row_length=64)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "write_pointer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(options, str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        open_corpus(str(tmp_path))
    check_holds(build_corpus(options, str(tmp_path)), "train", plain(genomes))


def test_damage_is_noticed_and_mended(genomes: str, tmp_path: pathlib.Path) -> None:
    options = CorpusOptions((genomes,), row_length=64)
    found = build_corpus(options, str(tmp_path))
    shard = next(pathlib.Path(found.folder).glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="missing or cut short"):
        open_corpus(str(tmp_path))
    check_holds(build_corpus(options, str(tmp_path)), "train", plain(genomes))


def test_two_builds_at_once(genomes: str, tmp_path: pathlib.Path) -> None:
    with datasets.sole_writer(str(tmp_path)), pytest.raises(UserError, match="another prepare"):
        build_corpus(CorpusOptions((genomes,)), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_length": 1}, "row_length is 1"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"validation_fraction": 0.1, "validation_sources": ("x",)}, "both given"),
        ({"exclude": ("virus",)}, "'virus' is not a header word"),
        ({"max_bases": -1}, "max_bases is -1"),
        ({"tokenizer": {"name": "codons"}}, "choose from nucleotide, kmer"),
        ({"tokenizer": {"name": "codon"}, "soft_mask_weight": 0.5}, "only the open stretches"),
        ({"tokenizer": {"name": "codon"}, "wrap_circular": True}, "only the open stretches"),
        ({"sources": ("nowhere.fa",)}, "nowhere.fa"),
        ({"exclude": ("virus=0", "virus=1")}, "nothing remains for train"),
    ],
)
def test_mistakes_are_told(
    genomes: str, tmp_path: pathlib.Path, change: dict, message: str
) -> None:
    options = dataclasses.replace(CorpusOptions((genomes,)), **change)
    with pytest.raises(UserError, match=message):
        build_corpus(options, str(tmp_path))
    assert not (tmp_path / corpus.POINTER).exists()


def test_unknown_split(genomes: str, tmp_path: pathlib.Path) -> None:
    found = build_corpus(CorpusOptions((genomes,)), str(tmp_path))
    with pytest.raises(UserError, match="no split 'validation', only train"):
        found.source("validation")


def test_real_genomes(real_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = str(real_data / "small" / "pretrain_small.fa.gz")
    options = CorpusOptions((path,), validation_fraction=0.1, cluster_key="cluster")
    found = build_corpus(options, str(tmp_path))
    both = {**reassembled(found, "train"), **reassembled(found, "validation")}
    assert both == {
        r.id: found.tokenizer.decode(found.tokenizer.encode(r.bases)) for r in read_records([path])
    }
    for counts in found.manifest["splits"].values():
        assert counts["fill"] >= 0.99
    clusters = {(row["cluster"], row["split"]) for row in found.records()}
    assert len(clusters) == len({cluster for cluster, _ in clusters})
    floor = found.manifest["markov"]["bits_per_base"]
    assert floor["4"] < floor["0"] < 2
