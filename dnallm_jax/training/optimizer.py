"""How do gradients move parameters? Clipped AdamW: warm-up, decay, masked weight decay."""

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
    """AdamW (Loshchilov & Hutter 2019) on clipped gradients.

    For the first `frozen_steps` updates the parameters under the top-level key `frozen` do not
    move; their gradients still count in the norm that is clipped, and in Adam's moments.
    """
    adamw = optax.chain(
        optax.clip_by_global_norm(o.clip),
        optax.adamw(
            schedule(o, steps), o.beta1, o.beta2, weight_decay=o.weight_decay, mask=decayed
        ),
    )
    return optax.chain(adamw, _hold(frozen, frozen_steps)) if frozen_steps else adamw


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
