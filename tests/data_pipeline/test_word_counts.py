"""Do counts of few words say what a table of all says?"""

from collections.abc import Iterator

import numpy as np
import pytest

from data_pipeline import word_counts
from data_pipeline.word_counts import Few, Many, WordCounts

SYMBOLS, LETTERS = 5, 4
SIZE = SYMBOLS**LETTERS


@pytest.fixture(params=[0, 1, 30, 400])
def drawn(request) -> np.ndarray:
    rng = np.random.default_rng(request.param)
    return (SIZE * rng.random(request.param) ** 3).astype(np.uint16)


def both(words: np.ndarray) -> Iterator[WordCounts]:
    yield Few(np.sort(words.astype(np.int64)), SIZE)
    yield Many(np.bincount(words, minlength=SIZE))


def test_counts_are_those_of_a_loop(drawn):
    words = drawn.tolist()
    for counts in both(drawn):
        assert (counts.size, counts.total, counts.distinct) == (SIZE, len(words), len(set(words)))
        assert counts.of(np.arange(SIZE)).tolist() == [words.count(w) for w in range(SIZE)]
        starts = [sum(w // SYMBOLS == start for w in words) for start in range(SIZE // SYMBOLS)]
        assert counts.of_starts(np.arange(SIZE // SYMBOLS), SYMBOLS).tolist() == starts
        ends = counts.ends(25)
        assert ends.size == 25
        assert ends.of(np.arange(25)).tolist() == [
            sum(w % 25 == e for w in words) for e in range(25)
        ]


def test_words_that_occur_come_in_the_same_blocks(drawn, monkeypatch):
    monkeypatch.setattr(word_counts, "BLOCK", 100)
    few, many = ([(w.tolist(), n.tolist()) for w, n in c.occurring()] for c in both(drawn))
    assert few == many
    assert len(few) == -(-SIZE // 100)
    assert [w for words, _ in few for w in words] == sorted(set(drawn.tolist()))


@pytest.mark.parametrize(("words", "kind"), [(38, Few), (39, Many), (40, Many)])
def test_a_table_is_kept_where_words_are_many_beside_it(words, kind):
    drawn = np.random.default_rng(0).integers(0, SIZE, words)
    assert SIZE // word_counts.FEW == 39
    counts = word_counts.count(np.array_split(drawn, 3), SIZE)
    assert isinstance(counts, kind)
    np.testing.assert_array_equal(counts.of(np.arange(SIZE)), np.bincount(drawn, minlength=SIZE))
