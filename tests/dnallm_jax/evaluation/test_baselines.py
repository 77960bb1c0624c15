"""Baselines see composition, the same from both strands, and nothing where there is nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from dnallm_jax.evaluation import baselines, convolution
from dnallm_jax.evaluation.convolution import ConvolutionBaseline

COMPLEMENT = bytes.maketrans(b"ACGTacgt", b"TGCAtgca")


def array(bases: bytes) -> np.ndarray:
    return np.frombuffer(bases, dtype=np.uint8)


def reverse_complement(bases: bytes) -> bytes:
    return bases[::-1].translate(COMPLEMENT)


def canonical(kmer: bytes) -> bytes:
    return min(kmer, reverse_complement(kmer))


def counted_by_hand(bases: bytes, k: int) -> np.ndarray:
    """The slow, obvious way."""
    upper = bases.upper()
    names = sorted({canonical(bytes(kmer)) for kmer in itertools.product(b"ACGT", repeat=k)})
    counts = dict.fromkeys(names, 0)
    for start in range(len(upper) - k + 1):
        kmer = upper[start : start + k]
        if set(kmer) <= set(b"ACGT"):
            counts[canonical(kmer)] += 1
    total = sum(counts.values())
    return np.array([counts[name] / max(total, 1) for name in names], dtype=np.float32)


@settings(max_examples=60, deadline=None)
@given(bases=st.text("ACGTacgtNRY", max_size=60).map(str.encode), k=st.sampled_from([3, 4]))
def test_kmer_frequencies_are_those_counted_by_hand(bases: bytes, k: int) -> None:
    frequencies = baselines.kmer_frequencies([array(bases)], k)[0]
    assert frequencies == pytest.approx(counted_by_hand(bases, k), abs=1e-6)


@pytest.mark.parametrize(("k", "columns"), [(3, 32), (4, 136), (5, 512), (6, 2080)])
def test_both_strands_look_the_same(k: int, columns: int) -> None:
    random = np.random.default_rng(k)
    bases = random.choice(array(b"ACGTN"), 500, p=[0.4, 0.1, 0.1, 0.35, 0.05]).tobytes()
    both = [array(bases), array(reverse_complement(bases))]
    forward, reverse = baselines.kmer_frequencies(both, k)
    assert forward.shape == (columns,)
    assert (forward == reverse).all()
    assert forward.sum() == pytest.approx(1)
    # The planted fault: plain reversal is another sequence, and must look like one.
    reversed_only = baselines.kmer_frequencies([array(bases[::-1])], k)[0]
    assert (reversed_only != forward).any()


def test_contigs_without_any_kmer_are_zeros() -> None:
    odd = [array(b""), array(b"ACG"), array(b"NNNNNNNN"), array(b"ACGTACGT")]
    assert baselines.kmer_frequencies(odd, 4).sum(axis=1) == pytest.approx([0, 0, 0, 1])
    assert baselines.gc_content(odd)[:, 0] == pytest.approx([0.5, 2 / 3, 0.5, 0.5])


def contigs(count: int, gc: float, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shares = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return [random.choice(array(b"ACGT"), 300, p=shares) for _ in range(count)]


def test_every_standard_baseline_learns_what_it_can_see() -> None:
    """Classes differ in GC content: all but the majority must find that, and no other number."""
    train = contigs(60, 0.4, 0) + contigs(60, 0.6, 1)
    test = contigs(30, 0.4, 2) + contigs(30, 0.6, 3)
    flipped = [array(reverse_complement(contig.tobytes())) for contig in test]
    labels = np.repeat([0, 1], 60)
    names = []
    for baseline in baselines.standard_baselines():
        baseline.fit(train, labels)
        scores = baseline.predict(test)
        names.append(baseline.name)
        assert baseline.predict(flipped) == pytest.approx(scores, abs=1e-5), baseline.name
        assert scores.dtype == np.float64
        assert scores.shape == (60,)
        assert (scores >= 0).all()
        assert (scores <= 1).all()
        if baseline.name == "majority class":
            assert (scores == 0.5).all()
        else:
            assert (scores[:30] < 0.5).mean() > 0.8, baseline.name
            assert (scores[30:] > 0.5).mean() > 0.8, baseline.name
    assert len(set(names)) == len(names) == 9


def test_nothing_is_learnt_where_there_is_nothing() -> None:
    """Labels drawn by lot: a baseline that scored well here would have seen the answer."""
    train, test = contigs(120, 0.5, 0), contigs(400, 0.5, 1)
    labels = np.random.default_rng(0).integers(0, 2, 120)
    answers = np.random.default_rng(1).integers(0, 2, 400)
    for baseline in baselines.standard_baselines():
        baseline.fit(train, labels)
        assert abs(((baseline.predict(test) > 0.5) == answers).mean() - 0.5) < 0.1, baseline.name


def test_a_convolution_reads_all_of_a_contig() -> None:
    """In pieces, whose mean it is; of what is no base, and of nothing, it says the same."""
    network = ConvolutionBaseline(params=convolution.initial(np.random.default_rng(0)))
    one, other = contigs(2, 0.5, 4)
    whole = np.concatenate([one, other, one, other])  # 1,200 bases: three pieces of 400
    pieces = np.array_split(whole, 3)
    odds = [logit(network.predict([piece])[0]) for piece in (*pieces, whole)]
    assert odds[-1] == pytest.approx(np.mean(odds[:-1]), abs=1e-5)
    nothing, unknown = network.predict([array(b""), array(b"N" * 90)])
    assert nothing == unknown
    with pytest.raises(ValueError, match="predict before fit"):
        ConvolutionBaseline().predict([one])
