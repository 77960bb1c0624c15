"""What do training and scoring need of a classifier? Three functions, whatever is inside."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax

from dnallm_jax.model.classifier import (
    Classifier,
    embeddings,
    head_logits,
    normalised,
    pooled_rows,
    virus_logits,
)
from dnallm_jax.model.composition import CompositionSpec, Perceptrons, composition_logits
from dnallm_jax.model.gpt import Execution, GPTSpec, Params, initialise, logical_axes

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Pooled:
    """A network that reads a mean over a sequence's tokens, in however many rows these lie.

    Attributes:
      rows: (parameters, batch) -> float32 [B, D], the mean over the tokens of each row, and beside
        it float32 [B], the logarithm of what they weigh together. (Joined to one array they make a
        fusion that XLA for GPUs does not compile for some lengths of rows.)
      embeddings: float32 [B, D], means over sequences -> float32 [B, D].
      logits: (parameters, such means) -> float32 [S, B].
    """

    rows: Callable[[Params, Batch], tuple[jax.Array, jax.Array]]
    embeddings: Callable[[jax.Array], jax.Array]
    logits: Callable[[Params, jax.Array], jax.Array]


@dataclass(frozen=True)
class Network:
    """A classifier as pure functions.

    Attributes:
      initialise: seed -> fresh parameters, a nested dict of float32 arrays.
      axes: the logical axis names of every parameter, in the structure of the parameters.
      logits: (parameters, batch) -> float32 [S, B], the log-odds by each of S networks, before
        calibration. A batch that holds the number of its training step under `step` is trained on:
        what is random about that depends on `step` alone.
      description: JSON values from which the network can be made again.
      embeddings: (parameters, batch) -> float32 [B, D], what the last layer reads; None where that
        is no summary of a sequence.
      held: top-level parameters that training does not move.
      finished: trained parameters -> those of the network that `description` describes, where
        these are not the same.
      pooled: the two steps of `logits` one by one; None where rows cannot be split.
    """

    initialise: Callable[[int], Params]
    axes: Any
    logits: Callable[[Params, Batch], jax.Array]
    description: dict[str, Any]
    embeddings: Callable[[Params, Batch], jax.Array] | None = None
    held: tuple[str, ...] = ()
    finished: Callable[[Params], Params] | None = None
    pooled: Pooled | None = None


def gpt_network(
    spec: GPTSpec,
    run: Execution,
    *,
    pooling: str,
    causal: bool,
    dropout: float = 0.0,
    seed: int = 0,
) -> Network:
    """A GPT's backbone under a binary head; reads `tokens`, `segment_ids` and `positions`.

    Args:
      dropout: the share of the head's inputs that it does not see in training.
      seed: of what is dropped.
    """
    module = functools.partial(Classifier, pooling=pooling)

    def applied(function: Callable[..., Any], p: Params, batch: Batch, **how: Any) -> Any:
        read = (batch[name] for name in ("tokens", "segment_ids", "positions"))
        return function(p, spec, run, *read, pooling=pooling, causal=causal, **how)

    def logits(p: Params, batch: Batch) -> jax.Array:
        how = {"key": _of_step(seed, batch), "dropout": dropout} if dropout else {}
        return applied(virus_logits, p, batch, **how)[None]

    pooled = Pooled(
        rows=lambda p, batch: applied(pooled_rows, p, batch),
        embeddings=normalised,
        logits=lambda p, means: head_logits(p, normalised(means))[None],
    )
    return Network(
        initialise=lambda seed: initialise(module, spec, seed=seed),
        axes=logical_axes(module, spec),
        logits=logits,
        description={"kind": "gpt", **asdict(spec), "pooling": pooling, "causal": causal},
        embeddings=lambda p, batch: applied(embeddings, p, batch),
        pooled=None if pooling == "last" else pooled,
    )


def composition_network(
    spec: CompositionSpec, *, seed: int = 0, standard: Params | None = None
) -> Network:
    """Small networks side by side on `features`.

    Args:
      seed: of what is dropped in training.
      standard: what `composition.standardisation` says of training windows; needed to train.
    """

    def make(start: int) -> Params:
        return {**initialise(Perceptrons, spec, seed=start), **(standard or {})}

    def logits(p: Params, batch: Batch) -> jax.Array:
        return composition_logits(p, spec, batch["features"], key=_of_step(seed, batch))

    return Network(
        initialise=make,
        axes=logical_axes(Perceptrons, spec),
        logits=logits,
        description={"kind": "composition", **asdict(spec)},
    )


def _of_step(seed: int, batch: Batch) -> jax.Array | None:
    """The key of what is random about a batch that is trained on; None for one that is not."""
    if "step" not in batch:
        return None
    return jax.random.fold_in(jax.random.key(seed), batch["step"])


def make_network(description: Mapping[str, Any], run: Execution) -> Network:
    """The network that a `Network.description` describes, for scoring."""
    values = dict(description)
    kind = values.pop("kind")
    if kind == "gpt":
        how = {key: values.pop(key) for key in ("pooling", "causal")}
        return gpt_network(GPTSpec(**values), run, **how)
    if kind == "composition":
        spec = CompositionSpec(**{**values, "widths": tuple(values["widths"])})
        return composition_network(spec)
    raise ValueError(f"unknown kind of network {kind!r}")
