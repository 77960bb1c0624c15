"""Are training windows what they say: half viral, evenly drawn, from where they should come?"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from data_pipeline import contigs, cutting
from data_pipeline.cutting import WindowBatches, batch_rows, fixed_windows, table
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import Kmer, Nucleotide, reverse_complement
from data_pipeline.views import Bases, Composition, Frames, TokenView
from tests.data_pipeline.windows import (
    USUAL,
    Records,
    draws,
    joined,
    random_bases,
    record,
    same,
    usual_records,
    windows_of,
)

# Where windows come from


def misplaced(found: list[tuple[int, int, bytes]], records: Records, length: int) -> list[str]:
    """Windows that do not lie in their record or on its other strand, or have another label."""
    faults = []
    for label, number, window in found:
        bases = records[number]["bases"].tobytes()
        if records[number]["label"] != label:
            faults.append(f"label of record {number}")
        if len(window) != length:
            faults.append(f"length {len(window)}")
        if window not in bases and reverse_complement(window) not in bases:
            faults.append(f"not in record {number}")
    return faults


def test_windows_lie_in_their_records_on_either_strand() -> None:
    records = usual_records()
    batches = windows_of(records)
    for length in (60, 100):
        found = draws(batches, 300, length)
        assert misplaced(found, records, length) == []
        forward = sum(window in records[number]["bases"].tobytes() for _, number, window in found)
        assert 100 < forward < 200, "about half on each strand"
    starts = {
        records[number]["bases"].tobytes().find(window)
        for _, number, window in draws(batches, 2000, 60)
        if len(records[number]["bases"]) == 100
    }
    assert starts - {-1} == set(range(41)), "the first and the last place are drawn too"


def test_planted_windows_from_elsewhere_are_found() -> None:
    records = usual_records()
    found = draws(windows_of(records), 20)
    assert misplaced([(1 - label, n, w) for label, n, w in found], records, 100)
    assert misplaced([(label, (n + 1) % 10, w) for label, n, w in found], records, 100)
    assert misplaced([(label, n, w[::-1]) for label, n, w in found], records, 100)
    assert misplaced([(label, n, w[1:]) for label, n, w in found], records, 100)


@pytest.mark.parametrize("view", [Bases(Nucleotide()), Bases(Kmer(3)), Frames(Kmer(3))])
def test_a_batch_holds_the_windows_drawn_for_it(view: TokenView) -> None:
    records = usual_records()
    batches = windows_of(records, view)
    for number in range(4):
        batch = batches(number)
        rows = len(batch["tokens"])
        (length,) = {n for n in (60, 100) if view.row_length(n) == batch["tokens"].shape[1]}
        for j in range(rows):
            expected = view.segments(batches.draw(number, j, length)[1])[0]
            ids, tokens = batch["segment_ids"][j], batch["tokens"][j]
            read = [tokens[ids == n].tolist() for n in range(1, ids.max() + 1)]
            assert read == [segment.tolist() for segment in expected]


def test_both_lengths_occur_and_a_batch_has_one() -> None:
    batches = windows_of()
    widths = Counter(batches(number)["tokens"].shape[1] for number in range(40))
    assert set(widths) == {64, 112}
    assert min(widths.values()) > 10
    rows = {batches(number)["tokens"].shape for number in range(10)}
    assert rows == {(16, 64), (8, 112)}


def test_windows_of_all_lengths_share_a_batch_where_rows_are_alike() -> None:
    records = usual_records()
    batches = windows_of(records, Composition(), batch_tokens=320)
    batch = batches(3)
    assert set(batch) == {"features", "labels", "example_weights"}
    assert batch["features"].shape == (20, Composition.features)
    lengths = batches.lengths(3)
    assert lengths == [60, 100]
    pieces = [batches.draw(3, j, lengths[j // 2 % 2])[1] for j in range(20)]
    (expected,) = Composition().read(pieces, 100)
    np.testing.assert_array_equal(batch["features"], expected["features"])
    of_length = np.exp(batch["features"][:, -1]).round()
    for length in (60, 100):
        assert batch["labels"][of_length == length].mean() == 0.5, "length says nothing"


# A pure function of seed and number


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    batches = windows_of()
    for number in (0, 1, 7, 10**6):
        assert same(batches(number), windows_of()(number))
    assert not same(batches(0), batches(1))
    texts = {windows_of(seed=seed).draw(0, 1, 60)[1] for seed in range(20)}
    assert len(texts) > 17
    texts = {batches.draw(number, j, 60)[1] for number in range(5) for j in range(20)}
    assert len(texts) > 85


def unequal(make: Callable[..., WindowBatches]) -> int:
    """How many of 12 batches put together from 2 or 4 processes are not those of one."""
    found = 0
    for processes, number in itertools.product((2, 4), range(6)):
        parts = [make(process=p, processes=processes)(number) for p in range(processes)]
        found += not same(joined(parts), make(process=0, processes=1)(number))
    return found


def test_a_global_batch_is_the_same_for_any_number_of_processes() -> None:
    assert unequal(lambda **split: windows_of(parts=4, **split)) == 0


def test_planted_processes_that_draw_the_same() -> None:
    def apart(process: int, processes: int) -> WindowBatches:
        return windows_of(parts=4, batch_tokens=USUAL.batch_tokens // processes)

    assert unequal(apart) == 12


def test_rows_divide_over_labels_and_devices() -> None:
    for row, tokens, parts in itertools.product((16, 112, 5000), (100, 1000, 16_384), (1, 2, 3, 8)):
        rows = batch_rows(row, tokens, parts)
        assert rows % 2 == rows % parts == 0
        least = int(np.lcm(2, parts))
        assert rows == least or rows * row <= tokens < (rows + least) * row
    with pytest.raises(ValueError, match="do not divide over 3 processes"):
        windows_of(parts=2, process=0, processes=3)(0)


# Ambiguity and mutation


def spotted_records() -> Records:
    """Of each label a record with half its letters unknown, and one with every tenth."""
    half = random_bases(0, 300)
    half = b"N" * 150 + half[150:]
    tenth = bytes(b if n % 10 else ord("R") for n, b in enumerate(random_bases(1, 300)))
    return Records([record(n, n % 2, bases) for n, bases in enumerate((half, half, tenth, tenth))])


def ambiguous_shares(batches: WindowBatches, count: int = 400) -> np.ndarray:
    windows = [np.frombuffer(window, np.uint8) for _, _, window in draws(batches, count)]
    return np.array([1 - np.isin(window, list(b"ACGT")).mean() for window in windows])


def test_windows_of_many_unknown_letters_are_drawn_again() -> None:
    records = spotted_records()
    shares = ambiguous_shares(windows_of(records, max_ambiguous=0.1))
    assert shares.max() <= 0.1 + 1e-9
    assert (shares > 0.09).any(), "a share of just as many is taken"


def test_planted_no_window_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_TRIES", 1)
    assert ambiguous_shares(windows_of(spotted_records(), max_ambiguous=0.1)).max() > 0.5


def test_where_all_are_ambiguous_the_least_ambiguous_is_taken() -> None:
    # The 21 windows of a record have from 0.5 to 0.7 unknown letters.
    records = Records([record(n, n % 2, b"N" * 70 + b"A" * 50) for n in range(2)])
    shares = ambiguous_shares(windows_of(records))
    assert 0.5 <= shares.min() < shares.mean() < 0.52


def test_records_of_nothing_but_unknown_letters_end_the_drawing() -> None:
    records = Records([record(n, n % 2, b"N" * 120) for n in range(2)])
    assert windows_of(records).draw(0, 0, 100) == (0, b"N" * 100)


@pytest.mark.parametrize("rate", [0.0, 0.04, 0.4])
def test_that_share_of_letters_is_replaced_at_random(rate: float) -> None:
    records = Records([record(n, n % 2, b"A" * 500) for n in range(2)])
    batches = windows_of(records, mutate=rate)
    letters = Counter(b"".join(batches.draw(n, 0, 100)[1] for n in range(400)))
    strand = letters[ord("A")] + letters[ord("T")] - letters[ord("C")] - letters[ord("G")]
    assert abs(letters[ord("C")] / 40_000 - rate / 4) < 0.01
    assert abs(letters[ord("G")] / 40_000 - rate / 4) < 0.01
    assert abs(strand / 40_000 - (1 - rate)) < 0.03
    if not rate:
        assert set(letters) == set(b"AT")


def hidden_runs(share: float, length: int, windows: int = 600) -> list[int]:
    """The lengths of all runs of N in windows of records without any."""
    records = Records([record(n, n % 2, b"A" * 2000) for n in range(2)])
    batches = windows_of(records, unknown=share, lengths=(length,))
    found = (batches.draw(n, n % 2, length)[1] for n in range(windows))
    runs = [run for window in found for run in re.findall(b"N+", window)]
    return [len(run) for run in runs]


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_that_share_of_letters_lies_hidden_in_runs(share: float) -> None:
    runs = hidden_runs(share, 800)
    assert abs(sum(runs) / (600 * 800) - share) < share / 4
    assert min(runs) == 1
    assert 80 < max(runs) < 250, "two of up to 100 may touch"
    assert np.median(runs) < 20, "most are short"
    assert hidden_runs(0.0, 800, 20) == []
    assert max(hidden_runs(0.1, 8)) <= 8, "in short windows too"


def test_windows_begin_at_multiples_of_a_step() -> None:
    records = usual_records()
    starts = {
        records[number]["bases"].tobytes().find(window)
        for _, number, window in draws(windows_of(records, start_step=7), 600, 60)
    } - {-1}
    assert {start % 7 for start in starts} == {0}
    assert max(starts) > 100
    at_the_first = draws(windows_of(records, start_step=10**9, strands="forward"), 50, 60)
    assert all(records[n]["bases"].tobytes().startswith(window) for _, n, window in at_the_first)


def test_one_strand_alone() -> None:
    records = usual_records()
    found = draws(windows_of(records, strands="forward"), 100)
    assert all(window in records[number]["bases"].tobytes() for _, number, window in found)


# Mixes of lengths


def test_lengths_are_drawn_as_often_as_their_weights_say() -> None:
    batches = windows_of(length_weights=(3.0, 1.0))
    found = Counter(batches.lengths(number)[0] for number in range(600))
    assert abs(found[60] / 600 - 0.75) < 0.06
    assert batches.expected() == {60: pytest.approx(0.75 * 16), 100: pytest.approx(0.25 * 8)}
    assert windows_of().expected() == {60: pytest.approx(8), 100: pytest.approx(4)}


def test_windows_of_all_lengths_fit_few_shapes() -> None:
    batches = windows_of(min_length=20)
    shapes, lengths, labels = Counter(), Counter(), defaultdict(list)
    for number in range(150):
        batch = batches(number)
        shapes[batch["tokens"].shape] += 1
        for label, ids in zip(batch["labels"], batch["segment_ids"], strict=True):
            lengths[int((ids > 0).sum())] += 1
            labels[int((ids > 0).sum())].append(label)
    assert set(shapes) == {(16, 64), (8, 112)}
    assert min(lengths) == 20
    assert max(lengths) == 100
    assert {n for n in lengths if n > 60} < set(range(61, 101))
    of_shape = {
        n: sum(c for k, c in lengths.items() if low < k <= n) for low, n in ((0, 60), (60, 100))
    }
    assert min(of_shape.values()) > 300
    assert len(lengths) > 15
    assert all(np.mean(found) == 0.5 for found in labels.values()), "length says nothing"
    assert sum(batches.expected().values()) == pytest.approx(
        sum(c for c in lengths.values()) / 150, rel=0.15
    )


def test_planted_lengths_that_tell_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        WindowBatches, "_length", lambda self, number, j, lengths: lengths[j % len(lengths)]
    )
    labels = defaultdict(list)
    batches = windows_of(min_length=20)
    for number in range(10):
        batch = batches(number)
        for label, ids in zip(batch["labels"], batch["segment_ids"], strict=True):
            labels[int((ids > 0).sum())].append(label)
    assert any(np.mean(found) != 0.5 for found in labels.values())


# Mistakes


def test_no_record_long_enough() -> None:
    with pytest.raises(UserError) as raised:
        windows_of(lengths=(60, 5000))
    assert str(raised.value) == (
        "no non-viral training record is 5000 bases or longer; take 5000 out of "
        "--config.finetune.lengths (or composition.lengths), or add longer records"
    )
    records = usual_records()
    records.records.append(record(99, 0, b"A" * 5000))
    with pytest.raises(UserError, match=r"^no viral training record is 5000 bases or longer; take"):
        windows_of(records, lengths=(5000,))
    assert windows_of(lengths=(248,)).draw(0, 0, 248)


def test_an_unknown_balance_key() -> None:
    for key in ("balance_key", "negative_balance_key"):
        with pytest.raises(UserError) as raised:
            windows_of(**{key: "familly"})
        assert str(raised.value) == (
            "balance key 'familly' is not one of group, cluster, family, genus, phylum, organism, "
            "novelty, source, id"
        )


# What others read


def test_the_table_of_records() -> None:
    records = usual_records()
    columns = table(records)
    assert set(columns) == {"id", "label", "length", *contigs.METADATA}
    assert columns["label"].tolist() == [r["label"] for r in records.records]
    assert columns["length"].tolist() == [len(r["bases"]) for r in records.records]
    assert columns["family"].tolist()[:3] == ["big", "big", "big"]
    assert columns["id"].tolist() == [f"r{n}" for n in range(len(records))]


def test_fixed_windows_are_drawn_as_training_windows_are() -> None:
    records = usual_records()
    batches = windows_of(records)
    windows, labels = fixed_windows(batches, (60, 100), 40)
    assert labels.tolist() == [0, 1] * 40
    assert [len(window) for window in windows] == [60] * 40 + [100] * 40
    assert all(window.dtype == np.uint8 for window in windows)
    for j in range(40):
        assert windows[j].tobytes() == batches.draw(0, j, 60)[1]
        assert windows[40 + j].tobytes() == batches.draw(0, j, 100)[1]
