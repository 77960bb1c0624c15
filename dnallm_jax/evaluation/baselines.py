"""What would something far simpler have said about the same contigs?

A detector that is not better than these has learnt composition and nothing more. Every baseline has
a name and two methods, fit(bases, labels) and predict(bases) -> probability, so a Markov model or a
network joins the list by having the same three.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import threadpoolctl
from scipy.special import expit
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline import kmers
from data_pipeline.composition import kmer_features_batch
from data_pipeline.views import Composition
from dnallm_jax.evaluation.convolution import CODES, ConvolutionBaseline

AMBIGUOUS = 4

Features = Callable[[Sequence[np.ndarray]], np.ndarray]


class Baseline(Protocol):
    """The common shape. `bases` are contigs as uint8 ASCII arrays, `labels` {0, 1}[N]."""

    @property
    def name(self) -> str: ...

    def fit(self, bases: Sequence[np.ndarray], labels: np.ndarray) -> None: ...

    def predict(self, bases: Sequence[np.ndarray]) -> np.ndarray:
        """float64[N]: probability of virus."""
        ...


@dataclasses.dataclass
class FeatureBaseline:
    """A scikit-learn classifier on a table of features of each contig."""

    name: str
    features: Features
    classifier: Any  # a scikit-learn classifier or pipeline with predict_proba

    def fit(self, bases: Sequence[np.ndarray], labels: np.ndarray) -> None:
        table, classes = self.features(bases), np.asarray(labels).astype(np.int64)
        # Boosting on threads that wait for one another on a shared machine was 3 to 6 times slower
        # than on one thread.
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            self.classifier.fit(table, classes)

    def predict(self, bases: Sequence[np.ndarray]) -> np.ndarray:
        virus = list(self.classifier.classes_).index(1)
        return self.classifier.predict_proba(self.features(bases))[:, virus].astype(np.float64)


@dataclasses.dataclass
class MarkovBaseline:
    """A Markov model of each class: the log-likelihood ratio of a contig, mean of both strands.

    Counts of both strands, one added to each; contigs that differ only in length, not in what they
    are made of, differ in how sure it is.
    """

    order: int
    ratios: np.ndarray | None = None  # float64[4^(order + 1)]: nats for virus of each word's end

    @property
    def name(self) -> str:
        return f"order-{self.order} Markov log-likelihood ratio"

    def fit(self, bases: Sequence[np.ndarray], labels: np.ndarray) -> None:
        counts = np.ones((2, 4 ** (self.order + 1)))
        for contig, label in zip(bases, labels, strict=True):
            for strand in self._words(contig):
                counts[int(label)] += np.bincount(strand, minlength=counts.shape[1])
        ends = counts.reshape(2, -1, 4)
        other, viral = np.log(ends / ends.sum(axis=2, keepdims=True)).reshape(2, -1)
        self.ratios = viral - other

    def predict(self, bases: Sequence[np.ndarray]) -> np.ndarray:
        if self.ratios is None:
            raise ValueError("predict before fit")
        strands = [self._words(contig) for contig in bases]
        nats = [np.mean([self.ratios[words].sum() for words in both]) for both in strands]
        return expit(np.array(nats))

    def _words(self, contig: np.ndarray) -> Sequence[np.ndarray]:
        return kmers.kmers(kmers.base_codes(contig.tobytes()), self.order + 1)


def standard_baselines(seed: int = 0) -> list[Baseline]:
    """The baselines that stand beside every result, simplest first; fitted by nobody yet."""
    return [
        FeatureBaseline("majority class", gc_content, DummyClassifier(strategy="prior")),
        FeatureBaseline("GC content", gc_content, logistic(1.0)),
        # The strengths were chosen among powers of ten on validation contigs of real genomes.
        MarkovBaseline(5),
        FeatureBaseline("4-mer logistic regression", frequencies(4), logistic(0.1)),
        FeatureBaseline("6-mer logistic regression", frequencies(6), logistic(0.001)),
        FeatureBaseline(
            "4-mer gradient boosting",
            frequencies(4),
            HistGradientBoostingClassifier(
                max_iter=100, max_bins=63, early_stopping=False, random_state=seed
            ),
        ),
        FeatureBaseline("k-mer perceptron", kmer_roots, perceptron(seed)),
        FeatureBaseline("k-mer and open-frame perceptron", composition_roots, perceptron(seed)),
        ConvolutionBaseline(seed=seed),
    ]


def perceptron(seed: int) -> Any:
    """One hidden layer on standardised features, for few epochs: few contigs, many features."""
    # No epoch improves the loss by so much: it ends after ten of them, and says it has converged.
    network = MLPClassifier((64,), alpha=1.0, tol=1e6, n_iter_no_change=10, random_state=seed)
    return make_pipeline(StandardScaler(), network)


def composition_roots(bases: Sequence[np.ndarray]) -> np.ndarray:
    """float32[N, E]: square roots of what `views.Composition` reads."""
    (read,) = Composition().read([contig.tobytes() for contig in bases], 0)
    return np.sqrt(read["features"])


def kmer_roots(bases: Sequence[np.ndarray]) -> np.ndarray:
    """float32[N, 2249]: square roots of what `kmer_features_batch` counts."""
    return np.sqrt(kmer_features_batch([contig.tobytes() for contig in bases]))


def logistic(strength: float) -> Any:
    """Logistic regression on standardised features; `strength` is scikit-learn's C."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def frequencies(k: int) -> Features:
    """The features `kmer_frequencies` of one k."""
    return functools.partial(kmer_frequencies, k=k)


def gc_content(bases: Sequence[np.ndarray]) -> np.ndarray:
    """float32[N, 2]: the share of G and C among unambiguous bases, and its square."""
    shares = np.zeros((len(bases), 2), dtype=np.float32)
    for row, contig in enumerate(bases):
        counts = np.bincount(CODES[contig], minlength=5)
        known = counts[:AMBIGUOUS].sum()
        shares[row] = (counts[1] + counts[2]) / known if known else 0.5
    shares[:, 1] **= 2
    return shares


def kmer_frequencies(bases: Sequence[np.ndarray], k: int) -> np.ndarray:
    """float32[N, K]: how often each canonical k-mer occurs, as a share of all k-mers of the contig.

    A k-mer and its reverse complement count as one (K = 32, 136, 512, 2080 for k = 3, 4, 5, 6), so
    both strands of a contig look the same. k-mers with an ambiguous letter are skipped; a contig
    without any k-mer is a row of zeros.
    """
    canonical, columns = canonical_kmers(k)
    frequencies = np.zeros((len(bases), columns), dtype=np.float32)
    for row, contig in enumerate(bases):
        codes = CODES[contig]
        windows = len(codes) - k + 1
        if windows < 1:
            continue
        kmer = np.zeros(windows, dtype=np.int32)
        for offset in range(k):
            kmer <<= 2
            kmer |= codes[offset : offset + windows] & 3
        ambiguous = codes == AMBIGUOUS
        if ambiguous.any():
            before = np.concatenate([[0], np.cumsum(ambiguous)])
            kmer = kmer[before[k:] == before[:-k]]
        if len(kmer):
            frequencies[row] = np.bincount(canonical[kmer], minlength=columns) / len(kmer)
    return frequencies


@functools.lru_cache
def canonical_kmers(k: int) -> tuple[np.ndarray, int]:
    """int64[4**k]: the column of each k-mer (A<C<G<T, first letter highest), and their number."""
    kmer = np.arange(4**k)
    opposite = np.zeros_like(kmer)
    for offset in range(k):
        opposite = opposite << 2 | (3 - (kmer >> 2 * offset & 3))
    names, column = np.unique(np.minimum(kmer, opposite), return_inverse=True)
    return column, len(names)
