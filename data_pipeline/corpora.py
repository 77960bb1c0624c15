"""What are several corpora, mixed by weight, to those who train on them? One corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline import datasets
from data_pipeline.corpus import Corpus, SplitInfo
from data_pipeline.errors import UserError
from data_pipeline.mixing import BLOCK, Joined, Mixture, shares_of
from data_pipeline.tokenizers import Tokenizer


@dataclass(frozen=True)
class Mixed:
    """Several corpora as one: what training asks of a `Corpus`.

    Its validation rows are those of all, one corpus after the other, whatever the weights.
    """

    names: tuple[str, ...]
    corpora: tuple[Corpus, ...]
    shares: tuple[int, ...]

    @property
    def data_dir(self) -> str:
        return self.corpora[0].data_dir

    @property
    def manifest(self) -> Mapping[str, Any]:
        """That of the first corpus; in what training asks of it they agree."""
        return self.corpora[0].manifest

    @property
    def fingerprint(self) -> str:
        members = zip(self.shares, (c.fingerprint for c in self.corpora), strict=True)
        return datasets.fingerprint({"block": BLOCK, "mixture": [list(m) for m in members]})

    @property
    def tokenizer(self) -> Tokenizer:
        return self.corpora[0].tokenizer

    @property
    def row_length(self) -> int:
        return self.corpora[0].row_length

    @property
    def splits(self) -> dict[str, SplitInfo]:
        """Sums over the corpora; of "train" `bases_per_token` is that of the mixture."""
        found = {}
        for split in ("train", "validation"):
            own = [c.splits[split] for c in self.corpora if split in c.splits]
            if not own:
                continue
            rows, tokens, bases = (
                sum(getattr(o, n) for o in own) for n in ("rows", "tokens", "bases")
            )
            covered = sum(o.covered for o in own)
            if split == "train":
                per_row = zip(self.shares, own, strict=True)
                share = [(s * o.tokens / o.rows, s * o.covered / o.rows) for s, o in per_row]
                covered = round(tokens * sum(c for _, c in share) / sum(t for t, _ in share))
            repeated = sum(o.repeated for o in own)
            found[split] = SplitInfo(rows, tokens, bases, repeated=repeated, covered=covered)
        return found

    def source(self, split: str) -> Joined:
        """The rows of a split; those of "train" in the order of the mixture."""
        sources = tuple(c.source(split) for c in self.corpora if split in c.splits)
        return Mixture(sources, self.shares) if split == "train" else Joined(sources)


def mixed(names: Sequence[str], corpora: Sequence[Corpus], weights: Sequence[float]) -> Mixed:
    """The mixture of these corpora; UserError where two have other tokens or rows."""
    first = corpora[0]
    for name, corpus in zip(names, corpora, strict=True):
        for what, own, theirs in (
            ("tokenizer", corpus.manifest["tokenizer"], first.manifest["tokenizer"]),
            ("row_length", corpus.row_length, first.row_length),
        ):
            if own != theirs:
                raise UserError(
                    f"pretrain.mixture: the corpora of {names[0]} and {name} differ in {what}; "
                    "prepare them with the same config"
                )
    return Mixed(tuple(names), tuple(corpora), shares_of(weights))
