"""Does each data set of a mixture come as often as its weight, whole and the same on all hosts?"""

import itertools
import pathlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import corpus, mixing
from data_pipeline.corpora import Mixed, mixed
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from data_pipeline.corpus_options import mixture_of
from data_pipeline.errors import UserError
from data_pipeline.loader import Batch, CorpusBatches, stream
from data_pipeline.mixing import BLOCK, Mixture, shares_of
from data_pipeline.order import row_at
from data_pipeline.tokenizers import Nucleotide
from tests.data_pipeline.given_rows import GivenRows

LENGTH = 8
SIZES, WEIGHTS = (5, 300, 40), (1.0, 2.5, 0.5)


def rows_of(name: int, count: int) -> GivenRows:
    """Rows whose first tokens spell the source and the row."""
    numbers = np.array([[name, *divmod(row, 1_000)] for row in range(count)]) % 4
    tokens = np.hstack([numbers + 2, np.arange(count)[:, None] // 4 ** np.arange(5) % 4 + 2])
    lengths = np.array([LENGTH], np.int32)
    return GivenRows(
        [
            {"tokens": t, "segment_lengths": lengths, "record_ids": f"s{name}r{row}".encode()}
            for row, t in enumerate(tokens.astype(np.uint8))
        ]
    )


SOURCES = tuple(rows_of(name, count) for name, count in enumerate(SIZES))


def mixture() -> Mixture:
    return Mixture(SOURCES, shares_of(WEIGHTS))  # type: ignore[arg-type]


def batches(**options: int) -> CorpusBatches:
    kept = {"batch_rows": 8, "seed": 5} | options
    return CorpusBatches(mixture(), Nucleotide(), LENGTH, **kept)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_shares_are_the_nearest_whole_numbers(weights: list[float]) -> None:
    try:
        shares = shares_of(weights)
    except UserError:
        assert min(weights) / sum(weights) < 1 / BLOCK
        return
    assert sum(shares) == BLOCK
    assert all(
        abs(share - BLOCK * weight / sum(weights)) < 1
        for share, weight in zip(shares, weights, strict=True)
    )


def test_a_weight_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="weight 1 is less than one row in 4,096"):
        shares_of([1, 10_000])


def places(shares: tuple[int, ...], blocks: int) -> list[tuple[int, int]]:
    return [p for block in range(blocks) for p in mixing._placed(shares, 7, block)]


def faults(found: list[tuple[int, int]], shares: tuple[int, ...], blocks: int) -> list[int]:
    """The parts whose places are not 0, 1, ... up to their share, each once."""
    own: dict[int, list[int]] = {}
    for part, place in found:
        own.setdefault(part, []).append(place)
    return [
        part
        for part, share in enumerate(shares)
        if sorted(own[part]) != list(range(blocks * share))
    ]


def test_every_part_goes_through_its_own_stream() -> None:
    shares = shares_of(WEIGHTS)
    found = places(shares, 3)
    assert faults(found, shares, 3) == []
    assert faults(found[1:] + found[:1] * 2, shares, 3), "planted: a place twice"
    assert found[:BLOCK] != found[BLOCK : 2 * BLOCK], "blocks have orders of their own"
    for start in range(0, 2 * BLOCK, 512):
        counted = Counter(part for part, _ in found[start : start + 512])
        for part, share in enumerate(shares):
            expected = 512 * share / BLOCK
            assert abs(counted[part] - expected) < 5 * np.sqrt(expected), "nowhere in a row"


def test_rows_are_those_of_each_part_alone() -> None:
    whole, seen = mixture(), Counter[int]()
    ends = [0, *whole.ends]
    for place, (part, own) in enumerate(places(whole.shares, 1)):
        row = whole.row_at(place, seed=7)
        assert row == ends[part] + row_at(own, SIZES[part], seed=7)
        assert whole[row] is SOURCES[part][row - ends[part]]
        seen[row] += 1
    # An epoch of a part holds each of its rows once: none is more than once ahead of another.
    for part in range(3):
        counts = [seen[row] for row in range(ends[part], ends[part + 1])]
        assert max(counts) - min(counts) <= 1


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(value, b[key]) for key, value in a.items())


def unequal(seeds: tuple[int, ...], numbers: list[int]) -> int:
    """Of batches put together from 2 and 4 processes, how many are not those of one."""
    count = 0
    for processes, number in itertools.product((2, 4), numbers):
        parts = [
            batches(process=p, processes=processes, seed=seeds[p])(number) for p in range(processes)
        ]
        together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        count += not same(together, batches()(number))
    return count


def test_a_batch_is_the_same_for_any_number_of_processes() -> None:
    assert unequal((5, 5, 5, 5), [0, 1, 17, 511, 512, 10**8]) == 0
    assert unequal((5, 6, 5, 5), [0, 1]) == 4, "planted: a process with a seed of its own"


@pytest.mark.parametrize("start", [0, 3, 510, 77_777])
def test_a_run_goes_on_anywhere(start: int) -> None:
    made = batches()
    mixing._placed.cache_clear()
    read = list(itertools.islice(stream(batches(), start=start), 4))
    assert all(same(batch, made(start + i)) for i, batch in enumerate(read))


def test_records_and_rows_seen() -> None:
    made = batches()
    seen = {int(mixture().row_at(place, 5)) for place in range(40)}
    assert made.rows_seen(5).tolist() == sorted(seen)
    named = {name for number in range(5) for name in made.record_ids(number)}
    assert named == {mixture()[row]["record_ids"].decode() for row in seen}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("runs/a",), "'runs/a' is not of the form WORKDIR=WEIGHT"),
        (("=1",), "'=1' is not of the form"),
        (("a=0",), "'a=0' is not of the form"),
        (("a=nan",), "'a=nan' is not of the form"),
        (("a=1", "a=2"), "a is named twice"),
    ],
)
def test_words_that_are_no_mixture(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        mixture_of(words)
    assert mixture_of(("a=b=1", "c=0.5")) == (("a=b", 1.0), ("c", 0.5))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    folder, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(0)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "MARKOV_ORDERS", range(2))
        for name, records in (("a", 6), ("b", 12), ("other", 3)):
            path = folder / f"{name}.fa"
            text = [
                f">{name}{n}\n{''.join(rng.choice(list('ACGT'), 300))}\n" for n in range(records)
            ]
            path.write_text("".join(text))
            options = CorpusOptions(
                (str(path),),
                row_length=16 if name == "other" else 32,
                validation_fraction=0.3 if name == "b" else 0.0,
            )
            found.append(build_corpus(options, str(folder / name)))
    return found


def test_several_corpora_are_as_one(corpora: list[Corpus]) -> None:
    a, b, other = corpora
    both = mixed(["a", "b"], [a, b], [1, 3])
    assert isinstance(both, Mixed)
    train = both.source("train")
    assert len(train) == len(a.source("train")) + len(b.source("train"))
    assert len(both.source("validation")) == len(b.source("validation"))
    assert both.splits["train"].bases == a.splits["train"].bases + b.splits["train"].bases
    assert both.splits["train"].bases_per_token == pytest.approx(1)
    last = len(train) - 1
    (tokens, lengths), *_ = train.segments([last])
    np.testing.assert_array_equal(tokens, b.source("train")[len(b.source("train")) - 1]["tokens"])
    assert lengths.sum() == len(tokens)
    prints = {
        mixed(["x", "y"], members, weights).fingerprint
        for members, weights in (([a, b], [1, 3]), ([a, b], [1, 1]), ([b, a], [1, 3]))
    }
    assert len(prints) == 3
    assert mixed(["moved", "b"], [a, b], [2, 6]).fingerprint == both.fingerprint
    with pytest.raises(UserError, match="of a and other differ in row_length"):
        mixed(["a", "other"], [a, other], [1, 1])


def test_a_folder_without_a_corpus_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="run prepare"):
        corpus.open_corpus(str(tmp_path))
