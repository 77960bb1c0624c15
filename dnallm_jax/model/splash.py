"""How does attention run on a TPU? By JAX's splash attention, a fused Pallas kernel.

It skips blocks of keys that the causal mask or the window rules out, honours segment ids, and keeps
only the log of each softmax's sum for its backward pass. Query heads that share a key head read it
where it lies (the kernel's grouped form), so keys and values are not repeated.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)

_LANES = 128  # the kernel's blocks are multiples of it
_BLOCKS = (512, 256, 128)  # queries, keys; the largest that divides the row is taken


class _Band(masks.LocalMask):
    """A causal mask or a window that knows of most blocks, without a look, if they are all or none.

    Of a row of 131,072 tokens the kernel's preparation so takes a second instead of a minute.
    """

    def __init__(self, length: int, before: int, after: int) -> None:
        super().__init__((length, length), window_size=(before, after), offset=0)
        self._before, self._after = before, after

    def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
        rows, columns = block
        nearest, furthest = rows.start - columns.stop + 1, rows.stop - 1 - columns.start
        if furthest <= self._before and nearest >= -self._after:
            return np.ones((1, 1), bool)
        if nearest > self._before or furthest < -self._after:
            return np.zeros((1, 1), bool)
        return super().__getitem__(block)


def _mask(length: int, causal: bool, window: int) -> masks.Mask:
    if not causal and not window:
        return masks.FullMask((length, length))
    reach = window - 1 if window else length
    return _Band(length, before=reach, after=0 if causal else reach)


def splash(
    q_BLKGh: Array,
    k_BLKh: Array,
    v_BLKh: Array,
    segment_ids_BL: Array,
    *,
    causal: bool,
    window: int,
    interpret: bool = False,
) -> Array:
    """Attention by the kernel, row by row; rows are padded to a multiple of 128 tokens.

    On several devices it runs inside `jax.shard_map`, on the rows and heads of one device. With
    `interpret` the kernel's program is carried out step by step on any platform: for tests.
    """
    B, L, K, G, h = q_BLKGh.shape
    length = -(-L // _LANES) * _LANES
    size = next(size for size in _BLOCKS if length % size == 0)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([_mask(length, causal, window)] * (K * G)),
        block_sizes=kernels.BlockSizes(
            block_q=size,
            block_kv=size,
            block_q_dkv=size,
            block_kv_dkv=size,
            block_q_dq=size,
            block_kv_dq=size,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def heads_first(x_BLXh: Array, heads: int) -> Array:
        x_BLXh = jnp.pad(x_BLXh.reshape(B, L, heads, h), ((0, 0), (0, length - L), (0, 0), (0, 0)))
        return x_BLXh.swapaxes(1, 2)

    ids_BL = jnp.pad(segment_ids_BL, ((0, 0), (0, length - L)))
    o_BHLh = jax.vmap(kernel)(
        heads_first(q_BLKGh, K * G),
        heads_first(k_BLKh, K),
        heads_first(v_BLKh, K),
        kernels.SegmentIds(q=ids_BL, kv=ids_BL),
    )
    o_BLKGh = o_BHLh.swapaxes(1, 2)[:, :L].reshape(q_BLKGh.shape).astype(v_BLKh.dtype)
    # To the kernel padding is a segment like any other.
    return jnp.where((segment_ids_BL > 0)[:, :, None, None, None], o_BLKGh, 0)
