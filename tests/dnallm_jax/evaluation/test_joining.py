"""Does a detector listen to each member where it knows something, and never against its word?"""

import json

import numpy as np
import pytest

from dnallm_jax.evaluation import joining
from dnallm_jax.evaluation.joining import Joining
from dnallm_jax.evaluation.metrics import point_metrics

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(count: int, seed: int = 0) -> Drawn:
    """Two members: the first knows short contigs, the second long ones, on another scale."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    lengths = random.choice([300, 3000], count)
    skill = np.where(lengths[:, None] == 300, [1.2, 0.3], [0.3, 1.2])
    logits = skill * (2 * labels[:, None] - 1) + random.normal(size=(count, 2))
    return logits * [1.0, 20.0], labels, lengths


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(point_metrics(labels, scores, ("auroc",), None)["auroc"])


def worse_than_a_member(joint: Joining, drawn: Drawn) -> list[str]:
    """At which lengths the joint log-odds rank no better than the better member alone."""
    logits, labels, lengths = drawn
    together = joint.apply(logits, lengths)
    found = []
    for length in np.unique(lengths):
        at = lengths == length
        best = max(auroc(logits[at, member], labels[at]) for member in (0, 1))
        if auroc(together[at], labels[at]) <= best:
            found.append(f"{length}")
    return found


def test_joined_they_are_better_than_each_at_every_length() -> None:
    joint = joining.fit(*draw(4000))
    assert joint.lengths == (300.0, 3000.0)
    assert worse_than_a_member(joint, draw(20_000, 1)) == []
    short, long = np.array(joint.weights) * [1.0, 20.0]
    assert short[0] > 2 * short[1] > 0
    assert long[1] > 2 * long[0] > 0


def test_planted_weights_of_the_wrong_length_are_found() -> None:
    joint = joining.fit(*draw(4000))
    turned = Joining(joint.lengths, joint.weights[::-1])
    assert worse_than_a_member(turned, draw(20_000, 1)) == ["300", "3000"]


def test_a_member_that_is_wrong_is_silenced_and_not_turned_round() -> None:
    logits, labels, lengths = draw(4000)
    joint = joining.fit(np.stack([logits[:, 0], -logits[:, 1]], axis=1), labels, lengths)
    weights = np.array(joint.weights) * [1.0, 20.0]
    assert weights.min() >= 0
    assert weights[:, 1].max() < 0.1


def test_too_few_records_give_equal_shares() -> None:
    logits, labels, lengths = draw(12)
    joint = joining.fit(logits, labels, lengths)
    shares = np.array(joint.weights) * logits.std(axis=0)
    np.testing.assert_allclose(shares, 0.5)


def test_a_single_member_is_left_as_it_is() -> None:
    logits, labels, lengths = draw(100)
    joint = joining.fit(logits[:, :1], labels, lengths)
    assert joint == joining.equal(1)
    assert (joint.apply(logits[:, :1], lengths) == logits[:, 0]).all()


def test_it_is_plain_json() -> None:
    joint = joining.fit(*draw(2000))
    assert Joining.from_dict(json.loads(json.dumps(joint.as_dict()))) == joint
    for broken in ({"lengths": [300], "weights": []}, {"lengths": [300], "weights": [[-1.0, 2.0]]}):
        with pytest.raises(ValueError, match="weights"):
            Joining.from_dict(broken)
