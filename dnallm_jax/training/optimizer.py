"""How do gradients move parameters? Clipped AdamW or Muon: warm-up, decay, masked decay."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from dnallm_jax.config import Optimizer
from dnallm_jax.model.gpt import Params


def schedule(o: Optimizer, steps: int) -> optax.Schedule:
    """Learning rate of update number 0, 1, ... of `steps`.

    First it rises linearly from 0 to the peak, in at most half of a short run. In the end it is
    `final_fraction` of the peak, by a cosine all the way ("cosine"), or by a line over the last
    `decay_fraction` of the run, before which it stays at the peak ("wsd": warm-up, stable, decay;
    Hu et al. 2024).
    """
    peak, final = o.learning_rate, o.learning_rate * o.final_fraction
    warmup, fall_begins = turns(o, steps)
    if o.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), final)
    decay = max(1, round(o.decay_fraction * (steps - warmup)))
    rise, fall = (
        optax.linear_schedule(0.0, peak, warmup),
        optax.linear_schedule(peak, final, decay),
    )
    return optax.join_schedules([rise, optax.constant_schedule(peak), fall], [warmup, fall_begins])


def turns(o: Optimizer, steps: int) -> tuple[int, int]:
    """The updates at which the warm-up ends, and from which on the learning rate falls."""
    warmup = min(o.warmup_steps, max(1, steps // 2))
    if o.schedule == "cosine":
        return warmup, warmup
    return warmup, max(warmup, steps - max(1, round(o.decay_fraction * (steps - warmup))))


def described(o: Optimizer, steps: int) -> list[str]:
    """What happens to the learning rate and to gradients in `steps` updates, in lines."""
    warmup, fall_begins = turns(o, steps)
    stays = f", stays until step {fall_begins}" if o.schedule == "wsd" else ""
    falls = "along a cosine" if o.schedule == "cosine" else "along a line"
    clipped = f"clipped to norm {o.clip:g}" if o.clip else "not clipped"
    return [
        f"{o.name}: learning rate up to {o.learning_rate:g} in {warmup} steps{stays}, down {falls} "
        f"to {o.learning_rate * o.final_fraction:g}",
        f"gradients {clipped}, decay {o.weight_decay:g} of matrices alone"
        + (f", learning rates from width {o.base_width}" if o.base_width else ""),
    ]


# Words in the names of parameters that sum over no width.
_NARROW = ("embedding", "norm", "bias", "feature_")


def decayed(params: Params) -> Params:
    """True for the matrices of blocks and of a language-model head; False for all the rest.

    Stacked norms have a layer axis too, so the name decides, not the number of axes.
    """
    undecayed = (*_NARROW, "head_kernel", "pool_query")

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        return not any(word in jax.tree_util.keystr(path) for word in undecayed)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def make_optimizer(
    o: Optimizer,
    steps: int,
    *,
    frozen: str = "",
    frozen_steps: int = 0,
    held: Sequence[str] = (),
    layer_decay: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) or Muon on clipped gradients.

    For the first `frozen_steps` updates the parameters under the top-level key `frozen` do not
    move; their gradients still count in the norm that is clipped, and in the moments. Those under
    the keys `held` never move, and have no moments.

    Below 1, `layer_decay` makes each block's learning rate that many times the one of the block
    above it, the head's being the whole one (Howard & Ruder 2018; Clark et al. 2020).
    """
    rate = schedule(o, steps)
    if o.name == "muon":
        moved = _muon(o, rate)
    elif o.base_width:
        moved = optax.chain(
            optax.scale_by_adam(o.beta1, o.beta2),
            _by_width(o),
            optax.add_decayed_weights(o.weight_decay, decayed),
            optax.scale_by_learning_rate(rate),
        )
    else:
        moved = optax.adamw(rate, o.beta1, o.beta2, weight_decay=o.weight_decay, mask=decayed)
    tx = optax.chain(optax.clip_by_global_norm(o.clip or math.inf), moved)
    if layer_decay < 1:
        tx = optax.chain(tx, _by_layer(layer_decay))
    if frozen_steps:
        tx = optax.chain(tx, _hold(frozen, frozen_steps))
    if held:
        tx = optax.partition(
            {True: optax.set_to_zero(), False: tx},
            lambda params: {
                key: jax.tree.map(lambda _, key=key: key in held, value)
                for key, value in params.items()
            },
        )
    return tx


# Matrices of blocks [layer, ...]: the axes that each sums over, and those of what it gives.
_AXES: dict[str, tuple[int | tuple[int, ...], int | tuple[int, ...]]] = {
    **dict.fromkeys(("wq", "wk", "wv"), (1, (2, 3))),
    "wo": ((1, 2), 3),
    **dict.fromkeys(("gate", "up", "down"), (1, 2)),
}


def _by_width(o: Optimizer) -> optax.GradientTransformation:
    """Scales updates so that a learning rate found at width `base_width` is right at any other.

    The rule is muP's (Yang et al. 2022): what a step adds to a matrix's output must not grow with
    the numbers that it sums over, so Adam's steps of matrices shrink as 1 / width; those of
    embeddings, norms and biases stay. The steps of Muon, whose largest stretch grows as the square
    root of the width, shrink as its inverse (Bernstein & Newhouse 2024). Decay is not scaled. All
    dimensions of a network should grow in proportion, its depth and head width should not.
    """

    def scaled(updates: Params, _: Params | None) -> Params:
        ratio = o.base_width / updates["backbone"]["embedding"].shape[-1]

        def of_leaf(path: tuple, update: jax.Array) -> jax.Array:
            if any(word in jax.tree_util.keystr(path) for word in _NARROW):
                return update
            by_muon = o.name == "muon" and path[-1].key in _AXES
            return update * (ratio**0.5 if by_muon else ratio)

        return jax.tree_util.tree_map_with_path(of_leaf, updates)

    return optax.stateless(scaled)


def _muon(o: Optimizer, rate: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for the matrices of each block, AdamW for the rest.

    Both look ahead along their momentum (Nesterov), as optax couples them. An orthogonal step is
    made as long as AdamW's usual ones (Liu et al. 2025), so that one learning rate and one weight
    decay do for both.
    """
    from optax import contrib  # many modules, for few runs

    def matrices(params: Params) -> Params:
        def numbers(path: tuple, _: jax.Array) -> contrib.MuonDimensionNumbers | None:
            return (
                contrib.MuonDimensionNumbers(*_AXES[name])
                if (name := path[-1].key) in _AXES
                else None
            )

        return jax.tree_util.tree_map_with_path(numbers, params)

    return optax.chain(
        contrib.muon(
            1.0,
            adam_b1=o.beta1,
            adam_b2=o.beta2,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=0.2,
        ),
        *([_by_width(o)] if o.base_width else []),
        optax.add_decayed_weights(-o.weight_decay, decayed),
        optax.scale_by_schedule(rate),
    )


def _by_layer(decay: float) -> optax.GradientTransformation:
    """Shrinks what comes below the head: block n of N by decay^(N - n), the embedding by one more.

    What belongs to all blocks is stacked, [N, ...]; the final norm belongs to the head.
    """

    def by_layer(updates: Params, _: Params | None) -> Params:
        layers = max((len(leaf) for leaf in jax.tree.leaves(_stacked(updates))), default=0)

        def scaled(path: tuple, update: jax.Array) -> jax.Array:
            names = [key.key for key in path]
            if "blocks" in names or "adapters" in names:
                rates = decay ** (layers - jnp.arange(layers))
                return update * rates.reshape(-1, *[1] * (update.ndim - 1))
            return update * decay ** (layers + 1) if "embedding" in names[-1] else update

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(by_layer)


def _stacked(updates: Params) -> Params:
    """What has one part for each block."""
    return {"blocks": updates["backbone"]["blocks"], "adapters": updates.get("adapters", {})}


def _hold(key: str, steps: int) -> optax.GradientTransformation:
    """Zeroes the updates under `key` for the first `steps` updates."""

    def init(_: Params) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(
        updates: Params, state: optax.ScaleByScheduleState, params: Params | None = None
    ) -> tuple[Params, optax.ScaleByScheduleState]:
        held = jax.tree.map(lambda u: jnp.where(state.count < steps, 0.0, u), updates[key])
        return {**updates, key: held}, optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)
