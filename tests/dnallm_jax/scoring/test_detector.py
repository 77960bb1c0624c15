"""Does the Python API take what people have, and say what the command says?"""

import subprocess
import sys

import pytest

import dnallm_jax
from data_pipeline.errors import UserError
from data_pipeline.reading import Record
from dnallm_jax.scoring.detector import Detector
from dnallm_jax.scoring.output import Calls, Result
from tests.dnallm_jax.scoring import standin

DETECTOR = Detector(standin.Detector(), Calls(0.5), 1)
BASES = "AAAA" * 30


def ids_and_scores(sequences: object) -> list[tuple[str, float | None]]:
    return [(row.sequence_id, row.virus_score) for row in DETECTOR.score(sequences)]


def test_sequences_of_every_kind() -> None:
    high, low = (
        row.virus_score for row in DETECTOR.score([BASES, "CCCC"]) if isinstance(row, Result)
    )
    assert high > 0.9 > 0.1 > low
    expected = [("x", high), ("y", low)]
    for sequences in (
        {"x": BASES, "y": b"CCCC"},
        [("x", BASES.encode()), ("y", "CCCC")],
        iter([standin.record("x", BASES.encode()), Record("y", "", b"CCCC")]),
    ):
        assert ids_and_scores(sequences) == expected
    assert ids_and_scores([BASES, b"CCCC"]) == [("0", high), ("1", low)]
    assert ids_and_scores([]) == []


def test_letters_are_read_as_from_a_file() -> None:
    (row,) = DETECTOR.score(["acgu-ACGT.N"])
    assert (row.length, row.status) == (9, "short")


@pytest.mark.parametrize("sequences", ["ACGT", b"ACGT"])
def test_a_single_sequence_is_refused(sequences: object) -> None:
    with pytest.raises(TypeError, match="put a single one into a list"):
        list(DETECTOR.score(sequences))


def test_what_is_no_dna_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"^sequence 1: 'E' is no letter of DNA or RNA$"):
        list(DETECTOR.score(["ACGT", "ACGTEFILPQ"]))
    with pytest.raises(UserError, match=r"^sequence p: 'Ã' is no letter"):
        list(DETECTOR.score({"p": "ACGTé"}))
    with pytest.raises(TypeError, match="sequence 0: a int, not letters"):
        list(DETECTOR.score([7]))


def test_results_come_as_they_are_asked_for() -> None:
    asked = []

    def sequences():
        for number in range(100_000):
            asked.append(number)
            yield BASES

    results = DETECTOR.score(sequences())
    assert next(results).virus_score > 0.9
    results.close()
    assert len(asked) < 10_000


def test_the_package_is_light_until_it_is_used() -> None:
    program = (
        "import sys, dnallm_jax; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; "
        "dnallm_jax.Detector; assert 'jax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert dnallm_jax.Detector is Detector
    assert dnallm_jax.Result is Result
    with pytest.raises(AttributeError, match="Scorer"):
        _ = dnallm_jax.Scorer
