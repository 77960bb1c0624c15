"""Does a virus in a chromosome show, whole, where it lies, and nothing else?"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.tokenizers import reverse_complement
from dnallm_jax.scoring import genomes
from dnallm_jax.scoring import regions as finding
from dnallm_jax.scoring.output import Calls, Part, score_part
from dnallm_jax.scoring.regions import Region, bed, likeliest_path, regions, viral_runs
from tests.dnallm_jax.scoring.standin import Detector, LikesA, record


class LikesAT(LikesA):
    """Log-odds are 20 times the share of A and T above a half: the same on both strands."""

    @staticmethod
    def one(sequence: bytes) -> object:
        scored = LikesA.one(sequence)
        if scored.fraction_scored:
            share = sum(map(sequence.count, (b"A", b"T"))) / sum(map(sequence.count, LETTERS))
            scored.logit = 20 * (share - 0.5)
        return scored


LETTERS = (b"A", b"C", b"G", b"T")
CALLS = Calls(0.6, min_length=5)
EDGE = finding.WINDOW // 2  # how far from the truth a border may lie


def detector() -> Detector:
    made = Detector()
    made.scorer = LikesAT()
    return made


def dna(length: int, at: float, seed: int) -> bytes:
    """A share `at` of A and T: .4 is a host to this detector, .6 a virus, though windows vary."""
    shares = [at / 2, (1 - at) / 2, (1 - at) / 2, at / 2]
    letters = np.frombuffer(b"ACGT", "S1")
    return np.random.default_rng([seed, length]).choice(letters, length, p=shares).tobytes()


def found(*sequences: bytes, calls: Calls = CALLS) -> list[list[Region]]:
    records = [record(str(number), bases) for number, bases in enumerate(sequences)]
    part = Part(0, records, [False] * len(records), "")
    results = score_part(detector(), calls, part)
    return list(regions(detector(), calls, records, results))


HOST, VIRUS = dna(150_000, 0.42, 0), dna(30_000, 0.6, 1)
CHROMOSOME = HOST[:60_000] + VIRUS + HOST[60_000:]


def faults(answer: list[Region], start: int, stop: int) -> list[str]:
    """What is wrong with the regions of a sequence with one virus."""
    wrong = [] if len(answer) == 1 else [f"{len(answer)} regions"]
    for begin, end, score in answer:
        if abs(begin - start) > EDGE or abs(end - stop) > EDGE:
            wrong.append(f"{begin}-{end}, not {start}-{stop}")
        if score < CALLS.threshold:
            wrong.append(f"score {score}")
    return wrong


def test_a_virus_in_a_chromosome_shows() -> None:
    (answer,) = found(CHROMOSOME)
    assert faults(answer, 60_000, 90_000) == []
    # The chromosome as a whole is not called, and without the virus nothing in it is.
    assert found(HOST) == [[]]
    # A gap within the virus, a stretch of N, does not cut it in two.
    gap = b"N" * 4_000
    (answer,) = found(HOST[:60_000] + VIRUS[:13_000] + gap + VIRUS[17_000:] + HOST[60_000:])
    assert faults(answer, 60_000, 90_000) == []
    # Nor does a window that looks like a host, and one that looks viral makes no virus.
    cold, hot = dna(2_000, 0.42, 2), dna(2_500, 0.6, 3)
    (answer,) = found(HOST[:60_000] + VIRUS[:14_000] + cold + VIRUS[16_000:] + HOST[60_000:])
    assert faults(answer, 60_000, 90_000) == []
    assert found(HOST[:70_000] + hot + HOST[70_000:]) == [[]]
    # At both ends, and two of them.
    (answer,) = found(VIRUS + HOST + VIRUS)
    assert [faults([one], *edges) for one, edges in zip(
        answer, [(0, 30_000), (180_000, 210_000)], strict=True
    )] == [[], []]  # fmt: skip


def test_windows_by_themselves_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: each window is called alone, whatever its neighbours say."""
    monkeypatch.setattr(
        finding, "likeliest_path", lambda odds, enter, leave: (odds > 0).astype(int)
    )
    cold = dna(5_000, 0.42, 2)
    (answer,) = found(HOST[:60_000] + VIRUS[:14_000] + cold + VIRUS[16_000:] + HOST[60_000:])
    assert faults(answer, 60_000, 93_000) != []


def test_both_strands_have_the_same_regions() -> None:
    (forward,), (backward,) = found(CHROMOSOME), found(reverse_complement(CHROMOSOME))
    turned = [(len(CHROMOSOME) - stop, len(CHROMOSOME) - start) for start, stop, _ in backward]
    assert [(start, stop) for start, stop, _ in forward] == turned[::-1]
    assert [s for *_, s in forward] == pytest.approx([s for *_, s in backward[::-1]])


def test_short_sequences_and_what_has_no_score() -> None:
    viral, other = dna(900, 0.7, 4), dna(900, 0.3, 5)
    (one,), *rest = found(viral, other, b"AATT", b"", b"N" * 9_000, other * 20)
    assert one[:2] == (0, 900)
    assert rest == [[], [], [], [], []]
    # Of a virus that is longer than a window, all of it.
    assert [region[:2] for region in found(VIRUS)[0]] == [(0, 30_000)]
    # A run is called as a contig of its own would be.
    assert found(CHROMOSOME, calls=Calls(0.999)) == [[]]


def by_hand(log_odds: list[float], enter: float, leave: float) -> set[tuple[int, ...]]:
    """All paths, weighed one by one: the likeliest ones."""
    first = math.log(enter / (enter + leave)), math.log(leave / (enter + leave))
    step = {(0, 0): 1 - enter, (0, 1): enter, (1, 1): 1 - leave, (1, 0): leave}
    weights = {}
    for path in itertools.product((0, 1), repeat=len(log_odds)):
        value = first[0] if path[0] else first[1]
        value += sum(math.log(step[pair]) for pair in itertools.pairwise(path))
        weights[path] = value + sum(z for state, z in zip(path, log_odds, strict=True) if state)
    best = max(weights.values())
    return {path for path, value in weights.items() if value > best - 1e-9}


@given(
    st.lists(st.floats(-9, 9), min_size=1, max_size=8),
    st.floats(0.001, 0.5),
    st.floats(0.001, 0.5),
)
def test_the_likeliest_path_is_the_likeliest(
    log_odds: list[float], enter: float, leave: float
) -> None:
    path = likeliest_path(np.array(log_odds), enter, leave)
    assert tuple(path.tolist()) in by_hand(log_odds, enter, leave)


def test_runs_meet_in_the_middle() -> None:
    spans = [(0, 10), (5, 15), (10, 20), (15, 25)]
    odds = np.array([50.0, 50.0, -50.0, 50.0])
    assert viral_runs(spans, odds, 25) == [(0, 12), (17, 25)]
    assert viral_runs([], np.array([]), 0) == []


def test_lines_of_bed() -> None:
    records = [record("a|1", b"AAAAAACCCC" + b"C" * 10), record("b", b"AAAAAA")]
    part = Part(0, records, [False, False], "")
    likes_a = Detector()  # log-odds: three less than there are A's
    results = score_part(likes_a, CALLS, part)
    assert b"".join(bed(likes_a, CALLS, records, results)) == (
        b"a|1\t0\t20\tvirus\t953\nb\t0\t6\tvirus\t953\n"
    )


# --- whole genomes --------------------------------------------------------------------------------


def test_a_scan_counts_regions_by_group() -> None:
    plain = Detector(threshold_false_positive_rate=0.01)
    plain.scorer, plain.threshold = LikesAT(), 0.6
    described = [
        record("chr1", CHROMOSOME, "group=bacteria"),
        record("chr2", HOST, "group=fungi"),
        record("scrap", dna(900, 0.7, 4)),
    ]
    scanned = genomes.scan(plain, described)
    everything = scanned["all"]
    assert (everything["records"], everything["regions"]) == (3, 2)
    assert everything["bases"] == len(CHROMOSOME) + len(HOST) + 900
    rate = everything["per_million_bases"]
    assert rate["value"] == pytest.approx(2 / (everything["bases"] / 1e6))
    assert rate["low"] < rate["value"] < rate["high"]
    assert {n: e["regions"] for n, e in scanned["by_group"].items()} == {
        "bacteria": 1, "fungi": 0, "-": 1,
    }  # fmt: skip
    assert [entry["sequence_id"] for entry in scanned["longest"]] == ["chr1", "scrap"]
    with pytest.raises(UserError, match="hold no bases"):
        genomes.scan(plain, [record("empty", b"")])
