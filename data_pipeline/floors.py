"""What do Markov models reach on packed rows? The figures that a language model stands beside."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data_pipeline import codon_markov, kmers, markov
from data_pipeline.frames import Codon
from data_pipeline.rows import Segments
from data_pipeline.tokenizers import A, Nucleotide, Tokenizer


def markov_floor(
    tokenizer: Tokenizer,
    counted: Iterable[Segments],
    scored: Iterable[Segments],
    orders: Sequence[int],
) -> dict[str, Any]:
    """What Markov models fitted on the rows `counted` reach on the rows `scored`; JSON-able.

    Both strands are counted. Segments are those the model sees. Of a codon stream, whose model
    predicts codons from codons, the models are those of `codon_markov`, of order 0 to 3.
    `drop_at_high_orders` above `markov.NEAR_COPY_DROP` tells of near-copies. Memory: up to 0.8 GB
    at order 12, a quarter of a GB for codons.
    """
    if isinstance(tokenizer, Codon):  # the stream is the same whichever strand is read
        codons = codon_markov.fit(_segments(counted))
        return {**codons.summary(), **codons.score(_segments(scored)).summary()}
    counts = markov.fit(_base_codes(counted, tokenizer), orders, both_strands=True)
    score = counts.score(_base_codes(scored, tokenizer))
    drop = markov.drop_at_high_orders(score.bits)
    return {**counts.summary(), **score.summary(), "drop_at_high_orders": drop}


def _segments(rows: Iterable[Segments]) -> Iterator[np.ndarray]:
    for tokens, lengths in rows:
        if len(lengths) == 1:
            yield tokens
        else:
            yield from np.split(tokens, np.cumsum(lengths)[:-1])


def _base_codes(rows: Iterable[Segments], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The segments as codes 0..3; above that an ambiguous letter."""
    for tokens in _segments(rows):
        if isinstance(tokenizer, Nucleotide):  # N, the id before A, so becomes 255
            yield tokens - np.uint8(A)
        else:
            yield kmers.base_codes(tokenizer.decode(tokens))
