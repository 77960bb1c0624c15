"""What is attention, exactly? Its mask, and the plain definition that every back end must equal.

A token attends only to tokens of its own segment; a padding token (segment 0) attends to nothing
and gets zeros.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Large enough that exp() of it is 0 in float32, small enough that the difference of two is finite.
MASKED = -1e30


def allowed(
    q_segments_BL: Array,
    k_segments_BM: Array,
    q_offset: int | Array,
    k_offset: int | Array,
    causal: bool,
    window: int,
) -> Array:
    """bool[B, L, M]: same segment, not padding, (causal) not later in the row, (window) near.

    The offsets are the places in the row of the first query and the first key. With a window above
    0, only keys fewer than so many places away are near: with 1, a token sees itself alone.
    """
    mask = (q_segments_BL[:, :, None] == k_segments_BM[:, None, :]) & (
        q_segments_BL[:, :, None] > 0
    )
    q_places = q_offset + jnp.arange(q_segments_BL.shape[1])
    k_places = k_offset + jnp.arange(k_segments_BM.shape[1])
    back = q_places[:, None] - k_places[None, :]
    if causal:
        mask &= back >= 0
    if window:
        mask &= (back < window) & (back > -window)
    return mask


def reference(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    *,
    causal: bool,
    window: int,
) -> Array:
    """All L x L scores at once, their softmax in float32; zeros where nothing is allowed."""
    s_BKGLM = jnp.einsum("BLKGh,BMKh->BKGLM", q_BLKGh, k_BLKh, preferred_element_type=jnp.float32)
    mask = allowed(segment_ids_BL, segment_ids_BL, 0, 0, causal, window)[:, None, None]
    s_BKGLM = jnp.where(mask, s_BKGLM, MASKED)
    top = jax.lax.stop_gradient(jnp.max(s_BKGLM, axis=-1, keepdims=True))
    p_BKGLM = jnp.where(mask, jnp.exp(s_BKGLM - top), 0.0)
    total = jnp.sum(p_BKGLM, axis=-1, keepdims=True)
    p_BKGLM = p_BKGLM / jnp.where(total > 0, total, 1.0)
    return jnp.einsum("BKGLM,BMKh->BLKGh", p_BKGLM.astype(v_BLKh.dtype), v_BLKh)
