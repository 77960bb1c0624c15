"""Would a small convolutional network, without any pre-training, have said as much?

The kind that the first neural virus detectors were: two layers of convolutions over the letters of
both strands, the strongest and the mean answer of each filter, one output. It reads pieces of PIECE
bases; a contig's log-odds are the mean over its pieces. Trained for a few passes over the windows
that all baselines are fitted on.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import expit

PIECE = 504  # bases
FILTERS, WIDTH, NEXT, POOLED = 32, 11, 5, 8  # odd widths, so that both strands look the same
BATCH = 64
EPOCHS, STEPS = 4, 40  # passes over the windows; more of them where they are few

CODES = np.full(256, 4, np.uint8)
"""uint8[256]: A, C, G, T (U) of either case -> 0, 1, 2, 3; anything else -> 4, which is nothing."""
for _letters, _code in (("Aa", 0), ("Cc", 1), ("Gg", 2), ("TtUu", 3)):
    CODES[np.frombuffer(_letters.encode(), np.uint8)] = _code

Params = dict[str, Any]


@dataclasses.dataclass
class ConvolutionBaseline:
    """A baseline in JAX; the same windows and seed give the same answers."""

    learning_rate: float = 4e-3
    seed: int = 0
    params: Params | None = None
    name: str = "small convolutional network"

    def fit(self, bases: Sequence[np.ndarray], labels: np.ndarray) -> None:
        rng = np.random.default_rng(self.seed)
        each = max(len(bases) // BATCH, 1)
        epochs = max(EPOCHS, -(-STEPS // each))
        schedule = optax.cosine_decay_schedule(self.learning_rate, epochs * each)
        optimizer = optax.adamw(schedule)
        params = initial(rng)
        state = optimizer.init(params)

        @jax.jit
        def step(params: Params, state: Any, codes: jax.Array, y: jax.Array) -> tuple[Params, Any]:
            def loss(params: Params) -> jax.Array:
                return optax.sigmoid_binary_cross_entropy(log_odds(params, codes), y).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(epochs):
            order = rng.permutation(len(bases))
            for at in range(0, each * BATCH, BATCH):
                chosen = np.resize(order[at : at + BATCH], BATCH)
                codes = np.stack([padded(_cropped(bases[i], rng)) for i in chosen.tolist()])
                y = np.asarray(labels, np.float32)[chosen]
                params, state = step(params, state, codes, y)
        self.params = params

    def predict(self, bases: Sequence[np.ndarray]) -> np.ndarray:
        if self.params is None:
            raise ValueError("predict before fit")
        cuts = [np.array_split(contig, -(-len(contig) // PIECE) or 1) for contig in bases]
        found: list[np.ndarray] = []
        for batch in _batches([padded(piece) for own in cuts for piece in own]):
            found.append(np.asarray(_predicted(self.params, batch)))
        each = np.split(np.concatenate(found), np.cumsum([len(own) for own in cuts])[:-1])
        sizes = [[max(len(piece), 1) for piece in own] for own in cuts]
        means = [np.average(z[: len(n)], weights=n) for z, n in zip(each, sizes, strict=True)]
        return expit(np.array(means, np.float64))


def initial(rng: np.random.Generator) -> Params:
    """Parameters of a fresh network."""

    def kernel(*shape: int) -> np.ndarray:
        return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)

    return {
        "first": kernel(WIDTH, 4, FILTERS),
        "first_bias": np.zeros(FILTERS, np.float32),
        "second": kernel(NEXT, FILTERS, FILTERS),
        "second_bias": np.zeros(FILTERS, np.float32),
        "head": 0.1 * kernel(2 * FILTERS, 1),
        "head_bias": np.zeros(1, np.float32),
    }


def log_odds(params: Params, codes: jax.Array) -> jax.Array:
    """float32[B] of uint8[B, L] codes: the mean of both strands."""
    letters = jax.nn.one_hot(codes, 4)
    # Read from the other end, with A for T and C for G: the other strand.
    return (_strand(params, letters) + _strand(params, letters[:, ::-1, ::-1])) / 2


def _strand(params: Params, x: jax.Array) -> jax.Array:
    convolved = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding="SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    x = jax.nn.relu(convolved(x, params["first"]) + params["first_bias"])
    rows, length, filters = x.shape
    x = x[:, : length // POOLED * POOLED].reshape(rows, -1, POOLED, filters).max(axis=2)
    x = jax.nn.relu(convolved(x, params["second"]) + params["second_bias"])
    read = jnp.concatenate([x.max(axis=1), x.mean(axis=1)], axis=-1)
    return (read @ params["head"] + params["head_bias"])[:, 0]


_predicted = jax.jit(log_odds)


def padded(piece: np.ndarray) -> np.ndarray:
    """uint8[PIECE]: the codes of at most so many letters, in the middle."""
    codes = np.full(PIECE, 4, np.uint8)
    before = (PIECE - len(piece)) // 2
    codes[before : before + len(piece)] = CODES[piece]
    return codes


def _cropped(window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    at = int(rng.integers(0, max(len(window) - PIECE, 0) + 1))
    return window[at : at + PIECE]


def _batches(pieces: Sequence[np.ndarray], size: int = 256) -> Iterator[np.ndarray]:
    """The pieces in batches of one shape; the last is filled up with nothing."""
    for at in range(0, len(pieces), size):
        batch = np.full((size, PIECE), 4, np.uint8)
        own = pieces[at : at + size]
        batch[: len(own)] = own
        yield batch
