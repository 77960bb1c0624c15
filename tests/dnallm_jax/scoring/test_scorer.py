"""Does a sequence's score depend on the sequence alone, the same on both strands, whole?"""

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import numpy as np
import pytest

from data_pipeline.tokenizers import Kmer, Nucleotide, reverse_complement
from data_pipeline.views import Bases, Frames, TokenView
from dnallm_jax.evaluation.aggregation import Aggregation
from dnallm_jax.model import network
from dnallm_jax.model.classifier import Classifier, pooled_rows
from dnallm_jax.model.gpt import GPTSpec, logical_axes
from dnallm_jax.model.network import gpt_network
from dnallm_jax.parallel.execution import on_mesh
from dnallm_jax.parallel.mesh import make_mesh, tree_shardings
from dnallm_jax.scoring import batches
from dnallm_jax.scoring import scorer as scoring
from dnallm_jax.scoring.batches import row_lengths
from dnallm_jax.scoring.scorer import Scored, Scorer, windows
from tests.dnallm_jax.scoring.test_windows import rounded
from tests.dnallm_jax.tiny import RUN, SPEC, numpy_params, quick_jit

WINDOW = 300
NUCLEOTIDES = Bases(Nucleotide())
CLOSE = 1e-5  # how far log-odds may move with what they should not depend on


def random_bases(length: int, seed: int) -> bytes:
    return (
        np.random.default_rng([seed, length]).choice(np.frombuffer(b"ACGT", "S1"), length).tobytes()
    )


# Around every edge: of padded lengths (32, 64, 160, 304), of one window, of an even and an odd
# number of them, and with letters that are no bases.
LENGTHS = (1, 2, 60, 150, 151, 152, 213, 214, 300, 301, 599, 600, 601, 750, 899, 900, 1201)
SEQUENCES = [random_bases(length, seed) for seed, length in enumerate(LENGTHS)]
SEQUENCES += [
    random_bases(200, 91) + b"N" * 90 + random_bases(211, 92),
    random_bases(120, 93).lower() + b"RYKM" * 30 + random_bases(100, 94),
]


@pytest.fixture(scope="module", autouse=True)
def _few_lengths_to_compile() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_ROW_STEP", 1.0)
        yield


@functools.cache  # so that shapes are compiled once
def make(
    view: TokenView = NUCLEOTIDES,
    *,
    devices: int = 1,
    batch_tokens: int = 2_048,
    pooling: str = "mean",
    attention: str = "reference",  # which compiles faster
) -> Scorer:
    """A scorer with a random network and a random head, split over some of the fake devices."""
    spec: GPTSpec = dataclasses.replace(SPEC, vocab_size=view.tokenizer.vocab_size)
    mesh = make_mesh(devices=jax.devices()[:devices])
    module = functools.partial(Classifier, pooling=pooling)
    shardings = tree_shardings(mesh, logical_axes(module, spec))
    run = on_mesh(dataclasses.replace(RUN, attention=attention), mesh)
    return Scorer(
        jax.device_put(numpy_params(module, spec), shardings),
        gpt_network(spec, run, pooling=pooling, causal=True),
        view=view,
        window=WINDOW,
        batch_tokens=batch_tokens,
        mesh=mesh,
    )


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return make(attention="blockwise")


@pytest.fixture(scope="module")
def frames() -> Scorer:
    return make(Frames(Kmer(3)), pooling="attention")


def logits(scorer: Scorer, sequences: Sequence[bytes]) -> np.ndarray:
    return np.array([scored.logit for scored in scorer.score(sequences)])


# --- nothing but the sequence ---------------------------------------------------------------------


def largest_stray(scorer: Scorer, others: Sequence[Scorer] = ()) -> float:
    """How far log-odds move with neighbours, order, and what the other scorers do differently."""
    together = logits(scorer, SEQUENCES)
    assert np.isfinite(together).all()
    assert np.ptp(together) > 0.1, "sequences that all score alike would hide every fault"
    backwards = logits(scorer, SEQUENCES[::-1])[::-1]
    crowded = logits(scorer, [random_bases(290, 5), *SEQUENCES, *SEQUENCES])[1:]
    answers = [backwards, crowded[: len(SEQUENCES)], crowded[len(SEQUENCES) :]]
    answers += [logits(scorer, [sequence])[0] for sequence in SEQUENCES[::4]]
    expected = [together] * 3 + list(together[::4])
    answers += [logits(other, SEQUENCES) for other in others]
    expected += [together] * len(others)
    return max(float(np.abs(a - b).max()) for a, b in zip(answers, expected, strict=True))


def test_a_score_depends_on_the_sequence_alone(scorer: Scorer) -> None:
    assert largest_stray(scorer, [make(batch_tokens=700)]) < CLOSE


def test_a_score_is_the_same_on_eight_devices(scorer: Scorer) -> None:
    sharded = make(devices=8)
    assert not sharded._params["backbone"]["blocks"]["wq"].is_fully_replicated
    assert largest_stray(scorer, [sharded]) < CLOSE


def test_equal_shapes_give_equal_bits(scorer: Scorer) -> None:
    same = [random_bases(280, seed) for seed in range(40)]
    one = logits(scorer, same)
    assert one.tobytes() == logits(scorer, same).tobytes()
    assert one.tobytes() == logits(scorer, same[::-1])[::-1].tobytes()
    assert one[:7].tobytes() == logits(scorer, same[:7]).tobytes()


def mixing_rows(*args: object, **kwargs: object) -> tuple[jax.Array, jax.Array]:
    """A planted fault: a little of the other rows of a batch comes in."""
    own, weight = pooled_rows(*args, **kwargs)
    return own + 1e-3 * own.mean(axis=0), weight


def test_the_check_of_independence_sees_rows_that_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "pooled_rows", mixing_rows)
    # Parameters of its own in the cache of `make`: the fault must be compiled, and must not stay.
    assert largest_stray(make.__wrapped__()) > CLOSE


def test_no_more_shapes_are_compiled_than_there_are_padded_lengths(scorer: Scorer) -> None:
    logits(scorer, SEQUENCES)
    rows = scorer._batches.rows
    compiled = rows._cache_size()
    assert compiled <= len(row_lengths(NUCLEOTIDES.row_length(WINDOW)))
    scaled = jax.tree.map(
        lambda leaf: jax.device_put(1.1 * np.asarray(leaf), leaf.sharding), scorer._params
    )
    other = scorer.of(scaled)
    assert not np.allclose(logits(other, SEQUENCES), logits(scorer, SEQUENCES))
    assert rows._cache_size() == compiled


# --- segments in rows of their own ----------------------------------------------------------------


def from_whole_rows(scorer: Scorer, pieces: Sequence[bytes]) -> np.ndarray:
    """Log-odds of windows whose segments lie side by side in one row, as in training."""
    view = scorer._batches._view
    reference = gpt_network(
        dataclasses.replace(SPEC, vocab_size=view.tokenizer.vocab_size),
        dataclasses.replace(RUN, attention="reference"),
        pooling="attention" if "pool_query" in scorer._params else "mean",
        causal=True,
    )
    compiled = quick_jit(reference.logits)
    strands = [compiled(scorer._params, batch)[0] for batch in view.read(pieces, WINDOW)]
    return np.mean(strands, axis=0)


@pytest.mark.parametrize("name", ["scorer", "frames"])
def test_a_row_a_segment_is_the_row_of_the_window(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = request.getfixturevalue(name)
    pieces = [random_bases(length, 7) for length in (2, 40, 150, 299, 300)]
    expected = from_whole_rows(scorer, pieces)
    np.testing.assert_allclose(logits(scorer, pieces), expected, atol=CLOSE)
    if name == "frames":
        assert max(len(read[0]) for read in scorer._batches._view.segments_batch(pieces)) > 1
        monkeypatch.setattr(batches, "_mean_of_each", all_alike)
        assert np.abs(logits(scorer, pieces) - expected).max() > 100 * CLOSE


def all_alike(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A planted fault: a short segment is as heavy as a long one."""
    return mean_of_each(np.where(np.arange(values.shape[1]) < SPEC.width, values, 0), counts)


mean_of_each = batches._mean_of_each


# --- both strands ---------------------------------------------------------------------------------


def largest_gap_between_strands(scorer: Scorer) -> float:
    sequences = SEQUENCES[2:]  # of one or two bases, the strands may be the same
    flipped = [reverse_complement(sequence) for sequence in sequences]
    return float(np.abs(logits(scorer, sequences) - logits(scorer, flipped)).max())


@dataclasses.dataclass(frozen=True)
class OneStrand(Bases):
    """A planted fault: the sequence as it stands, and nothing else."""

    strands: ClassVar[int] = 1


@pytest.fixture(scope="module")
def one_strand(scorer: Scorer) -> Scorer:
    other = copy.copy(scorer)
    other._batches = copy.copy(scorer._batches)
    other._batches._view = OneStrand(Nucleotide())
    return other


@pytest.fixture(scope="module")
def kmers() -> Scorer:
    return make(Bases(Kmer(3)), pooling="last")


@pytest.mark.parametrize("name", ["scorer", "kmers", "frames"])
def test_both_strands_score_the_same(name: str, request: pytest.FixtureRequest) -> None:
    assert largest_gap_between_strands(request.getfixturevalue(name)) < CLOSE


def test_the_check_of_strands_sees_planted_faults(
    scorer: Scorer, one_strand: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert largest_gap_between_strands(one_strand) > 100 * CLOSE
    monkeypatch.setattr(scoring, "windows", rounded)
    assert largest_gap_between_strands(scorer) > CLOSE


def test_a_score_is_the_mean_of_both_strands(scorer: Scorer, one_strand: Scorer) -> None:
    sequences = [sequence for sequence in SEQUENCES if len(sequence) <= WINDOW]
    forward = logits(one_strand, sequences)
    backward = logits(one_strand, [reverse_complement(sequence) for sequence in sequences])
    scored = list(scorer.score(sequences))
    np.testing.assert_allclose([s.logit for s in scored], (forward + backward) / 2, atol=CLOSE)
    np.testing.assert_allclose([s.strand_gap for s in scored], abs(forward - backward), atol=CLOSE)
    assert max(s.strand_gap for s in scored) > 100 * CLOSE


def test_strands_read_together_have_no_gap(frames: Scorer) -> None:
    assert {scored.strand_gap for scored in frames.score(SEQUENCES[4:6])} == {0.0}


# --- whole sequences ------------------------------------------------------------------------------


def by_hand(scorer: Scorer, sequence: bytes) -> Scored:
    """The mean over windows, each as heavy as it has bases."""
    pieces = [sequence[start:stop] for start, stop in windows(len(sequence), WINDOW)]
    known = [sum(letter in b"ACGTacgt" for letter in piece) for piece in pieces]
    each = list(scorer.score(pieces))
    share = sum(letter in b"ACGTacgt" for letter in sequence) / len(sequence)
    return Scored(
        logit=sum(n * s.logit for n, s in zip(known, each, strict=True)) / sum(known),
        windows=len(pieces),
        fraction_scored=share,
        strand_gap=sum(n * s.strand_gap for n, s in zip(known, each, strict=True)) / sum(known),
        by_window=tuple(s.logit for s in each),
        shares=tuple(n / sum(known) for n in known),
    )


@pytest.mark.parametrize("which", [-1, -2, -3, -6], ids=lambda which: f"{len(SEQUENCES[which])} b")
def test_a_long_sequence_is_the_mean_over_its_windows(scorer: Scorer, which: int) -> None:
    sequence = SEQUENCES[which]
    (scored,) = scorer.score([sequence])
    expected = by_hand(scorer, sequence)
    assert scored.windows == expected.windows > 1
    assert scored.fraction_scored == pytest.approx(expected.fraction_scored)
    assert scored.logit == pytest.approx(expected.logit, abs=CLOSE)
    assert scored.strand_gap == pytest.approx(expected.strand_gap, abs=CLOSE)
    assert scored.by_window == pytest.approx(expected.by_window, abs=CLOSE)
    assert scored.shares == pytest.approx(expected.shares)
    # With an aggregation of another kind, what that makes of the same windows; of one, the same.
    soft = copy.copy(scorer)
    soft._aggregation = Aggregation(-0.5)
    (leaning,) = soft.score([sequence])
    assert leaning.logit == pytest.approx(soft._aggregation.of([scored.read])[0])
    assert leaning.logit < scored.logit - CLOSE
    short = [sequence for sequence in SEQUENCES if len(sequence) <= WINDOW]
    assert logits(soft, short).tolist() == logits(scorer, short).tolist()


@pytest.mark.parametrize("name", ["scorer", "frames"])
def test_an_embedding_is_what_the_head_reads(name: str, request: pytest.FixtureRequest) -> None:
    scorer = request.getfixturevalue(name)
    assert scorer.embeds
    sequences = [SEQUENCES[-1], b"", SEQUENCES[6], b"N" * 80, SEQUENCES[-6]]
    embedded, scored = list(scorer.embed(sequences)), list(scorer.score(sequences))
    for vector, of in zip(embedded, scored, strict=True):
        assert (vector is None) == np.isnan(of.logit)
        if vector is not None:
            read = np.asarray(scorer._params["head_norm"] * scorer._params["head_kernel"])
            found = vector @ read + float(scorer._params["head_bias"])
            assert found == pytest.approx(of.logit, abs=CLOSE)


def test_windows_without_bases_weigh_nothing(scorer: Scorer) -> None:
    bases = random_bases(WINDOW, 1)
    alone, padded = scorer.score([bases, bases + b"N" * WINDOW])
    assert (padded.windows, padded.fraction_scored) == (2, 0.5)
    assert padded.logit == pytest.approx(alone.logit, abs=CLOSE)


@pytest.mark.parametrize("name", ["scorer", "frames"])
def test_what_has_no_bases_has_no_score(name: str, request: pytest.FixtureRequest) -> None:
    sequences = [b"", b"N", b"N" * 50, b"N" * 601, b"RYKM-", random_bases(50, 0), b""]
    *unscored, whole, last = request.getfixturevalue(name).score(sequences)
    for scored in (*unscored, last):
        assert np.isnan(scored.logit)
        assert np.isnan(scored.strand_gap)
        assert scored.fraction_scored == 0.0
    assert [s.windows for s in unscored] == [0, 1, 1, 3, 1]
    assert np.isfinite(whole.logit)
    assert whole.fraction_scored == 1.0


def test_a_group_of_nothing_but_empty_sequences(scorer: Scorer) -> None:
    assert [s.windows for s in scorer.score([b"", b""])] == [0, 0]
    assert list(scorer.score([])) == []


def test_letters_of_either_case_and_uracil_score_the_same(scorer: Scorer) -> None:
    bases = random_bases(260, 3)
    upper, lower = scorer.score([bases, bases.lower()])
    assert upper == lower


def test_ambiguous_letters_that_overflow_the_row_do_no_harm(kmers: Scorer) -> None:
    # A row of 3-mers has a third of a token for a base; a base beside an N takes a whole one.
    crowded, clean = kmers.score([b"ACGTN" * 60, random_bases(300, 1)])
    assert np.isfinite([crowded.logit, clean.logit]).all()
    assert crowded.fraction_scored == pytest.approx(0.8)


# --- streams --------------------------------------------------------------------------------------


def test_results_come_before_the_input_ends(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(scorer, SEQUENCES)
    monkeypatch.setattr(scoring, "_GROUP_BASES", 700)
    taken = []

    def sequences() -> Iterator[bytes]:
        for sequence in SEQUENCES:
            taken.append(len(sequence))
            yield sequence

    results = scorer.score(sequences())
    first = next(results)
    assert sum(taken) < 1_300, "a group is a bounded number of bases"
    found = np.array([first.logit, *(scored.logit for scored in results)])
    np.testing.assert_allclose(found, expected, atol=CLOSE)
    assert len(taken) == len(SEQUENCES)
