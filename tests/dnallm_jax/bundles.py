"""What do tests of a detector run on? A small bundle of a random network, and labelled contigs."""

import dataclasses
import pathlib

import jax
import numpy as np

from data_pipeline.contigs import Contigs, ContigsOptions, Validation, build_contigs
from data_pipeline.tokenizers import from_spec
from dnallm_jax.evaluation.aggregation import Windows
from dnallm_jax.model.classifier import Classifier
from dnallm_jax.model.network import gpt_network
from dnallm_jax.scoring.bundle import Predictions, Reading, write_bundle
from tests.dnallm_jax.tiny import RUN, SPEC, numpy_params

PROVENANCE = {
    "step": 20,
    "steps": 40,
    "backbone": {"kind": "pretrain", "bases_seen": 1_000_000},
    "data": "0" * 64,
    "config": {},
    "versions": {"python": "3"},
}


def reading(view: str = "bases", window: int = 300) -> Reading:
    """A tiny network and how it reads."""
    tokenizer = {"name": "kmer", "k": 3} if view == "frames" else {"name": "nucleotide"}
    spec = dataclasses.replace(SPEC, vocab_size=from_spec(tokenizer).vocab_size)
    network = gpt_network(spec, RUN, pooling="mean", causal=True)
    return Reading(network.description, tokenizer, view, window)


def validation_table(records: int = 400) -> dict[str, np.ndarray]:
    """Predictions that a detector of middling skill might give, one without a score."""
    rng = np.random.default_rng(0)
    label = np.arange(records) % 2
    logit = rng.normal(2.0 * label - 0.5, 1.5)
    logit[7] = np.nan
    text = {name: np.full(records, "-") for name in ("group", "family", "novelty", "organism")}
    return {
        "sequence_id": np.array([f"contig{number}" for number in range(records)]),
        "label": label,
        "length": rng.choice([200, 500], records),
        "logit_gpt": logit,
        "windows_gpt": one_window_each(logit),
        "cluster": np.array([f"cluster{number // 4}" for number in range(records)]),
        **text,
    }


def one_window_each(logits: np.ndarray) -> np.ndarray:
    """The column `windows_NAME` of records that are no longer than a window."""
    return np.array([Windows(np.array([z]), np.ones(1)) for z in logits], dtype=object)


def write_tiny_bundle(folder: pathlib.Path, view: str = "bases", window: int = 300) -> dict:
    """Writes a bundle of a random network; returns its parameters."""
    how = reading(view, window)
    spec = dataclasses.replace(SPEC, vocab_size=how.network["vocab_size"])
    params = jax.tree.map(jax.numpy.asarray, numpy_params(Classifier, spec))
    write_bundle(
        folder,
        {"gpt": params},
        {"gpt": how},
        Predictions(Validation, validation_table()),
        false_positive_rate=0.05,
        provenance=PROVENANCE,
    )
    return params


def random_bases(length: int, seed: int) -> bytes:
    """Letters A, C, G and T."""
    letters = np.random.default_rng([seed, length]).choice(np.frombuffer(b"ACGT", "S1"), length)
    return letters.tobytes()


def write_contigs(folder: pathlib.Path, *, validation: int = 24) -> Contigs:
    """A data set with a validation split sorted by class, some of its contigs without a cluster."""
    for seed, (split, count) in enumerate((("train", 8), ("validation", validation))):
        with (folder / f"{split}.fa").open("w") as file:
            for number in range(count):
                label = int(number >= count // 2)
                cluster = "-" if number % 3 == 0 else f"c{split}{number // 4}"
                file.write(f">{split}{number} label={label} cluster={cluster} group=g{label}\n")
                file.write(
                    random_bases(200 + 100 * (number % 2), 1_000 * seed + number).decode() + "\n"
                )
    options = ContigsOptions(
        train=(str(folder / "train.fa"),), validation=(str(folder / "validation.fa"),)
    )
    return build_contigs(options, str(folder / "contigs"))
