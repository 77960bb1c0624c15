"""How do gradients move parameters? Clipped AdamW or Muon: warm-up, decay, masked decay."""

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
    warmup = min(o.warmup_steps, max(1, steps // 2))
    if o.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), final)
    decay = max(1, round(o.decay_fraction * (steps - warmup)))
    rise, fall = (
        optax.linear_schedule(0.0, peak, warmup),
        optax.linear_schedule(peak, final, decay),
    )
    return optax.join_schedules(
        [rise, optax.constant_schedule(peak), fall], [warmup, max(warmup, steps - decay)]
    )


def decayed(params: Params) -> Params:
    """True for the matrices of blocks and of a language-model head; False for all the rest.

    Stacked norms have a layer axis too, so the name decides, not the number of axes.
    """
    undecayed = ("embedding", "norm", "head_kernel", "bias", "feature_")

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        return not any(word in jax.tree_util.keystr(path) for word in undecayed)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def make_optimizer(
    o: Optimizer, steps: int, *, frozen: str = "", frozen_steps: int = 0
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) or Muon on clipped gradients.

    For the first `frozen_steps` updates the parameters under the top-level key `frozen` do not
    move; their gradients still count in the norm that is clipped, and in the moments.
    """
    rate = schedule(o, steps)
    if o.name == "muon":
        moved = _muon(o, rate)
    else:
        moved = optax.adamw(rate, o.beta1, o.beta2, weight_decay=o.weight_decay, mask=decayed)
    tx = optax.chain(optax.clip_by_global_norm(o.clip), moved)
    return optax.chain(tx, _hold(frozen, frozen_steps)) if frozen_steps else tx


def _muon(o: Optimizer, rate: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for the matrices of each block, AdamW for the rest.

    Both look ahead along their momentum (Nesterov), as optax couples them. An orthogonal step is
    made as long as AdamW's usual ones (Liu et al. 2025), so that one learning rate and one weight
    decay do for both.
    """
    from optax import contrib  # many modules, for few runs

    # [layer, ...]: the axes that a matrix sums over, and those of what it gives.
    given = {
        **dict.fromkeys(("wq", "wk", "wv"), contrib.MuonDimensionNumbers(1, (2, 3))),
        "wo": contrib.MuonDimensionNumbers((1, 2), 3),
        **dict.fromkeys(("gate", "up", "down"), contrib.MuonDimensionNumbers(1, 2)),
    }

    def matrices(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: given.get(path[-1].key), params)

    return optax.chain(
        contrib.muon(
            1.0,
            adam_b1=o.beta1,
            adam_b2=o.beta2,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=0.2,
        ),
        optax.add_decayed_weights(-o.weight_decay, decayed),
        optax.scale_by_schedule(rate),
    )


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
