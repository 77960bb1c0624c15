"""What does the demo run on? Small genomes of a host and a virus whose optima are known exactly.

The process is described in genome_source.py, its probabilities in genome_probability.py; this file
fixes the demo's two sources and writes the files, with the best that any model could do on them
beside.
"""

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.genome_probability import (
    bayes_llr,
    entropy_rate,
    log2_mixture,
    log2_probability,
    optimal_bits_per_base,
)
from data_pipeline.genome_source import STOPS, Source, random_source, sample, sample_many

__all__ = [
    "Source",
    "auroc",
    "bayes_llr",
    "demo_sources",
    "entropy_rate",
    "log2_mixture",
    "log2_probability",
    "optimal_bits_per_base",
    "random_source",
    "sample",
    "sample_many",
    "write_demo",
]

_COLUMNS = (
    *("contig", "label", "length", "source", "group", "cluster", "split", "novelty", "family"),
    *("genus", "phylum", "record", "start", "strand", "organism"),
)
_ROW_LENGTHS = (128, 256, 512, 1024)


def demo_sources(seed: int = 1) -> tuple[Source, Source]:
    """(host, virus): two sources that are drawn alike and differ a little in usage and build.

    Words that read as a stop codon on either strand are made rare, as in GC-rich genomes, so that
    their absence from genes, which only a model that finds the reading frame can use, is worth
    little. With seed 1: entropy rates 1.909 (host) and 1.889 (virus) bits per base, a Markov model
    of order 0, 1 and 2 or more 0.093, 0.027 and 0.012 above; optimal AUROC 0.94, 0.98 and 0.998 at
    300, 500 and 1,000 bases.
    """
    rng = np.random.default_rng(seed)
    gap = rng.gamma(6.0, size=(4, 4)) * rng.gamma(20.0, size=(4, 4, 4))
    gap.reshape(64)[list(STOPS)] *= 0.35
    gene = np.exp(0.12 * rng.standard_normal((3, 4, 4, 4)))

    def differ(weights: np.ndarray, by: float) -> np.ndarray:
        return weights * np.exp(by * rng.standard_normal(weights.shape))

    host = random_source(
        "host",
        differ(gap, 0.1),
        differ(gene, 0.06),
        gap_bases=100,
        gene_codons=250,
        same_strand=0.6,
    )
    virus = random_source(
        "virus",
        differ(gap, 0.1),
        differ(gene, 0.06),
        gap_bases=60,
        gene_codons=200,
        same_strand=0.8,
    )
    return host, virus


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a random positive scores above a random negative; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = np.asarray(labels) == 1
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(ranks) - n)))


@dataclass(frozen=True)
class _Simulated:
    """A sequence to be written, with what its header and its row of the label table say."""

    id: str
    label: int
    bases: bytes
    split: str

    def row(self) -> dict[str, str]:
        kind = ("host", "virus")[self.label]
        return dict.fromkeys(_COLUMNS, "-") | {
            "contig": self.id,
            "label": str(self.label),
            "length": str(len(self.bases)),
            "source": "simulated",
            "group": kind,
            "cluster": self.id,
            "split": self.split,
            "record": self.id,
            "start": "0",
            "strand": "+",
            "organism": f"simulated_{kind}",
        }

    def fasta(self) -> bytes:
        row = self.row()
        keys = ("group", "label", "cluster", "source", "family", "genus", "phylum", "organism")
        words = [self.id, *(f"{key}={row[key]}" for key in keys), f"virus={self.label}"]
        lines = [self.bases[at : at + 80] for at in range(0, len(self.bases), 80)]
        return b"\n".join([b">" + " ".join(words).encode(), *lines, b""])


def write_demo(
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    train_genomes: int = 60,
    validation_genomes: int = 8,
    genome_bases: int = 12_288,
    contigs: int = 200,
    contig_lengths: Sequence[int] = (300, 500, 1000),
) -> dict:
    """Writes simulated host and virus genomes as a small data set; returns what truth.json holds.

    Files: pretrain/train.fa.gz and validation.fa.gz (that many genomes of each of the two demo
    sources), virus/genomes_train.fa.gz (the train genomes again) and virus/validation.fa.gz and
    test.fa.gz (that many contigs per label and length, each of a genome of its own), the last three
    with a label table .tsv; and, last, truth.json, the exact optima on these very sequences (see
    `_truth`). The same seed writes the same bytes. Defaults: 1.5 million bases to train on, in
    about five seconds.
    """
    sources = demo_sources()
    rng = np.random.default_rng(seed)

    def draw(split: str, kind: str, lengths: Sequence[int]) -> list[_Simulated]:
        return [
            _Simulated(f"{split}_{source.name}_{kind}{number}", label, bases, split)
            for label, source in enumerate(sources)
            for number, bases in enumerate(sample_many(source, lengths, rng))
        ]

    train = draw("train", "genome", [genome_bases] * train_genomes)
    genomes = draw("validation", "genome", [genome_bases] * validation_genomes)
    lengths = [n for n in contig_lengths for _ in range(contigs)]
    labelled = {split: draw(split, "contig", lengths) for split in ("validation", "test")}
    folder = Path(folder)
    _write_fasta(folder / "pretrain" / "train.fa.gz", train)
    _write_fasta(folder / "pretrain" / "validation.fa.gz", genomes)
    for name, sequences in (("genomes_train", train), *labelled.items()):
        _write_fasta(folder / "virus" / f"{name}.fa.gz", sequences)
        rows = ["\t".join(_COLUMNS), *("\t".join(s.row().values()) for s in sequences)]
        (folder / "virus" / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    truth = {"seed": seed} | _truth(sources, genomes, labelled)
    temporary = folder / "truth.json.part"
    temporary.write_text(json.dumps(truth, indent=1) + "\n")
    temporary.replace(folder / "truth.json")
    return truth


def _write_fasta(path: Path, sequences: Sequence[_Simulated]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No time and no name inside, so that the bytes depend on the sequences alone.
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
        for sequence in sequences:
            file.write(sequence.fasta())


def _truth(
    sources: tuple[Source, Source],
    genomes: Sequence[_Simulated],
    labelled: Mapping[str, Sequence[_Simulated]],
) -> dict:
    """The optima, in bits per base and as AUROC.

    `entropy_rate`: of each source, with its standard error. `pretrain_validation`: on the
    validation genomes, for a model that is not told the source (1 bit a genome) but reads whole
    genomes (`bits_per_base`, and its standard error over genomes of a source), or only rows of so
    many bases, of which it does not predict the first (`rows`). `bayes_auroc`: of the optimal
    classifier on the contigs, by split, for all of them and by length.
    """
    host, virus = sources
    rates = {source.name: entropy_rate(source) for source in sources}
    bases = [genome.bases for genome in genomes]
    each = -log2_mixture(sources, bases) / [len(genome) for genome in bases]
    labels = np.array([genome.label for genome in genomes])
    scatter = each - np.array([each[labels == label].mean() for label in (0, 1)])[labels]
    truth: dict = {
        "sources": {source.name: source.spec() for source in sources},
        "entropy_rate": {
            name: {"bits_per_base": rate, "standard_error": error}
            for name, (rate, error) in rates.items()
        },
        "pretrain_validation": {
            "bases": sum(map(len, bases)),
            "bits_per_base": optimal_bits_per_base(sources, bases),
            "standard_error": float(np.sqrt(scatter @ scatter / max(len(each) - 2, 1) / len(each))),
            "rows": {
                str(n): optimal_bits_per_base(sources, bases, n, given=1) for n in _ROW_LENGTHS
            },
        },
        "bayes_auroc": {},
    }
    for split, sequences in labelled.items():
        llr = bayes_llr(virus, host, [s.bases for s in sequences])
        labels = np.array([s.label for s in sequences])
        lengths = np.array([len(s.bases) for s in sequences])
        by_length = {
            str(n): auroc(labels[lengths == n], llr[lengths == n]) for n in np.unique(lengths)
        }
        truth["bayes_auroc"][split] = {"all": auroc(labels, llr)} | by_length
    return truth
