"""Is a validation set of near-copies refused, and nothing else?"""

import pathlib

import numpy as np
import pytest

from data_pipeline import corpus as corpus_room
from data_pipeline import describing, overlap, splits
from data_pipeline import survey as survey_room
from data_pipeline.contigs import ContigsOptions, build_contigs
from data_pipeline.corpus import CorpusOptions, build_corpus
from data_pipeline.errors import UserError
from data_pipeline.survey import survey

RNG = np.random.default_rng(5)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def dna(length: int) -> str:
    return "".join(RNG.choice(list("ACGT"), length))


def mutated(bases: str, rate: float) -> str:
    return "".join(RNG.choice(list("ACGT")) if RNG.random() < rate else base for base in bases)


TRAIN = [dna(15_000) for _ in range(3)]
FRESH = [dna(15_000) for _ in range(3)]


def write(path: pathlib.Path, sequences: list[str]) -> str:
    path.write_text(
        "".join(
            f">{path.stem}{i} group=g{i % 2} label={i % 2}\n{bases}\n"
            for i, bases in enumerate(sequences)
        )
    )
    return str(path)


def tables(tmp_path: pathlib.Path, validation: list[str]) -> dict:
    """Of a survey of TRAIN and these validation records."""
    files = {
        "train": [write(tmp_path / "t.fa", TRAIN)],
        "validation": [write(tmp_path / "v.fa", validation)],
    }
    return overlap.overlap(survey(files), files, lambda record: record.group)


def test_the_table_counts_by_label(tmp_path: pathlib.Path) -> None:
    own = [FRESH[0] + TRAIN[1][:5_000], FRESH[1]]
    (table,) = tables(tmp_path, own).values()
    first, second = table["rows"]
    assert (first["label"], first["records"], first["linked"]) == ("g0", 1, 1)
    assert first["share"] == pytest.approx(0.25, abs=0.01)
    assert (second["share"], second["linked"], table["copies"]) == (0.0, 0, 0)


def test_stretches_of_train_lose_no_kmer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [FRESH[0] + TRAIN[1][:5_000], FRESH[1]]
    whole = tables(tmp_path, own)
    monkeypatch.setattr(survey_room, "_STRETCH", 1_000)
    assert tables(tmp_path, own) == whole
    # The planted fault: what a stretch takes over from the one before is forgotten.
    chosen = survey_room.chosen
    monkeypatch.setattr(
        survey_room, "chosen", lambda *args: (s._replace(start=0) for s in chosen(*args))
    )
    assert tables(tmp_path, own) != whole


def test_a_long_record_is_compared_by_a_sample(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is, and however short train: memory does not grow with it."""
    monkeypatch.setattr(overlap, "MAX_HASHES", 10_000)
    (table,) = tables(tmp_path, [dna(200_000), FRESH[0]]).values()
    assert table["scale"] == 32
    with pytest.raises(UserError, match=r"record v0 .* \(record t0 alone 7.%\)"):
        tables(tmp_path, [TRAIN[0] * 12 + dna(5_000)])


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_near_copies_are_refused(tmp_path: pathlib.Path, rate: float) -> None:
    copy = mutated(TRAIN[2], rate)[:-7].translate(COMPLEMENT)[::-1]
    with pytest.raises(UserError, match=r"v.fa: record v1 \(validation\) .* \(record t2 alone"):
        tables(tmp_path, [FRESH[0], copy, FRESH[1]])
    assert tables(tmp_path, [FRESH[0], mutated(TRAIN[2], 0.2)])["validation"]["copies"] == 0


def test_planted_fault_in_the_threshold(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "NEAR_COPY", 1.1)
    with pytest.raises(pytest.fail.Exception):
        test_near_copies_are_refused(tmp_path, 0.0)


def test_a_shared_gene_alone_is_told_but_not_refused(tmp_path: pathlib.Path) -> None:
    gene = TRAIN[0][3_000:3_500]
    found = tables(tmp_path, [*FRESH, gene])
    assert found["validation"]["copies"] == 1
    with pytest.raises(UserError, match="2 of 3 validation records"):
        tables(tmp_path, [FRESH[0][:3_000], gene, TRAIN[1][:500]])


def test_prepare_stores_and_refuses(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_room, "MARKOV_ORDERS", range(3))  # for speed
    train, fresh = write(tmp_path / "t.fa", TRAIN), write(tmp_path / "v.fa", FRESH)
    copied = write(tmp_path / "c.fa", [TRAIN[0][:-1], dna(9_000)])
    corpus = build_corpus(CorpusOptions((train,), (fresh,)), str(tmp_path / "a"))
    contigs = build_contigs(ContigsOptions((train,), test=(fresh,)), str(tmp_path / "b"))
    assert [row["label"] for row in corpus.manifest["leakage"]["validation"]["rows"]] == [
        "g0",
        "g1",
    ]
    assert [row["label"] for row in contigs.manifest["leakage"]["test"]["rows"]] == [
        "not g0",
        "virus g1",
    ]
    for manifest in (corpus.manifest, contigs.manifest):
        text = "\n".join(describing.lines(manifest))
        assert "found in train" in text
        assert "warning" not in text
    with pytest.raises(UserError, match="near-copy"):
        build_corpus(CorpusOptions((train,), (copied,)), str(tmp_path / "a"))
    with pytest.raises(UserError, match="near-copy"):
        build_contigs(ContigsOptions((train,), (fresh,), (copied,)), str(tmp_path / "b"))


def test_a_drop_at_high_orders_is_a_warning(tmp_path: pathlib.Path) -> None:
    train, fresh = write(tmp_path / "t.fa", TRAIN), write(tmp_path / "v.fa", FRESH)
    manifest = build_corpus(CorpusOptions((train,), (fresh,)), str(tmp_path / "a")).manifest
    assert manifest["markov"]["drop_at_high_orders"] < 0.02
    manifest["markov"]["drop_at_high_orders"] = 0.3
    assert "near-copies of train" in "\n".join(describing.lines(manifest))
