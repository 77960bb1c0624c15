"""What do tests of the network run on? A tiny GPT, parameters, packed rows, a finder of leaks.

Parameters come from numpy, so that they are the same under every version of JAX, and no head is
zero, so that nothing is hidden by it.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.loader import layout, stack
from data_pipeline.tokenizers import Nucleotide, Tokenizer
from dnallm_jax.model.gpt import Execution, GPTSpec, Params, initialise

SPEC = GPTSpec(vocab_size=6, width=32, layers=2, heads=4, kv_heads=2, head_width=8, feed_forward=64)
RUN = Execution(dtype="float32")

# Compiles five times faster, for code of which only the values matter. (jaxlib 0.11 has lost the
# second option, and with it half of the gain.)
QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def numpy_params(module: Callable, spec: GPTSpec = SPEC, *, seed: int = 0) -> Params:
    """float32 parameters of `module(spec)`: norms near 1, everything else normal of std 0.2."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
        return jnp.asarray(noise + ("norm" in jax.tree_util.keystr(path)))

    shapes = jax.eval_shape(functools.partial(initialise, module, spec, seed=0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def fresh_params(module: Callable, *, seed: int = 0) -> Params:
    """The parameters that a training of `module(SPEC)` starts from."""
    return quick_jit(functools.partial(initialise, module, SPEC, seed=seed))()


def packed(
    rows: Sequence[Sequence[int]], length: int, *, seed: int = 0, tokenizer: Tokenizer | None = None
) -> dict[str, np.ndarray]:
    """A batch with segments of these lengths in each row, of random tokens (never padding)."""
    rng = np.random.default_rng(seed)
    tokenizer = tokenizer or Nucleotide()
    return stack(
        [
            layout([rng.integers(1, tokenizer.vocab_size, n) for n in row], length, tokenizer)
            for row in rows
        ]
    )


def other_tokens(tokens: np.ndarray) -> np.ndarray:
    """Another base at every place."""
    return (tokens % 5 + 1).astype(tokens.dtype)


def leaks(
    function: Callable[[np.ndarray], jax.Array],
    inputs: np.ndarray,
    replacement: np.ndarray,
    segment_ids: np.ndarray,
) -> list[str]:
    """Where a changed segment (or padding) moves a bit of what `function` says elsewhere.

    Args:
      function: inputs [B, L, ...] -> outputs [B, L, ...].
      replacement: other inputs, taken for one segment after the other.
      segment_ids: int32 [B, L]; 0 is padding, whose own outputs mean nothing.

    Returns:
      "segment 2 of row 0 moves row 0, segment 1" for each leak.
    """
    before = np.asarray(function(inputs))
    found = []
    for row, segment in _segments(segment_ids):
        changed = np.zeros(segment_ids.shape, bool)
        changed[row] = segment_ids[row] == segment
        mixed = np.where(
            changed.reshape(changed.shape + (1,) * (inputs.ndim - 2)), replacement, inputs
        )
        assert not np.array_equal(mixed, inputs), "the replacement changes nothing"
        after = np.asarray(function(mixed))
        for other in _segments(segment_ids):
            here = segment_ids[other[0]] == other[1]
            same = before[other[0]][here].tobytes() == after[other[0]][here].tobytes()
            if other != (row, segment) and other[1] > 0 and not same:
                found.append(
                    f"segment {segment} of row {row} moves row {other[0]}, segment {other[1]}"
                )
    return found


def _segments(segment_ids: np.ndarray) -> list[tuple[int, int]]:
    return [(row, int(s)) for row, ids in enumerate(segment_ids) for s in np.unique(ids)]
