"""What can be asked of a corpus of packed rows, and does it make sense together?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.errors import UserError


@dataclass(frozen=True)
class CorpusOptions:
    """What goes into a corpus; any change of it gives another data set."""

    sources: tuple[str, ...]  # patterns for reading.expand
    validation_sources: tuple[str, ...] = ()
    tokenizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "nucleotide"})
    row_length: int = 1024  # tokens
    validation_fraction: float = 0.0  # of the bases of `sources`, cut off by whole clusters
    cluster_key: str = ""  # header key that names it; "": by k-mer sketches; or "genus+kmers"
    exclude: tuple[str, ...] = ()  # header words such as "virus=1"; records with one are left out
    max_bases: int = 0  # of `sources`, whole records; 0 is no limit
    soft_mask_weight: float = 1.0  # loss weight of lower-case bases in training
    wrap_circular: bool = False  # circular training records go on until their last row is full
    phases: int = 1  # a training record is tokenised from each of its first `phases` letters
    seed: int = 0  # of the choice of validation clusters
    metadata: str = ""  # a CSV or TSV table with a row a record; its columns are as header words

    def check(self) -> None:
        """Raises UserError for options that make no sense, alone or together."""
        if self.row_length < 2:
            raise UserError(f"row_length is {self.row_length}; choose 2 tokens or more")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction is {self.validation_fraction}; choose 0 or more, less than 1"
            )
        if self.validation_sources and self.validation_fraction:
            raise UserError(
                "validation_sources and validation_fraction are both given; choose one of them"
            )
        for word in self.exclude:
            if "=" not in word.strip("="):
                raise UserError(f'exclude: {word!r} is not a header word like "virus=1"')
        if self.max_bases < 0:
            raise UserError(f"max_bases is {self.max_bases}; choose 0 (no limit) or more")
        if not 0 <= self.soft_mask_weight <= 1:
            raise UserError(f"soft_mask_weight is {self.soft_mask_weight}; choose from 0 to 1")
        if self.tokenizer.get("stride", 0) == 1:
            raise UserError(
                "overlapping k-mers (stride 1) cannot train a language model: a token holds all "
                "but one of the next one's letters, so its loss is that of one base at the price "
                "of k, and trivially low; use them for classifiers, or leave out the stride"
            )
        if self.tokenizer.get("name") == "codon" and (
            self.soft_mask_weight != 1 or self.wrap_circular
        ):
            raise UserError(
                "the codon tokenizer reads only the open stretches, so soft_mask_weight and "
                "wrap_circular have no place in its rows; leave them at 1 and False"
            )
        phases = range(1, max(int(self.tokenizer.get("k", 1)), 1) + 1)
        if self.phases not in phases:
            raise UserError(
                f"phases is {self.phases}; choose from 1 to {phases[-1]}, the letters of a k-mer "
                "(1 for all other tokenizers, which have no phase)"
            )


def mixture_of(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """("runs/a=3", ...) -> (("runs/a", 3.0), ...); UserError for anything else."""
    parts: dict[str, float] = {}
    for word in words:
        folder, _, number = word.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not folder or not 0 < weight < float("inf"):
            raise UserError(
                f"pretrain.mixture: {word!r} is not of the form WORKDIR=WEIGHT with a number "
                "above 0"
            )
        if folder in parts:
            raise UserError(f"pretrain.mixture: {folder} is named twice; give it one weight")
        parts[folder] = weight
    return tuple(parts.items())
