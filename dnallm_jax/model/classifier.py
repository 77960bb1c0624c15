"""How does the backbone become a virus detector? Pool the hidden states, one logit a sequence."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dnallm_jax.model.composition import dropped
from dnallm_jax.model.gpt import Backbone, Execution, GPTSpec, Params, _param, _scale, hidden_states

POOLINGS = ("mean", "last", "attention")
NOTHING = -1e30  # the logarithm of no weight: finite, so that differences of it are


class Classifier(nnx.Module):
    """The backbone of a GPT (no language-model head) and a binary head that starts at zero.

    What attention looks for starts at zero too, so that it starts as the mean.
    """

    def __init__(self, spec: GPTSpec, rngs: nnx.Rngs, pooling: str = "mean") -> None:
        self.backbone = Backbone(spec, rngs)
        if pooling == "attention":
            self.pool_query = _param(rngs, (spec.width,), (None,), 0.0)
        self.head_norm = _scale((spec.width,))
        self.head_kernel = _param(rngs, (spec.width,), (None,), 0.0)
        self.head_bias = _param(rngs, (), (), 0.0)


def pool(
    x_BLD: jax.Array,
    segment_ids_BL: jax.Array,
    pooling: str,
    query_D: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """float32 [B, D]: a mean over the tokens that are not padding, or the last of them.

    `attention` weighs them by a softmax of their products with one learned query. A row of nothing
    but padding gives zeros. Beside it, float32 [B]: the logarithm of what the row's tokens weigh
    together, by which such means of several rows are one over all of their tokens.
    """
    x_BLD = x_BLD.astype(jnp.float32)
    valid_BL = segment_ids_BL > 0
    if pooling == "mean":
        weight_BL = jnp.zeros(valid_BL.shape)
    elif pooling == "last":
        index_L = jnp.arange(valid_BL.shape[1])
        valid_BL &= index_L == jnp.max(index_L * valid_BL, axis=1, keepdims=True)
        weight_BL = jnp.zeros(valid_BL.shape)
    elif pooling == "attention" and query_D is not None:
        weight_BL = (x_BLD @ query_D) * query_D.size**-0.5
    else:
        raise ValueError(f"unknown pooling {pooling!r}; known: {', '.join(POOLINGS)}")
    weight_BL = jnp.where(valid_BL, weight_BL, NOTHING)
    share_BL = jax.nn.softmax(weight_BL, axis=1) * valid_BL
    return jnp.einsum("BLD,BL->BD", x_BLD, share_BL), jax.nn.logsumexp(weight_BL, axis=1)


def pooled_rows(
    p: Params,
    spec: GPTSpec,
    run: Execution,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    positions_BL: jax.Array,
    *,
    pooling: str = "mean",
    causal: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """The hidden states of each row, pooled: float32 [B, D] and [B] as of `pool`."""
    x_BLD = hidden_states(
        p["backbone"], spec, run, tokens_BL, segment_ids_BL, positions_BL, causal=causal
    )
    return pool(x_BLD, segment_ids_BL, pooling, p.get("pool_query"))


def normalised(pooled_BD: jax.Array) -> jax.Array:
    """Pooled hidden states as the head reads them: of mean 0 and variance 1."""
    centred = pooled_BD - pooled_BD.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def head_logits(
    p: Params, embeddings_BD: jax.Array, *, key: jax.Array | None = None, dropout: float = 0.0
) -> jax.Array:
    """float32 [B]: what the head makes of normalised hidden states.

    With a `key`, for training, it does not see a random share `dropout` of them.
    """
    seen_BD = dropped(embeddings_BD * p["head_norm"], key, 0, dropout)
    return seen_BD @ p["head_kernel"] + p["head_bias"]


def embeddings(p: Params, *arguments: Any, **how: Any) -> jax.Array:
    """float32 [B, D]: the pooled hidden states of each row, normalised, as the head reads them.

    Arguments as of `pooled_rows`.
    """
    return normalised(pooled_rows(p, *arguments, **how)[0])


def virus_logits(
    p: Params, *arguments: Any, key: jax.Array | None = None, dropout: float = 0.0, **how: Any
) -> jax.Array:
    """float32 [B]: the log-odds, before calibration, that each row is viral.

    Arguments as of `pooled_rows`; `key` and `dropout` as of `head_logits`.
    """
    return head_logits(p, embeddings(p, *arguments, **how), key=key, dropout=dropout)
