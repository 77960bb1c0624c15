"""Do the same sources and options still give the same rows? If not, they must be another data set.

The code is part of a data set's identity by `corpus.CODE_VERSION`, `corpus.MASK_VERSION` and
`contigs.CODE_VERSION`: a test that fails here says that one of them has to be raised, or old rows
would be taken for new ones. Then write what

    JAX_PLATFORMS=cpu python -m tests.data_pipeline.test_golden_rows

prints into GOLDEN, and the versions with it.
"""

import hashlib
import pathlib
import random
import tempfile
from typing import Any

import numpy as np
import pytest

from data_pipeline import contigs, corpus
from data_pipeline.contigs import ContigsOptions, build_contigs
from data_pipeline.corpus import CorpusOptions, build_corpus
from data_pipeline.tokenizers import Nucleotide

VERSIONS = (4, 2, 1)  # corpus.CODE_VERSION, corpus.MASK_VERSION, contigs.CODE_VERSION
OPTIONS: dict[str, dict[str, Any]] = {
    "nucleotides": {},
    "named clusters": {"cluster_key": "cluster", "exclude": ("virus=1",), "max_bases": 9_000},
    "masked": {"soft_mask_weight": 0.5},
    "k-mers in phases": {"tokenizer": {"name": "kmer", "k": 3}, "phases": 3},
    "wrapped": {"wrap_circular": True, "tokenizer": {"name": "kmer", "k": 4}},
    "codons": {"tokenizer": {"name": "codon", "min_codons": 5, "max_overlap": 0.3}},
}
GOLDEN = {
    "nucleotides": "e598a21292bedb3f",
    "named clusters": "3e88a8303f43fdb3",
    "masked": "e198da7b6081dfbd",
    "k-mers in phases": "a8114fcf22b3ba8e",
    "wrapped": "cfa56fd29393679e",
    "codons": "95ffdd571ca380b6",
    "contigs": "ff4a922c0a7c40de",
}


def sources(folder: pathlib.Path) -> tuple[str, ...]:
    """A file of each format."""
    draw = random.Random(0)

    def bases(letters: str = "ACGTacgtNR") -> str:
        return "".join(draw.choices(letters, k=draw.choice((30, 64, 500, 1_500, 2_500))))

    fasta = "".join(
        f">f{i} cluster=c{i % 4} group=g{i % 2} label={i % 2} virus={int(i == 3)}"
        f"{' topology=circular' * (i % 2)}\n{bases()}\n"
        for i in range(8)
    )
    reads = [bases("ACGTN") for _ in range(6)]
    fastq = "".join(
        f"@q{i} cluster=q{i} label=0\n{read}\n+\n{'I' * len(read)}\n"
        for i, read in enumerate(reads)
    )
    table = "id,label,cluster,sequence\n" + "".join(f"t{i},1,t{i},{bases()}\n" for i in range(4))
    files = {"a.fa": fasta, "b.fq": fastq, "c.csv": table}
    for name, text in files.items():
        (folder / name).write_text(text)
    return tuple(str(folder / name) for name in files)


def genbank(folder: pathlib.Path) -> str:
    """It has no header words, so it goes without named clusters and labels."""
    text = ""
    for i in range(3):
        letters = "".join(random.Random(100 + i).choices("acgtn", k=700))
        rows = "".join(f"{at + 1:>9} {letters[at : at + 60]}\n" for at in range(0, 700, 60))
        text += f"LOCUS       G{i}    700 bp    DNA     circular\nORIGIN\n{rows}//\n"
    (folder / "d.gb").write_text(text)
    return str(folder / "d.gb")


def of_corpus(folder: pathlib.Path, options: dict[str, Any]) -> str:
    """A hash of the rows of a corpus, with all that a row has, and of where the records went."""
    given = sources(folder)
    if "cluster_key" not in options:
        given = (*given, genbank(folder))
    built = build_corpus(
        CorpusOptions(given, validation_fraction=0.2, row_length=64, seed=1, **options),
        str(folder / "d"),
    )
    digest = hashlib.sha256()
    for record in built.records():
        digest.update("\t".join((record["id"], record["split"], record["cluster"])).encode())
    for split in ("train", "validation"):
        source = built.source(split)
        for index in range(len(source)):
            row = source[index]
            for name in ("tokens", "segment_lengths", "starts", "weights"):
                kind = np.float32 if name == "weights" else np.int64
                digest.update(np.asarray(row.get(name, []), kind).tobytes())
            digest.update(row["record_ids"])
    return digest.hexdigest()[:16]


def of_contigs(folder: pathlib.Path) -> str:
    """The same of labelled records."""
    built = build_contigs(
        ContigsOptions(sources(folder), validation_fraction=0.2), str(folder / "d")
    )
    digest = hashlib.sha256()
    for split in ("train", "validation"):
        source = built.source(split)
        for index in range(len(source)):
            record = source[index]
            digest.update(b"\t".join((record["id"], record["cluster"], record["group"])))
            digest.update(record["bases"].tobytes() + bytes([record["label"]]))
    return digest.hexdigest()[:16]


def found(name: str, folder: pathlib.Path) -> str:
    """What stands in GOLDEN."""
    return of_contigs(folder) if name == "contigs" else of_corpus(folder, OPTIONS[name])


@pytest.fixture(autouse=True)
def _few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MARKOV_ORDERS", range(2))  # for speed


@pytest.mark.parametrize("name", [*OPTIONS, "contigs"])
def test_rows_are_those_of_their_version(name: str, tmp_path: pathlib.Path) -> None:
    assert (corpus.CODE_VERSION, corpus.MASK_VERSION, contigs.CODE_VERSION) == VERSIONS
    assert found(name, tmp_path) == GOLDEN[name], "raise the version: see above"


def test_planted_change_of_the_code(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Nucleotide.encode
    monkeypatch.setattr(Nucleotide, "encode", lambda self, bases: encode(self, bases[::-1]))
    assert found("nucleotides", tmp_path) != GOLDEN["nucleotides"]


if __name__ == "__main__":
    for each in (*OPTIONS, "contigs"):
        with tempfile.TemporaryDirectory() as place:
            print(f'    "{each}": "{found(each, pathlib.Path(place))}",')
