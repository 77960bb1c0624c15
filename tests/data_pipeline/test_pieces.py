"""Do soft mask, wrapping and phases change the training rows as told, and nothing else?"""

import dataclasses
import pathlib
from collections import defaultdict

import numpy as np
import pytest

from data_pipeline import corpus, loader, pieces
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from data_pipeline.errors import UserError
from data_pipeline.reading import read_records
from data_pipeline.tokenizers import Kmer, Nucleotide
from tests.data_pipeline.given_rows import GivenRows

LENGTHS = [1_000, 64, 300, 63, 65, 1, 2, 500]
LETTERS = list("ACGTacgtn")


@pytest.fixture(autouse=True)
def _few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MARKOV_ORDERS", range(2))  # for speed


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> CorpusOptions:
    """Every second record circular."""
    folder = tmp_path_factory.mktemp("genomes")
    rng = np.random.default_rng(3)
    for name in ("train", "validation"):
        with (folder / f"{name}.fa").open("w") as file:
            for i, length in enumerate(LENGTHS):
                words = "topology=circular" if i % 2 == 0 else "topology=linear"
                file.write(f">{name}{i} {words}\n{''.join(rng.choice(LETTERS, length))}\n")
    return CorpusOptions(
        (str(folder / "train.fa"),), (str(folder / "validation.fa"),), row_length=64
    )


def segments(found: Corpus, split: str) -> dict[str, list[tuple[int, bytes, np.ndarray]]]:
    """Of each record, start, letters and loss weights (by letter) of its segments."""
    source, tokenizer = found.source(split), found.tokenizer
    parts = defaultdict(list)
    for index in range(len(source)):
        row = source[index]
        cuts = np.cumsum(row["segment_lengths"])[:-1]
        weights = row.get("weights", np.ones(len(row["tokens"]), np.float32))
        ids = row["record_ids"].decode().split("\n")
        for record_id, start, tokens, own in zip(
            ids, row["starts"], np.split(row["tokens"], cuts), np.split(weights, cuts), strict=True
        ):
            by_letter = np.repeat(own, tokenizer.token_lengths[tokens])
            parts[record_id].append((int(start), tokenizer.decode(tokens), by_letter))
    return {record_id: sorted(own, key=lambda part: part[0]) for record_id, own in parts.items()}


def as_stored(bases: bytes) -> bytes:
    return bases.upper()


def check_mask(found: Corpus, options: CorpusOptions, weight: float) -> None:
    """Nucleotides: every letter has its own weight, in train only."""
    for split, path in (("train", options.sources), ("validation", options.validation_sources)):
        stored = segments(found, split)
        for record in read_records(path):
            lower = np.frombuffer(record.bases, np.uint8) > ord("Z")
            wanted = np.where(lower, weight if split == "train" else 1.0, 1.0).astype(np.float32)
            np.testing.assert_array_equal(
                np.concatenate([own for _, _, own in stored[record.id]]), wanted
            )


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_soft_mask(genomes: CorpusOptions, tmp_path: pathlib.Path, weight: float) -> None:
    found = build_corpus(dataclasses.replace(genomes, soft_mask_weight=weight), str(tmp_path))
    check_mask(found, genomes, weight)
    letters = b"".join(r.bases for r in read_records(genomes.sources))
    masked = sum(letter > ord("Z") for letter in letters)
    assert found.manifest["splits"]["train"]["masked"] == masked


def test_planted_fault_the_mask_is_shifted(
    genomes: CorpusOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = pieces.marked
    monkeypatch.setattr(pieces, "marked", lambda t, bases, own: marked(t, bases[1:] + b"A", own))
    found = build_corpus(dataclasses.replace(genomes, soft_mask_weight=0.1), str(tmp_path))
    with pytest.raises(AssertionError):
        check_mask(found, genomes, 0.1)


def test_the_lower_case_of_genbank_masks_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.gb"
    path.write_text("LOCUS       X1       4 bp    DNA\nORIGIN\n        1 acgt\n//\n")
    options = CorpusOptions((str(path),), row_length=64, soft_mask_weight=0.25)
    (row,) = build_corpus(options, str(tmp_path / "d")).source("train")
    assert row["weights"].tolist() == [1, 1, 1, 1]


def test_no_mask_is_stored_without_need(genomes: CorpusOptions, tmp_path: pathlib.Path) -> None:
    found = build_corpus(genomes, str(tmp_path))
    assert set(found.source("train")[0]) == {
        *("tokens", "segment_lengths", "starts", "record_ids"),
    }
    assert found.splits["train"].repeated == 0


@pytest.mark.parametrize("tokenizer", [Nucleotide(), Kmer(3)])
def test_masked_share_of_a_token_in_a_batch(tokenizer: Nucleotide | Kmer) -> None:
    """Also on the other strand, where the weights turn round with the tokens."""
    bases = b"ACgTTtGGGnccc"
    tokens = tokenizer.encode(bases)
    plain, masked = pieces.unmarked(pieces.marked(tokens, bases, tokenizer), tokenizer)
    np.testing.assert_array_equal(plain, tokens)
    assert masked.sum() == sum(letter > ord("Z") for letter in bases)
    weights = (1 - masked / tokenizer.token_lengths[tokens]).astype(np.float32)
    row = {"tokens": tokens, "segment_lengths": np.array([len(tokens)]), "weights": weights}
    rows = GivenRows([row])
    both = loader.Layout(tokenizer, 20)([(rows, 0, False), (rows, 0, True)])
    forward, backward = both["weights"]
    np.testing.assert_array_equal(forward[: len(tokens)][::-1], backward[: len(tokens)])
    expected = weights * (tokenizer.token_bases[tokens] > 0)
    np.testing.assert_array_equal(forward, np.pad(expected, (0, 20 - len(tokens))))
    if isinstance(tokenizer, Kmer):
        np.testing.assert_allclose(forward[:3], [2 / 3, 2 / 3, 1])


def check_wrapped(found: Corpus, options: CorpusOptions) -> None:
    repeated = 0
    stored = segments(found, "train")
    for number, record in enumerate(read_records(options.sources)):
        bases, joined = as_stored(record.bases), b""
        for start, letters, _ in stored[record.id]:
            assert start == len(joined)
            joined += letters
        extra = len(joined) - len(bases)
        assert joined == (bases + bases)[: len(joined)]
        assert extra == 0 or number % 2 == 0
        if number % 2 == 0 and found.manifest["tokenizer"]["name"] == "nucleotide":
            assert extra == min(-len(bases) % options.row_length, len(bases))
        repeated += extra
    info = found.splits["train"]
    assert repeated == info.repeated > 0
    assert info.bases == sum(LENGTHS)
    for name, own in segments(found, "validation").items():
        assert sum(len(letters) for _, letters, _ in own) == LENGTHS[int(name[-1])]
    assert found.splits["validation"].repeated == 0


@pytest.mark.parametrize("block", [pieces.BLOCK_BASES, 84])
@pytest.mark.parametrize("spec", [{"name": "nucleotide"}, {"name": "kmer", "k": 3}])
def test_circular_genomes_wrap(
    genomes: CorpusOptions,
    tmp_path: pathlib.Path,
    spec: dict,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BASES", block)
    options = dataclasses.replace(genomes, tokenizer=spec, wrap_circular=True)
    check_wrapped(build_corpus(options, str(tmp_path)), options)


def test_planted_fault_every_genome_wraps(
    genomes: CorpusOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = pieces.chosen
    monkeypatch.setattr(
        pieces,
        "chosen",
        lambda *args, **own: (s._replace(circular=True) for s in chosen(*args, **own)),
    )
    options = dataclasses.replace(genomes, wrap_circular=True)
    with pytest.raises(AssertionError):
        check_wrapped(build_corpus(options, str(tmp_path)), options)


def test_phases(genomes: CorpusOptions, tmp_path: pathlib.Path) -> None:
    """Each record once in every phase; k-mers of the other phases are those read from there."""
    options = dataclasses.replace(genomes, tokenizer={"name": "kmer", "k": 4}, phases=4)
    found = build_corpus(options, str(tmp_path))
    stored = segments(found, "train")
    tokenizer = Kmer(4)
    for record in read_records(genomes.sources):
        seen = np.zeros(len(record.bases), int)
        bases = as_stored(record.bases)
        for start, letters, _ in stored[record.id]:
            assert bases[start : start + len(letters)] == letters
            seen[start : start + len(letters)] += 1
        np.testing.assert_array_equal(seen, np.minimum(np.arange(len(bases)) + 1, 4))
    all_tokens = np.concatenate(
        [found.source("train")[i]["tokens"] for i in range(len(found.source("train")))]
    )
    wanted = [
        tokenizer.encode(record.bases[phase:])
        for record in read_records(genomes.sources)
        for phase in range(min(4, len(record.bases)))
    ]
    np.testing.assert_array_equal(np.sort(all_tokens), np.sort(np.concatenate(wanted)))
    info = found.splits["train"]
    assert info.bases == sum(LENGTHS)
    assert info.repeated == sum(max(length - p, 0) for length in LENGTHS for p in (1, 2, 3))
    assert info.bases_per_token == (info.bases + info.repeated) / info.tokens
    assert found.splits["validation"].repeated == 0


def test_phases_in_many_shards(
    genomes: CorpusOptions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BASES", 84)
    monkeypatch.setattr(pieces, "BLOCK_BASES", 84)
    monkeypatch.setattr(corpus, "LEAST_SHARD_ROWS", 2)
    test_phases(genomes, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft_mask_weight": -0.5}, "soft_mask_weight is -0.5"),
        ({"phases": 0}, "phases is 0; choose from 1 to 1"),
        ({"phases": 2}, "which have no phase"),
        ({"phases": 5, "tokenizer": {"name": "kmer", "k": 4}}, "choose from 1 to 4"),
        ({"tokenizer": {"name": "kmer", "k": 4, "stride": 1}}, "trivially low"),
    ],
)
def test_mistakes_are_told(
    genomes: CorpusOptions, tmp_path: pathlib.Path, change: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_corpus(dataclasses.replace(genomes, **change), str(tmp_path))
