"""Are Markov figures those of the definition, do they find a known entropy, and never blow up?"""

import json

import numpy as np
import pytest

from data_pipeline import markov, word_counts

LETTERS = "ACGT"


def by_definition(
    train: list[np.ndarray], test: list[np.ndarray], order: int, strengths: dict[int, float]
) -> dict[int, float]:
    """Dictionaries of words and loops; only the strengths are taken from the code under test."""

    def words(segments):
        for segment in segments:
            for at in range(len(segment) - order):
                word = segment[at : at + order + 1].tolist()
                if max(word) < 4:
                    yield "".join(LETTERS[c] for c in word)

    counts: dict[str, int] = {}
    for word in words(train):
        for k in range(order + 1):
            end = word[len(word) - k - 1 :]
            counts[end] = counts.get(end, 0) + 1
    bits, scored = dict.fromkeys(range(order + 1), 0.0), 0
    for word in words(test):
        p, scored = 0.25, scored + 1
        for k in range(order + 1):
            end = word[len(word) - k - 1 :]
            total = sum(counts.get(end[:-1] + x, 0) for x in LETTERS)
            p = (counts.get(end, 0) + strengths[k] * p) / (total + strengths[k])
            bits[k] -= np.log2(p)
    return {k: (b + 4 * (k + 1)) / scored for k, b in bits.items()}


def random_segments(seed: int, lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    segments = []
    for length in lengths:
        codes = np.minimum(rng.integers(0, 6, length), 3).astype(np.uint8)
        codes[rng.random(length) < 0.02] = 255
        segments.append(codes)
    return segments


def all_counts(counts: markov.MarkovCounts) -> list[int]:
    return counts.words.of(np.arange(counts.words.size)).tolist()


def chain(rng: np.random.Generator, order: int, length: int) -> tuple[np.ndarray, float]:
    """A sample of a random order-k chain, and the chain's entropy rate in bits per base."""
    table = rng.dirichlet(np.full(4, 2.0), 4**order)
    step = np.zeros((4**order, 4**order))
    for context in range(4**order):
        for x in range(4):
            step[context, (context * 4 + x) % 4**order] += table[context, x]
    stationary = np.linalg.matrix_power(step, 200)[0]
    entropy = -float(stationary @ (table * np.log2(table)).sum(1))
    context, codes = 0, np.zeros(length, np.uint8)
    cumulative = table.cumsum(1)
    for at, u in enumerate(rng.random(length).tolist()):
        x = min(int(np.searchsorted(cumulative[context], u)), 3)
        codes[at] = x
        context = (context * 4 + x) % 4**order
    return codes, entropy


@pytest.mark.parametrize("order", [0, 1, 3, 5])
def test_bits_are_those_of_the_definition(order):
    train = random_segments(1, [0, 3, 50, 400, 7])
    test = random_segments(2, [30, 2, 120])
    counts = markov.fit(train, range(order + 1))
    score = counts.score(test)
    expected = by_definition(train, test, order, score.strengths)
    assert score.bits == pytest.approx(expected, rel=1e-12)
    assert counts.bits_per_base(test) == dict(score.bits)


def test_planted_fault_a_word_across_segments_is_caught():
    train, test = random_segments(1, [20] * 30), random_segments(2, [300])
    score = markov.fit([np.concatenate(train)], range(4)).score(test)
    expected = by_definition(train, test, 3, score.strengths)
    assert score.bits != pytest.approx(expected, rel=1e-6)


def test_both_strands_are_the_counts_of_both():
    train = random_segments(3, [200, 50])
    reverse = [np.where(c < 4, 3 - c, c)[::-1] for c in train]
    both = markov.fit(train, [4], both_strands=True)
    assert all_counts(both) == all_counts(markov.fit(train + reverse, [4]))


@pytest.mark.parametrize("max_order", [2, 7, 11])
def test_chunks_add_up(max_order, monkeypatch):
    segments = random_segments(4, [3000, 40, 5, 0, 777])
    whole = markov.fit(segments, [max_order])
    monkeypatch.setattr(markov, "_BATCH", 100)
    parts = markov.fit(iter(segments), [max_order])
    assert all_counts(whole) == all_counts(parts)
    assert whole.counted == parts.counted > 2500


def test_figures_are_the_same_to_the_last_digit_however_counts_are_stored(monkeypatch):
    train, test = random_segments(1, [20_000, 700]), random_segments(2, [9_000])
    monkeypatch.setattr(markov, "_SAMPLE", 500)
    monkeypatch.setattr(word_counts, "BLOCK", 1 << 14)
    scores = []
    for few, kind in ((1, word_counts.Few), (1 << 40, word_counts.Many)):
        monkeypatch.setattr(word_counts, "FEW", few)
        counts = markov.fit(train, range(11), both_strands=True)
        assert isinstance(counts.words, kind)
        scores.append(counts.score(test))
    assert scores[0] == scores[1]


@pytest.mark.parametrize("order", [0, 2, 4])
def test_a_known_entropy_is_reached_and_higher_orders_do_not_blow_up(order):
    codes, entropy = chain(np.random.default_rng(order), order, 120_000)
    bits = markov.fit([codes[:100_000]], range(11)).bits_per_base([codes[100_000:]])
    # The standard error of 20,000 scored bases is about 0.005 bits.
    assert bits[order] == pytest.approx(entropy, abs=0.02)
    assert all(bits[k] > entropy + 0.01 for k in range(order))
    assert all(bits[k] == pytest.approx(bits[order], abs=0.004) for k in range(order, 11))


def test_near_copies_show_as_a_drop_at_high_orders():
    codes, _ = chain(np.random.default_rng(9), 2, 150_000)
    counts = markov.fit([codes[:100_000]])
    apart = counts.bits_per_base([codes[100_000:110_000]])
    copy = codes[20_000:30_000].copy()
    copy[::50] = (copy[::50] + 1) % 4  # 2 % changed
    near = counts.bits_per_base([copy])
    # Contexts of nine letters are mostly met once in 100,000 bases.
    assert markov.drop_at_high_orders(apart, below=9) < 0.001
    assert markov.drop_at_high_orders(near, below=9) > 0.3
    assert markov.drop_at_high_orders({0: 1.9}) == 0.0


def test_picking_on_a_sample_changes_little(monkeypatch):
    codes, _ = chain(np.random.default_rng(5), 3, 60_000)
    counts = markov.fit([codes[:50_000]], range(8))
    full = counts.bits_per_base([codes[50_000:]])
    monkeypatch.setattr(markov, "_SAMPLE", 500)
    monkeypatch.setattr(word_counts, "BLOCK", 1000)
    assert counts.bits_per_base([codes[50_000:]]) == pytest.approx(full, abs=0.003)


def test_nothing_to_count_or_score():
    empty = markov.fit([], range(4))
    assert all(np.isnan(b) for b in empty.bits_per_base([np.zeros(3, np.uint8)]).values())
    uniform = empty.bits_per_base(random_segments(1, [4000]))
    assert uniform[3] == pytest.approx(2.0, abs=0.01)
    with pytest.raises(ValueError, match="orders"):
        markov.fit([], [13])


def test_summaries_are_json():
    counts = markov.fit(random_segments(1, [100]), (0, 2))
    score = counts.score(random_segments(2, [100]))
    json.dumps([counts.summary(), score.summary()], allow_nan=False)
    assert set(score.bits) == {0, 2}
