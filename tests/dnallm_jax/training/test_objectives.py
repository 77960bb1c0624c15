"""Is the loss a sum over the right targets, in bases, whatever the tokenizer?"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from data_pipeline.loader import layout, stack
from data_pipeline.tokenizers import Kmer, Nucleotide, Tokenizer
from dnallm_jax.model.classifier import Classifier, virus_logits
from dnallm_jax.model.gpt import GPT
from dnallm_jax.model.network import gpt_network
from dnallm_jax.training import objectives
from dnallm_jax.training.objectives import next_token_targets
from dnallm_jax.training.pretraining import bits_per_base
from tests.dnallm_jax.tiny import RUN, SPEC, numpy_params, packed, quick_jit

N = 1  # the id of an ambiguous base
TRIMERS = Kmer(3)


def mixed_batch() -> dict[str, np.ndarray]:
    """3-mers, single bases and N, in segments (one of a single token) and padding."""
    rows = [[b"ACGTTGNACGGTAC", b"A", b"GGGTTTCC"], [b"NNNNNNACG"], []]
    pieces = [[TRIMERS.encode(piece) for piece in row] for row in rows]
    return stack([layout(row, 16, TRIMERS) for row in pieces])


def targets_by_hand(batch: dict[str, np.ndarray]) -> dict[tuple[int, int], int]:
    """(row, place) -> the next token, wherever one counts."""
    counted = {}
    for row, ids in enumerate(batch["segment_ids"]):
        for place in range(len(ids) - 1):
            target = int(batch["tokens"][row, place + 1])
            if ids[place] == ids[place + 1] != 0 and target != N:
                counted[row, place] = target
    return counted


def wrong_targets(targets: Callable, batch: dict[str, np.ndarray]) -> list[str]:
    """How what `targets` says differs from the list made by hand."""
    tokens, weights = (np.asarray(a) for a in targets(jax.tree.map(jnp.asarray, batch)))
    wanted = targets_by_hand(batch)
    counted = {(int(r), int(p)): int(tokens[r, p]) for r, p in np.argwhere(weights > 0)}
    return [
        f"{place}: {counted.get(place)} instead of {wanted.get(place)}"
        for place in sorted(counted.keys() | wanted.keys())
        if counted.get(place) != wanted.get(place) or weights[place] != 1
    ]


def test_targets_are_the_next_tokens_of_a_segment_without_n() -> None:
    assert wrong_targets(next_token_targets, mixed_batch()) == []
    # A full row: the first token is never the target of the last one.
    assert wrong_targets(next_token_targets, packed([[16], [9, 7]], 16)) == []


@pytest.mark.parametrize("fault", ["across segments", "N counts", "this token"])
def test_wrong_targets_are_caught(fault: str) -> None:
    def planted(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        if fault == "across segments":
            batch = {**batch, "segment_ids": jnp.minimum(batch["segment_ids"], 1)}
        if fault == "N counts":
            batch = {**batch, "weights": (batch["segment_ids"] > 0).astype(jnp.float32)}
        targets, weights = next_token_targets(batch)
        return (batch["tokens"] if fault == "this token" else targets), weights

    assert wrong_targets(planted, mixed_batch())


def sums_of(
    batch: dict[str, np.ndarray], tokenizer: Tokenizer, **settings: float
) -> dict[str, float]:
    """The sums where `next_token_logits` is replaced by fixed numbers: without a network."""
    objective = functools.partial(objectives.next_token, {}, spec=SPEC, run=RUN, **settings)
    return quick_jit(functools.partial(objective, token_bases=tokenizer.token_bases))(batch)


def test_bits_per_base_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = mixed_batch()
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*batch["tokens"].shape, TRIMERS.vocab_size)).astype(np.float32)
    monkeypatch.setattr(objectives, "next_token_logits", lambda *_: jnp.asarray(logits))
    sums = sums_of(batch, TRIMERS)
    nats, bases, right = 0.0, 0, 0
    for (row, place), target in targets_by_hand(batch).items():
        scores = np.exp(logits[row, place].astype(np.float64))
        nats -= np.log(scores[target] / scores.sum())
        bases += 3 if target >= TRIMERS.first_kmer else 1
        right += int(scores.argmax() == target)
    assert bases > len(targets_by_hand(batch)) > 5
    assert float(sums["loss"]) == pytest.approx(nats, rel=1e-5)
    assert float(sums["weight"]) == bases
    assert float(sums["tokens"]) == len(targets_by_hand(batch))
    assert float(sums["correct"]) == right
    assert bits_per_base(sums) == pytest.approx(nats / np.log(2) / bases, rel=1e-5)


def test_the_penalty_is_that_of_the_log_partition_and_leaves_the_loss_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = mixed_batch()
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*batch["tokens"].shape, TRIMERS.vocab_size)).astype(np.float32)

    def sums_at(shift: float) -> dict[str, float]:
        """Adding a number to all logits changes no probability."""
        monkeypatch.setattr(objectives, "next_token_logits", lambda *_: jnp.asarray(logits + shift))
        return sums_of(batch, TRIMERS, z_loss=0.01)

    sums, shifted = sums_at(0.0), sums_at(2.0)
    partitions = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
    places = [partitions[place] for place in targets_by_hand(batch)]
    for got, shift in ((sums, 0.0), (shifted, 2.0)):
        wanted = 0.01 * sum((partition + shift) ** 2 for partition in places)
        assert float(got["penalty"]) == pytest.approx(wanted, rel=1e-5)
    assert float(shifted["loss"]) == pytest.approx(float(sums["loss"]), rel=1e-5)
    assert "penalty" not in sums_of(batch, TRIMERS)


def test_a_uniform_model_has_two_bits_a_base_whatever_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letters = np.random.default_rng(0).choice(list("ACGT"), 48)
    bases = "".join(letters).encode()
    for tokenizer, known in ((Nucleotide(), slice(2, None)), (TRIMERS, slice(6, None))):
        batch = stack([layout([tokenizer.encode(bases)], 48, tokenizer)])
        # Uniform over the letters (or 3-mers) of the sequence, nothing for all other tokens.
        logits = np.full((1, 48, tokenizer.vocab_size), -1e9, np.float32)
        logits[..., known] = 0
        monkeypatch.setattr(
            objectives, "next_token_logits", lambda *_, values=logits: jnp.asarray(values)
        )
        sums = sums_of(batch, tokenizer)
        assert bits_per_base(sums) == pytest.approx(2, rel=1e-6)


def test_a_packed_row_has_the_loss_of_its_segments_alone() -> None:
    params = numpy_params(GPT)
    objective = quick_jit(
        functools.partial(
            objectives.next_token, spec=SPEC, run=RUN, token_bases=Nucleotide().token_bases
        )
    )
    together = packed([[20, 1, 25], []], 48)
    pieces = np.split(together["tokens"][0, :46], [20, 21])
    sums = objective(params, together)
    parts = [
        objective(params, stack([layout(p, 48, Nucleotide()) for p in ([one], [other])]))
        for one, other in ((pieces[0], pieces[1]), (pieces[2], pieces[1]))
    ]
    for key in sums:
        # The segment of one token has no target: it counts nothing, however often.
        assert float(sums[key]) == pytest.approx(sum(float(p[key]) for p in parts), rel=1e-5)


def virus_batch() -> dict[str, np.ndarray]:
    batch = packed([[20], [32], [10, 12], []], 32)
    batch["labels"] = np.array([1, 0, 1, 0], np.float32)
    batch["example_weights"] = np.array([1, 2, 0.5, 0], np.float32)
    return batch


def test_binary_cross_entropy_is_that_of_scikit_learn() -> None:
    params = numpy_params(Classifier)
    batch = virus_batch()
    # A clearly wrong and a clearly right answer, so that `correct` has both to count.
    params["head_kernel"] = 5 * params["head_kernel"]

    @quick_jit
    def both(p: dict, b: dict) -> tuple:
        arrays = (b[key] for key in ("tokens", "segment_ids", "positions"))
        logits = virus_logits(p, SPEC, RUN, *arrays, pooling="mean", causal=True)
        network = gpt_network(SPEC, RUN, pooling="mean", causal=True)
        sums = objectives.virus(p, b, logits=network.logits)
        return logits, sums

    logits, sums = both(params, batch)
    probabilities = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    weights, labels = batch["example_weights"], batch["labels"]
    wanted = log_loss(labels, probabilities, normalize=False, sample_weight=weights)
    assert float(sums["loss"]) == pytest.approx(wanted, rel=1e-5)
    assert float(sums["weight"]) == 3.5
    assert float(sums["tokens"]) == 74
    assert float(sums["correct"]) == weights[(probabilities > 0.5) == labels].sum()
    unweighted = log_loss(labels, probabilities, normalize=False)
    assert float(sums["loss"]) != pytest.approx(unweighted, rel=1e-2), "the weights change nothing"
