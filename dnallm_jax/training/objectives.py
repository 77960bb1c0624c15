"""What is minimised? Next-token loss for pre-training, binary cross-entropy for virus / not-virus.

An objective maps (params, batch) to sums (of nats, of weights, and more), not means, so that
batches, devices and accumulation steps add up exactly and are divided once. What is minimised is
`loss`, and a `penalty` where there is one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnallm_jax.model.gpt import Execution, GPTSpec, Params, next_token_logits

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


def next_token_targets(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(int32 [B, L] target of each token, float32 [B, L] its weight, 0 to 1).

    The target of a token is the next one of its own segment; the last token of a segment, padding
    and targets without weight (N) count nothing.
    """
    tokens, segments = batch["tokens"], batch["segment_ids"]
    targets = jnp.roll(tokens, -1, axis=1)
    same = (jnp.roll(segments, -1, axis=1) == segments) & (segments > 0)
    same = same.at[:, -1].set(False)
    return targets, jnp.where(same, jnp.roll(batch["weights"], -1, axis=1), 0.0)


def next_token(
    p: Params,
    batch: Batch,
    *,
    spec: GPTSpec,
    run: Execution,
    token_bases: np.ndarray,
    z_loss: float = 0.0,
) -> Sums:
    """Sums of: `loss` nats and `weight` bases over weighted targets, `tokens` counted, `correct`.

    Args:
      token_bases: int32 [V], how many bases a token stands for, so that loss / ln 2 / weight is
        bits per base whatever the tokenizer.
      z_loss: above 0, there is also a `penalty`: so many times the squared log-partition of the
        logits (Chowdhery et al. 2022), which keeps them from drifting; it is minimised with the
        loss and is no part of it.
    """
    logits = next_token_logits(
        p, spec, run, batch["tokens"], batch["segment_ids"], batch["positions"]
    )
    targets, weights = next_token_targets(batch)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    counted = weights > 0
    penalty = {}
    if z_loss:
        log_partition = jax.nn.logsumexp(logits, axis=-1)
        penalty["penalty"] = z_loss * jnp.sum(weights * log_partition**2)
    return penalty | {
        "loss": jnp.sum(nats * weights),
        "weight": jnp.sum(weights * jnp.asarray(token_bases, jnp.float32)[targets]),
        "tokens": jnp.sum(counted.astype(jnp.float32)),
        "correct": jnp.sum((counted & (jnp.argmax(logits, -1) == targets)).astype(jnp.float32)),
    }


def virus(p: Params, batch: Batch, *, logits: Callable[[Params, Batch], jax.Array]) -> Sums:
    """Sums of: `loss` nats of binary cross-entropy, `weight` examples, `correct` at log-odds 0.

    `logits` gives float32 [S, B], those of S networks: the loss is the mean of their losses, and
    the mean of their log-odds is right or wrong. `tokens` counts those that are not padding, or the
    rows of a batch without tokens.
    """
    logits_SB = logits(p, batch)
    labels, weights = batch["labels"], batch["example_weights"]
    nats = optax.sigmoid_binary_cross_entropy(logits_SB, labels).mean(axis=0)
    tokens = batch["segment_ids"] > 0 if "segment_ids" in batch else jnp.ones_like(labels)
    return {
        "loss": jnp.sum(nats * weights),
        "weight": jnp.sum(weights),
        "tokens": jnp.sum(tokens.astype(jnp.float32)),
        "correct": jnp.sum(weights * ((logits_SB.mean(axis=0) > 0) == (labels > 0.5))),
    }
