"""Do the rows of a codon corpus hold the codon stream of its records, and nothing else?"""

import pathlib
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from data_pipeline import codon_markov, corpus, loader, pieces, writing
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from data_pipeline.frames import FIRST_CODON, FORWARD, Codon
from data_pipeline.packing import Piece
from data_pipeline.reading import read_records
from data_pipeline.six_frames import CODONS, STOP_CODONS

BLOCK = 840
SPEC = {"name": "codon", "min_codons": 10, "max_overlap": 0.3}
CODON = Codon(10)
SENSE = [codon for codon in CODONS if codon not in STOP_CODONS]


def write_genomes(path: pathlib.Path, lengths: list[int], seed: int) -> str:
    """Genes, what lies between them, some Ns and, in the third record, blocks of nothing else."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for i, length in enumerate(lengths):
            parts = [b""]
            while sum(map(len, parts)) < length:
                gene = "".join(rng.choice(SENSE, rng.integers(20, 60))).encode()
                between = rng.choice(np.frombuffer(b"ACGTacgtN", np.uint8), rng.integers(1, 90))
                parts += [gene, between.tobytes()]
            bases = b"".join(parts)[:length]
            if i == 2:
                bases = bases[:BLOCK] + b"N" * 4 * BLOCK + bases[5 * BLOCK :]
            file.write(f">{path.stem}{i} cluster=c{i}\n{bases.decode()}\n")
    return str(path)


@pytest.fixture
def found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(corpus, "BLOCK_BASES", BLOCK)
    monkeypatch.setattr(pieces, "BLOCK_BASES", BLOCK)
    monkeypatch.setattr(corpus, "LEAST_SHARD_ROWS", 8)
    train = write_genomes(tmp_path / "t.fa", [3_000, 50, 9_000, 2, 700, 2 * BLOCK + 1, 900], 0)
    validation = write_genomes(tmp_path / "v.fa", [2_500, 800], 1)
    options = CorpusOptions((train,), (validation,), tokenizer=SPEC, row_length=32)
    return build_corpus(options, str(tmp_path / "corpus"))


def check_holds(found: Corpus, split: str) -> None:
    """Putting segments together by id and start gives the streams of the records' blocks."""
    source = found.source(split)
    parts: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for row in (source[index] for index in range(len(source))):
        assert len(row["tokens"]) <= found.row_length
        segments = np.split(row["tokens"], np.cumsum(row["segment_lengths"])[:-1])
        ids = row["record_ids"].decode().split("\n")
        for record_id, start, tokens in zip(ids, row["starts"].tolist(), segments, strict=True):
            parts[record_id].append((start, tokens))
    tokens = covered = 0
    for record in read_records([file["path"] for file in found.manifest["inputs"][split]]):
        blocks = [record.bases[at : at + BLOCK] for at in range(0, len(record.bases), BLOCK)]
        stream = np.concatenate([CODON.encode(block) for block in blocks])
        own = sorted(parts.pop(record.id, []), key=lambda part: part[0])
        ends = np.cumsum([0, *(len(part) for _, part in own)])
        assert [start for start, _ in own] == ends[:-1].tolist(), f"gap or overlap in {record.id}"
        assert np.array_equal(np.concatenate([stream[:0], *(part for _, part in own)]), stream)
        tokens += len(stream)
        covered += int(CODON.token_lengths[stream].sum())
    assert not parts
    info = found.splits[split]
    assert (info.tokens, info.covered) == (tokens, covered)
    assert info.bases_per_token == covered / tokens


def test_rows_hold_the_stream(found: Corpus) -> None:
    assert found.tokenizer == CODON
    for split in ("train", "validation"):
        check_holds(found, split)
    assert found.splits["train"].bases == 3_000 + 50 + 9_000 + 2 + 700 + 2 * BLOCK + 1 + 900


def without_strands(encode: Callable) -> Callable:
    def wrong(self: Codon, bases: bytes) -> np.ndarray:
        tokens = encode(self, bases)
        return np.where(tokens > FORWARD, FORWARD, tokens)

    return wrong


def test_planted_fault_is_caught(
    found: Corpus, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = (found.manifest["inputs"][s][0]["path"] for s in found.splits)
    options = CorpusOptions((train,), (validation,), tokenizer=SPEC, row_length=32)
    with monkeypatch.context() as patch:
        patch.setattr(Codon, "encode", without_strands(Codon.encode))
        wrong = build_corpus(options, str(tmp_path / "wrong"))
    with pytest.raises(AssertionError):
        check_holds(wrong, "train")
    pack = writing.pack
    monkeypatch.setattr(writing, "pack", lambda own, *rest: pack(shortened(own), *rest))
    with pytest.raises(RuntimeError, match="came out in"):
        build_corpus(options, str(tmp_path / "short"))


def shortened(own: list[Piece]) -> list[Piece]:
    return [Piece(piece.record_id, piece.start, piece.tokens[:-1]) for piece in own]


def test_the_other_strand_of_a_row_is_that_of_each_segment(found: Corpus) -> None:
    """A segment may begin in the middle of a stretch, whose rest must not go to its neighbour."""
    source = found.source("train")
    rows = [source[index] for index in range(len(source))]
    number = max(range(len(rows)), key=lambda index: len(rows[index]["segment_lengths"]))
    row = rows[number]
    segments = np.split(row["tokens"], np.cumsum(row["segment_lengths"])[:-1])
    assert len(segments) > 1
    batch = loader.Layout(CODON, found.row_length)([(source, number, True)])
    flipped = {name: values[0] for name, values in batch.items()}
    for number, segment in enumerate(reversed(segments), start=1):
        inside = flipped["segment_ids"] == number
        expected = CODON.reverse_complement(segment)
        assert np.array_equal(flipped["tokens"][inside], expected)
        assert np.array_equal(flipped["weights"][inside] > 0, CODON.token_bases[expected] > 0)


def codons_predicted(segments: list[np.ndarray], order: int) -> list[tuple[tuple[int, ...], int]]:
    """(context, codon) by definition: walk back until something is no codon or the segment ends."""
    words = []
    for segment in segments:
        for at in range(1, len(segment)):
            if not FIRST_CODON <= segment[at] < FORWARD:
                continue
            context: list[int] = []
            for before in segment[:at][::-1][:order].tolist():
                if not FIRST_CODON <= before < FORWARD:
                    break
                context.insert(0, before)
            words.append((tuple(context), int(segment[at])))
    return words


def test_codon_markov_models_are_those_of_the_definition(found: Corpus) -> None:
    def segments(split: str) -> list[np.ndarray]:
        source = found.source(split)
        rows = [source[index] for index in range(len(source))]
        return [
            s for r in rows for s in np.split(r["tokens"], np.cumsum(r["segment_lengths"])[:-1])
        ]

    train, validation = segments("train"), segments("validation")
    score = codon_markov.fit(train).score(validation)
    bits = np.zeros(4)
    scored = codons_predicted(validation, 3)
    counts: list[dict] = []
    for order in range(4):
        counts.append(defaultdict(lambda: defaultdict(int)))
        for context, codon in codons_predicted(train, order):
            counts[order][context][codon] += 1
    for context, codon in scored:
        p = 1 / 64
        for order in range(4):
            seen = counts[order][context[max(len(context) - order, 0) :]]
            strength = score.strengths[order]
            p = (seen[codon] + strength * p) / (sum(seen.values()) + strength)
            bits[order] -= np.log2(p)
    expected = {k: (b + 4 * (k + 1)) / len(scored) / 3 for k, b in enumerate(bits)}
    assert score.bits == pytest.approx(expected, rel=1e-12)
    floor = found.manifest["markov"]
    assert floor["bits_per_base"] == {str(k): b for k, b in score.bits.items()}
    assert floor["unit"] == "codon"
    # The very bases that a model's loss is divided by.
    source = found.source("validation")
    every = range(len(source))
    batches = loader.in_order(source, CODON, 32, batch_rows=8, numbers=every)
    bases = 0
    for batch in batches:
        same = batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
        predicted = same & (batch["weights"][:, 1:] > 0)
        bases += int(CODON.token_bases[batch["tokens"][:, 1:]][predicted].sum())
    assert floor["scored_bases"] == bases == score.scored


def test_an_independent_chain_reaches_its_entropy() -> None:
    """Codons drawn at random by known frequencies: no order does better, none blows up."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.full(64, 1.0))
    codons = (rng.choice(64, 60_000, p=shares) + FIRST_CODON).astype(np.uint8)
    score = codon_markov.fit([codons[:50_000]]).score([codons[50_000:]])
    entropy = -float(shares @ np.log2(shares)) / 3
    assert all(bits == pytest.approx(entropy, abs=0.02) for bits in score.bits.values())
    assert codon_markov.fit([]).score([codons[:1]]).scored == 0
