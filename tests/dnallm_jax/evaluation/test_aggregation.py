"""Do windows become one log-odds, as clusters left out prefer, and does a single one stay it?"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnallm_jax.evaluation import aggregation
from dnallm_jax.evaluation.aggregation import Aggregation, Windows
from dnallm_jax.evaluation.metrics import point_metrics

Drawn = tuple[list[Windows], np.ndarray, np.ndarray, np.ndarray]


def draw(hot: float, seed: int = 0, clusters: int = 120) -> Drawn:
    """Records of 4 or 8 windows; in those that are not viral, a share `hot` looks very viral."""
    random = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), 6)
    labels = cluster % 2
    number = random.choice([4, 8], len(labels))
    windows = []
    for label, count in zip(labels, number, strict=True):
        logits = random.normal(1.0 * label - 0.5, 1.5, count)
        logits[random.random(count) < hot * (1 - label)] = 6.0
        windows.append(Windows(logits, np.full(count, 1 / count)))
    return windows, labels, 1_000 * number, np.array([f"c{name}" for name in cluster])


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=9),
    st.sampled_from([-3.0, -1.0, -0.1, 0.0, 0.2, 2.0]),
    st.integers(0, 1_000),
)
def test_it_lies_between_the_windows_and_keeps_a_single_one(
    logits: list[float], sharpness: float, seed: int
) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(logits)))
    z = np.array(logits)
    found = Aggregation(sharpness).apply(z, shares)
    assert z.min() - 1e-6 <= found <= z.max() + 1e-6
    assert Aggregation(sharpness).apply(z[:1], np.ones(1)) == z[0]
    # The order of windows says nothing: both strands score the same.
    assert Aggregation(sharpness).apply(z[::-1], shares[::-1]) == pytest.approx(found, abs=1e-9)
    # Towards the least below 0, towards the most above.
    mean = Aggregation().apply(z, shares)
    assert (found - mean) * sharpness >= -1e-6


def test_a_share_of_nothing_weighs_nothing() -> None:
    z = np.array([1.0, 50.0, 2.0])
    found = Aggregation(-0.5).apply(z, np.array([0.5, 0.0, 0.5]))
    assert found == pytest.approx(Aggregation(-0.5).apply(z[[0, 2]], np.array([0.5, 0.5])))


def test_windows_that_look_viral_by_mistake_are_heard_less() -> None:
    fitted = aggregation.fit(*draw(hot=0.15))
    assert fitted.sharpness < -0.1
    windows, labels, _, _ = draw(hot=0.15, seed=1)

    def auroc(of: Aggregation) -> float:
        return point_metrics(labels, of.of(windows), ("auroc",), None)["auroc"]

    assert auroc(fitted) > auroc(Aggregation()) + 0.01
    # The planted fault: the most viral window decides.
    assert auroc(Aggregation(2.0)) < auroc(Aggregation())


def test_without_reason_it_stays_the_mean() -> None:
    assert aggregation.fit(*draw(hot=0.0)) == Aggregation()
    windows, labels, lengths, clusters = draw(hot=0.15)
    few = slice(0, 80)
    assert aggregation.fit(windows[few], labels[few], lengths[few], clusters[few]) == Aggregation()
    one = [Windows(own.logits[:1], np.ones(1)) for own in windows]
    assert aggregation.fit(one, labels, lengths, clusters) == Aggregation()
    # Many contigs of few clusters prove as little.
    same = np.array([f"c{number % 4}" for number in range(len(labels))])
    assert aggregation.fit(windows, labels, lengths, same) == Aggregation()


def test_it_is_plain_json() -> None:
    soft = Aggregation(-0.25)
    assert Aggregation.from_dict(json.loads(json.dumps(soft.as_dict()))) == soft
    with pytest.raises(ValueError, match="sharpness"):
        Aggregation.from_dict({"temperature": 1.0})
    with pytest.raises(ValueError, match="finite"):
        Aggregation(float("nan"))
