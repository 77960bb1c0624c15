"""Are the stretches called viral those whose windows are, and nothing else?"""

import pytest

from dnallm_jax.scoring import regions as finding
from dnallm_jax.scoring.output import Calls, Part, score_part
from dnallm_jax.scoring.regions import bed, regions
from dnallm_jax.scoring.scorer import windows
from tests.dnallm_jax.scoring.standin import Detector, record

DETECTOR = Detector()  # likes A: a window with four of them is called viral
CALLS = Calls(0.6, min_length=5)


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "WINDOW", 10)


def found(*sequences: bytes) -> list[list[tuple[int, int]]]:
    records = [record(str(number), bases) for number, bases in enumerate(sequences)]
    part = Part(0, records, [False] * len(records), "")
    results = score_part(DETECTOR, CALLS, part)
    answers = list(regions(DETECTOR, CALLS, records, results))
    for bases, answer in zip(sequences, answers, strict=True):
        assert answer == by_hand(bases)
    return [[(start, stop) for start, stop, _ in answer] for answer in answers]


def by_hand(bases: bytes) -> list[tuple[int, int, float]]:
    """Every base on its own: is it in a window that is called?"""
    if len(bases) < 5:
        return []
    spans = windows(len(bases), 10)
    best = [0.0] * len(bases)
    for start, stop in spans:
        piece = bases[start:stop]
        if set(piece) & set(b"ACGT"):
            score = DETECTOR.probability(DETECTOR.scorer.one(piece), len(piece))
            for place in range(start, stop) if score >= 0.6 else ():
                best[place] = max(best[place], score)
    answer: list[tuple[int, int, float]] = []
    for place, score in enumerate(best):
        if score and answer and answer[-1][1] == place:
            start, _, high = answer.pop()
            answer.append((start, place + 1, max(high, score)))
        elif score:
            answer.append((place, place + 1, score))
    return answer


def test_regions() -> None:
    viral, other = b"AAAAAACCCC", b"CCCCCCCCCC"
    assert found(viral, other, b"AAAA", b"") == [[(0, 10)], [], [], []]
    assert found(viral + other + viral + viral + b"NNNNNNNNNN") == [[(0, 10), (20, 40)]]
    assert found(other * 3, b"N" * 30) == [[], []]


@pytest.mark.parametrize("length", [11, 25, 37, 99])
def test_windows_that_overlap_are_one_region(length: int) -> None:
    assert found(b"AAAAAAAAAA" * 10 + b"C" * length)  # compared with by_hand
    assert found((b"A" * 12 + b"C" * 23) * (length // 10))


def test_lines_of_bed() -> None:
    records = [record("a|1", b"AAAAAACCCC" + b"C" * 10), record("b", b"AAAAAA")]
    part = Part(0, records, [False, False], "")
    assert bed(DETECTOR, CALLS, records, score_part(DETECTOR, CALLS, part)) == (
        b"a|1\t0\t10\tvirus\t953\nb\t0\t6\tvirus\t953\n"
    )
