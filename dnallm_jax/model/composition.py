"""Is a piece of DNA viral by its make-up alone? A small network on its features, no sequence.

The features (float32 [B, E], `data_pipeline.views.Composition`) are shares of k-mers, codons and
pairs of amino acids. Their square roots are standardised by the mean and the spread that training
windows had; both are stored with the parameters and never trained.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dnallm_jax.model.gpt import Params, _param

_FURTHEST = 8.0  # standard deviations; a feature never seen in training must not decide alone
_SMALLEST_SPREAD = 1e-3


@dataclasses.dataclass(frozen=True)
class CompositionSpec:
    """The network's dimensions, and how much of it is hidden from each training example."""

    features: int
    widths: tuple[int, ...] = (768, 256)
    networks: int = 1  # so many side by side, from different starts; their log-odds are averaged
    dropout: float = 0.5  # share of hidden units
    feature_dropout: float = 0.2  # share of features


class Perceptrons(nnx.Module):
    """S networks of GELU units, each with one output that starts at zero.

    Each parameter that is trained carries a leading axis of S networks.
    """

    def __init__(self, spec: CompositionSpec, rngs: nnx.Rngs) -> None:
        S = spec.networks
        self.feature_mean = nnx.Param(jnp.zeros(spec.features, jnp.float32), axes=(None,))
        self.feature_spread = nnx.Param(jnp.ones(spec.features, jnp.float32), axes=(None,))
        sizes = [spec.features, *spec.widths]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            std = (2 / inputs) ** 0.5
            kernel = _param(rngs, (S, inputs, outputs), (None, None, None), std)
            setattr(self, f"hidden_{number}", kernel)
            setattr(self, f"bias_{number}", _param(rngs, (S, outputs), (None, None), 0.0))
        self.head_kernel = _param(rngs, (S, sizes[-1]), (None, None), 0.0)
        self.head_bias = _param(rngs, (S,), (None,), 0.0)


def standardisation(features: np.ndarray) -> Params:
    """`feature_mean` and `feature_spread`, float32 [E], of training windows, float32 [N, E]."""
    roots = np.sqrt(features)
    spread = np.maximum(roots.std(axis=0), _SMALLEST_SPREAD)
    return {
        "feature_mean": roots.mean(axis=0).astype(np.float32),
        "feature_spread": spread.astype(np.float32),
    }


def composition_logits(
    p: Params, spec: CompositionSpec, features_BE: jax.Array, *, key: jax.Array | None = None
) -> jax.Array:
    """float32 [S, B]: the log-odds, before calibration, that each row is viral, by each network.

    With a `key`, for training, a random part of features and hidden units is dropped.
    """
    mean, spread = map(jax.lax.stop_gradient, (p["feature_mean"], p["feature_spread"]))
    standard_BE = jnp.clip((jnp.sqrt(features_BE) - mean) / spread, -_FURTHEST, _FURTHEST)
    x_SBD = jnp.broadcast_to(standard_BE, (spec.networks, *standard_BE.shape))
    x_SBD = dropped(x_SBD, key, 0, spec.feature_dropout)
    for number in range(len(spec.widths)):
        y_SBD = jnp.einsum("SBE,SED->SBD", x_SBD, p[f"hidden_{number}"])
        x_SBD = jax.nn.gelu(y_SBD + p[f"bias_{number}"][:, None])
        x_SBD = dropped(x_SBD, key, number + 1, spec.dropout)
    return jnp.einsum("SBD,SD->SB", x_SBD, p["head_kernel"]) + p["head_bias"][:, None]


def dropped(x: jax.Array, key: jax.Array | None, place: int, share: float) -> jax.Array:
    """x with a random share of its values zeroed and the others grown to make up for it."""
    if key is None or not share:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - share, x.shape)
    return jnp.where(kept, x / (1 - share), 0.0)
