"""How much of a pre-trained classifier is trained? All of it, its head, or low-rank adapters.

An adapter adds alpha / rank * A B to a matrix of every block, A and B being thin (LoRA: Hu et al.
2021, arXiv:2106.09685). B starts at zero, so that nothing changes at first. The backbone itself is
held: it has no gradient and no moments. When training has ended the products are added into the
matrices, and what scores knows nothing of adapters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from dnallm_jax.model.gpt import Params
from dnallm_jax.model.network import Network

BACKBONE, ADAPTERS = "backbone", "adapters"
# [layer, ...]: how many axes after the first a matrix sums over.
MATRICES = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "gate": 1, "up": 1, "down": 1}


@dataclass(frozen=True)
class AdapterSpec:
    """The adapters' size, and the matrices of each block that have one."""

    rank: int = 8
    alpha: float = 16.0
    matrices: tuple[str, ...] = ("wq", "wv")


def head_only(network: Network) -> Network:
    """The network whose backbone is held."""
    return replace(
        network,
        logits=lambda p, batch: network.logits(_held(p), batch),
        held=(BACKBONE,),
    )


def adapted(network: Network, spec: AdapterSpec) -> Network:
    """The network whose backbone is held, with adapters beside its matrices.

    Its parameters have `adapters` too; `finished` adds these into the backbone.
    """

    def make(seed: int) -> Params:
        own = network.initialise(seed)
        return {**own, ADAPTERS: _initialise(own[BACKBONE]["blocks"], spec, seed)}

    return replace(
        network,
        initialise=make,
        axes={**network.axes, ADAPTERS: _axes(network.axes[BACKBONE]["blocks"], spec)},
        logits=lambda p, batch: network.logits(merged(_held(p), spec), batch),
        embeddings=None,
        pooled=None,
        held=(BACKBONE,),
        finished=lambda p: merged(p, spec),
    )


def merged(p: Params, spec: AdapterSpec) -> Params:
    """The parameters of the network without adapters that gives the same log-odds."""
    blocks = dict(p[BACKBONE]["blocks"])
    for name, adapter in p[ADAPTERS].items():
        layers, rank = len(blocks[name]), adapter["a"].shape[-1]
        change = jnp.einsum(
            "NIR,NRO->NIO",
            adapter["a"].reshape(layers, -1, rank),
            adapter["b"].reshape(layers, rank, -1),
        )
        blocks[name] = blocks[name] + spec.alpha / rank * change.reshape(blocks[name].shape)
    rest = {key: value for key, value in p.items() if key != ADAPTERS}
    return {**rest, BACKBONE: {**p[BACKBONE], "blocks": blocks}}


def _held(p: Params) -> Params:
    return {**p, BACKBONE: jax.tree.map(jax.lax.stop_gradient, p[BACKBONE])}


def _initialise(blocks: Mapping[str, jax.Array], spec: AdapterSpec, seed: int) -> Params:
    found = {}
    for name in spec.matrices:
        layers, *rest = blocks[name].shape
        inputs, outputs = rest[: MATRICES[name]], rest[MATRICES[name] :]
        key = jax.random.fold_in(jax.random.key(seed), list(MATRICES).index(name))
        noise = jax.random.truncated_normal(key, -3, 3, (layers, *inputs, spec.rank))
        found[name] = {
            "a": math.prod(inputs) ** -0.5 * noise,
            "b": jnp.zeros((layers, spec.rank, *outputs), jnp.float32),
        }
    return found


def _axes(blocks: Mapping[str, tuple], spec: AdapterSpec) -> dict[str, Any]:
    found = {}
    for name in spec.matrices:
        layers, *rest = blocks[name]
        inputs, outputs = rest[: MATRICES[name]], rest[MATRICES[name] :]
        found[name] = {"a": (layers, *inputs, None), "b": (layers, None, *outputs)}
    return found
