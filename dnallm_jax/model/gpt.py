"""What is the network? A decoder-only transformer over DNA tokens, its layers stacked and scanned.

Pre-norm blocks with RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021), SwiGLU
(Shazeer 2020), grouped-query attention (Ainslie et al. 2023) and normalised queries and keys
(Dehghani et al. 2023). Each parameter is described once: shape, initialiser and the logical name of
every axis (`axes`), from which the sharding follows in `parallel/mesh.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dnallm_jax.model.attention import attention

Params = dict[str, Any]  # a nested, string-keyed dict of arrays


@dataclasses.dataclass(frozen=True)
class GPTSpec:
    """The network's dimensions; all that is needed to rebuild it beside its parameters."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    rope_base: float = 10_000.0
    lookback: int = 0  # so many tokens before it are embedded with each token; costs no product
    window: int = 0  # a token attends only to those fewer than so many places away; 0: to all


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the network is run; changes speed and memory, never (beyond rounding) the result."""

    dtype: str = "bfloat16"  # of activations and matrix products; parameters stay float32
    attention: str = "blockwise"
    unroll: bool = False  # unrolled layers may run faster, scanned ones compile faster
    remat: str = "none"  # one of REMAT: what the backward pass computes again
    # How activations [B, L, ...] are split, on more than one device. Without it the compiler splits
    # their width as it finds the parameters split, and then every device works on every row.
    rows: NamedSharding | None = None
    # The attention function -> the same, run on several devices at once. Without it the compiler
    # splits attention as it splits all else, which it cannot do to a kernel.
    share_out: Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]] | None = None
    # A layer's matrix and the logical names of its axes -> the matrix as it lies while it is used,
    # on more than one device. Without it the compiler may send activations to the parts of a matrix
    # one after the other, and write their sum to memory each time.
    gather: Callable[[jax.Array, tuple[str | None, ...]], jax.Array] | None = None


# What of a block is kept for its backward pass; the rest is computed again from the block's input.
_policies = jax.checkpoint_policies


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keeps what a device computed of a block, and no matrix of which it stores only a part."""
    return primitive.name != "sharding_constraint"


REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": functools.partial(jax.checkpoint, policy=_all_but_gathered),  # everything is kept
    "block": jax.checkpoint,  # nothing is
    # The products with parameters, which cost most; not those of attention, [L, L] a head.
    "dots": functools.partial(jax.checkpoint, policy=_policies.dots_with_no_batch_dims_saveable),
    # The same, in the host's memory until they are wanted.
    "offload": functools.partial(
        jax.checkpoint,
        policy=_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    ),
}


def _param(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], std: float
) -> nnx.Param:
    if not std:
        return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)
    return nnx.Param(std * jax.random.truncated_normal(rngs.params(), -3, 3, shape), axes=axes)


def _scale(shape: tuple[int, ...]) -> nnx.Param:
    axes = ("layers", None) if len(shape) == 2 else (None,)
    return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / rms(x) * scale over the last axis, computed in float32, returned in x's dtype."""
    # XLA's library for CPUs takes up to 18 times as long over sums whose first axis is 1.
    x32 = (x[0] if x.shape[0] == 1 else x).astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6)
    return (y * scale).astype(x.dtype).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense(x: jax.Array, w: jax.Array, axes: int = 1) -> jax.Array:
    """x [B, L, ...] times w over the last `axes` axes of x, the first of w.

    The gradient of w is asked for with one of its factors first: of this the CPU compiler writes a
    transposed copy, and works out in strides whatever led to it, an activation's derivative or a
    norm's. So it is x, of which other products take the same copy, but where x is much the wider.
    """
    return _dense_forward(x, w, axes)[0]


def _dense_forward(
    x: jax.Array, w: jax.Array, axes: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    over = tuple(range(2, x.ndim)), tuple(range(axes))
    return jax.lax.dot_general(x, w, (over, ((), ()))), (x, w)


def _dense_backward(
    axes: int, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    over = tuple(range(2, dy.ndim)), tuple(range(axes, w.ndim))
    dx = jax.lax.dot_general(dy, w, (over, ((), ())))
    tokens = ((0, 1), (0, 1)), ((), ())
    if math.prod(w.shape[:axes]) <= 2 * math.prod(w.shape[axes:]):
        return dx, jax.lax.dot_general(x, dy, tokens)
    dw = jax.lax.dot_general(dy, x, tokens)
    return dx, jnp.moveaxis(dw, range(w.ndim - axes), range(axes, w.ndim))


dense.defvjp(_dense_forward, _dense_backward)


_FEW_TOKENS = 256  # to choose from; of more, the product costs CPUs more than it saves others


@jax.custom_vjp
def look_up(table_VD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
    """table[tokens], [B, L, D]; its gradient is summed in float32, whatever the table's dtype.

    A sum in bfloat16 would be lost: of a thousand equal numbers it holds 256. Where tokens are few
    to choose from, it is a product with the one-hot tokens: to add row after row to the same few
    rows is slow where thousands of threads do it at once.
    """
    return table_VD[tokens_BL]


def _look_up_backward(
    kept: tuple[jax.Array, jax.Array], dx_BLD: jax.Array
) -> tuple[jax.Array, None]:
    table_VD, tokens_BL = kept
    if len(table_VD) > _FEW_TOKENS:
        d_table_VD = jnp.zeros(table_VD.shape, jnp.float32).at[tokens_BL].add(dx_BLD)
    else:
        chosen_BLV = jax.nn.one_hot(tokens_BL, len(table_VD), dtype=dx_BLD.dtype)
        d_table_VD = jnp.einsum(
            "BLV,BLD->VD", chosen_BLV, dx_BLD, preferred_element_type=jnp.float32
        )
    return d_table_VD.astype(table_VD.dtype), None


look_up.defvjp(lambda table, tokens: (table[tokens], (table, tokens)), _look_up_backward)


def rope_table(
    positions_BL: jax.Array, head_width: int, base: float
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of one rotation angle per position and pair of channels, float32 [B, L, 1, h].

    A pair is a channel and the one h/2 further; the sine of the first is negated. Both halves are
    joined here: of the angles alone the CPU compiler works out cos and sin anew in every layer, for
    every head, forwards and backwards.
    """
    frequency = base ** (-jnp.arange(head_width // 2, dtype=jnp.float32) / (head_width // 2))
    angle = positions_BL[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def rotate(x_BLHh: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary position embedding of [B, L, H, h], computed in float32, returned in x's dtype."""
    x = x_BLHh.astype(jnp.float32)
    return (x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin).astype(x_BLHh.dtype)


# The logical axes of a layer's matrices.
MATRICES: dict[str, tuple[str | None, ...]] = {
    "wq": ("embed", "heads", None),
    **dict.fromkeys(("wk", "wv"), ("embed", "kv_heads", None)),
    "wo": ("heads", None, "embed"),
    **dict.fromkeys(("gate", "up"), ("embed", "mlp")),
    "down": ("mlp", "embed"),
}


class Blocks(nnx.Module):
    """All transformer blocks: each parameter carries a leading axis of N layers."""

    def __init__(self, spec: GPTSpec, rngs: nnx.Rngs) -> None:
        N, D, H, K, h, F = (
            spec.layers,
            spec.width,
            spec.heads,
            spec.kv_heads,
            spec.head_width,
            spec.feed_forward,
        )
        # What a block adds to the residual stream shrinks with depth; its variance does not grow.
        depth = (2 * N) ** -0.5

        def matrix(name: str, shape: tuple[int, ...], std: float) -> nnx.Param:
            return _param(rngs, (N, *shape), ("layers", *MATRICES[name]), std)

        self.attention_norm = _scale((N, D))
        self.wq = matrix("wq", (D, H, h), D**-0.5)
        self.wk = matrix("wk", (D, K, h), D**-0.5)
        self.wv = matrix("wv", (D, K, h), D**-0.5)
        self.q_norm = _scale((N, h))
        self.k_norm = _scale((N, h))
        self.wo = matrix("wo", (H, h, D), depth * (H * h) ** -0.5)
        self.mlp_norm = _scale((N, D))
        self.gate = matrix("gate", (D, F), D**-0.5)
        self.up = matrix("up", (D, F), D**-0.5)
        self.down = matrix("down", (F, D), depth * F**-0.5)


def block(
    p: Params,
    x_BLD: jax.Array,
    segment_ids_BL: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    *,
    attend: Callable[..., jax.Array],
    gather: Callable[[jax.Array, tuple[str | None, ...]], jax.Array] | None = None,
) -> jax.Array:
    """One transformer block on the residual stream; p holds one layer's parameters (no N axis)."""
    p = p | {name: p[name].astype(x_BLD.dtype) for name in MATRICES}
    if gather is not None:
        p |= {name: gather(p[name], axes) for name, axes in MATRICES.items()}
    y_BLD = rms_norm(x_BLD, p["attention_norm"])
    q_BLHh, k_BLKh, v_BLKh = (dense(y_BLD, p[name]) for name in ("wq", "wk", "wv"))
    q_BLHh = rotate(rms_norm(q_BLHh, p["q_norm"]), cos, sin)
    k_BLKh = rotate(rms_norm(k_BLKh, p["k_norm"]), cos, sin)
    a_BLHh = attend(q_BLHh, k_BLKh, v_BLKh, segment_ids_BL)
    x_BLD = x_BLD + dense(a_BLHh, p["wo"], 2)
    y_BLD = rms_norm(x_BLD, p["mlp_norm"])
    gate_BLF, up_BLF = (dense(y_BLD, p[name]) for name in ("gate", "up"))
    return x_BLD + dense(jax.nn.silu(gate_BLF) * up_BLF, p["down"])


class Backbone(nnx.Module):
    """Embedding, blocks and final norm: what pre-training and classification share."""

    def __init__(self, spec: GPTSpec, rngs: nnx.Rngs) -> None:
        self.embedding = _param(rngs, (spec.vocab_size, spec.width), (None, "embed"), 1.0)
        if spec.lookback:
            shape = (spec.lookback, spec.vocab_size, spec.width)
            self.lookback_embedding = _param(
                rngs, shape, (None, None, "embed"), spec.lookback**-0.5
            )
        self.blocks = Blocks(spec, rngs)
        self.final_norm = _scale((spec.width,))


class GPT(nnx.Module):
    """The language model: a backbone and a head over the vocabulary.

    The head starts at zero, so that the first loss is exactly that of the uniform distribution.
    """

    def __init__(self, spec: GPTSpec, rngs: nnx.Rngs) -> None:
        self.backbone = Backbone(spec, rngs)
        self.lm_head = _param(rngs, (spec.width, spec.vocab_size), ("embed", None), 0.0)


def initialise(module: Callable[..., nnx.Module], *args: Any, seed: int) -> Params:
    """The parameters of `module(*args)` as a plain nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(module(*args, nnx.Rngs(params=seed)), nnx.Param))


def logical_axes(module: Callable[..., nnx.Module], *args: Any) -> Params:
    """The logical axis names of every parameter, in the structure of `initialise`."""
    state = nnx.eval_shape(lambda: nnx.state(module(*args, nnx.Rngs(params=0)), nnx.Param))
    return nnx.to_pure_dict(state, extract_fn=lambda variable: variable.get_metadata("axes"))


def _by_rows(x_BL: jax.Array, run: Execution) -> jax.Array:
    """Activations [B, L, ...] split as `run.rows` says, and in no other way."""
    return x_BL if run.rows is None else jax.lax.with_sharding_constraint(x_BL, run.rows)


def _embed(
    p: Params, spec: GPTSpec, tokens_BL: jax.Array, positions_BL: jax.Array, run: Execution
) -> jax.Array:
    """[B, L, D] in `run.dtype`: of each token, and of those before it in its segment.

    The sum over tokens at fixed distances is a convolution over the one-hot tokens, done by look-up
    (n-gram embeddings: for a model of few layers, cheaper than attention to the tokens just
    before). Tables are small: each device looks its rows up in all of them.
    """

    def looked_up(table_VD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
        table_VD = table_VD.astype(run.dtype)
        if run.rows is not None:
            whole = NamedSharding(run.rows.mesh, PartitionSpec())
            table_VD = jax.lax.with_sharding_constraint(table_VD, whole)
        return _by_rows(look_up(table_VD, tokens_BL), run)

    x_BLD = looked_up(p["embedding"], tokens_BL)
    for distance in range(1, spec.lookback + 1):
        earlier_BLD = looked_up(
            p["lookback_embedding"][distance - 1], jnp.roll(tokens_BL, distance, axis=1)
        )
        x_BLD += jnp.where(positions_BL[..., None] >= distance, earlier_BLD, 0)
    return x_BLD


def hidden_states(
    p: Params,
    spec: GPTSpec,
    run: Execution,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    positions_BL: jax.Array,
    *,
    causal: bool = True,
) -> jax.Array:
    """The backbone: tokens, segment ids, positions (int32 [B, L]) -> [B, L, D] in `run.dtype`."""
    cos, sin = rope_table(positions_BL, spec.head_width, spec.rope_base)
    cos, sin = _by_rows(cos, run), _by_rows(sin, run)
    attend: Callable[..., jax.Array] = functools.partial(
        attention, causal=causal, window=spec.window, backend=run.attention
    )
    if run.share_out is not None:
        attend = run.share_out(attend)
    layer: Callable[..., jax.Array] = functools.partial(block, attend=attend, gather=run.gather)
    if run.remat != "none" or run.gather is not None:
        layer = REMAT[run.remat](layer)
    x_BLD, _ = jax.lax.scan(
        lambda x, blk: (_by_rows(layer(blk, x, segment_ids_BL, cos, sin), run), None),
        _embed(p, spec, tokens_BL, positions_BL, run),
        p["blocks"],
        unroll=spec.layers if run.unroll else 1,
    )
    return rms_norm(x_BLD, p["final_norm"])


def next_token_logits(
    p: Params,
    spec: GPTSpec,
    run: Execution,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    positions_BL: jax.Array,
) -> jax.Array:
    """float32 [B, L, V]: at each token, the logits of the one that follows it in its segment."""
    x_BLD = hidden_states(p["backbone"], spec, run, tokens_BL, segment_ids_BL, positions_BL)
    return jnp.einsum(
        "BLD,DV->BLV", x_BLD, p["lm_head"].astype(x_BLD.dtype), preferred_element_type=jnp.float32
    )
