"""What do the members of a detector say together? One log-odds, weighted by length."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from data_pipeline.spooling import Letters
from dnallm_jax.evaluation.joining import Joining, equal
from dnallm_jax.scoring.scorer import Scored, Scorer, take


class JointScorer:
    """Log-odds of sequences by several networks, each with windows of its own.

    Args:
      members: one scorer or more, by name.
      joining: how their log-odds are weighed; without it their mean is taken.
    """

    def __init__(self, members: Mapping[str, Scorer], joining: Joining | None = None) -> None:
        self._members, self._joining = dict(members), joining or equal(len(members))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def score(self, sequences: Iterable[Letters]) -> Iterator[Scored]:
        """One result a sequence (letters of any case), in order; memory is bounded by a group.

        `windows` are those of the member that reads most of them; `strand_gap` is the largest.
        """
        remaining = iter(sequences)
        while group := take(remaining):
            by_member = [list(scorer.score(group)) for scorer in self._members.values()]
            logits = np.array([[each.logit for each in scored] for scored in by_member])
            lengths = np.array([len(sequence) for sequence in group])
            joined = self._joining.apply(logits.T, lengths)
            for logit, scored in zip(joined.tolist(), zip(*by_member, strict=True), strict=True):
                yield dataclasses.replace(
                    scored[0],
                    logit=logit,
                    windows=max(each.windows for each in scored),
                    strand_gap=max(each.strand_gap for each in scored),
                    members=scored,
                )

    @property
    def embeds(self) -> bool:
        """Whether a member has embeddings."""
        return any(scorer.embeds for scorer in self._members.values())

    def embed(self, sequences: Iterable[Letters]) -> Iterator[np.ndarray | None]:
        """The embeddings by the first member that has some, as `Scorer.embed` gives them."""
        return next(s for s in self._members.values() if s.embeds).embed(sequences)
