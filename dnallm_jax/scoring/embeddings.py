"""What does the language model make of each sequence? One vector, for clustering and search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_pipeline.spooling import Spooled
from dnallm_jax.scoring.output import Result

if TYPE_CHECKING:
    import pyarrow as pa

    from dnallm_jax.scoring.bundle import Detector


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("sequence_id", pa.string()), ("embedding", pa.list_(pa.float32()))])


def head() -> bytes:
    """What an Arrow stream of embeddings begins with."""
    return _schema().serialize().to_pybytes()


def encode(
    detector: "Detector", records: Sequence[Spooled], results: Sequence[Result]
) -> list[bytes]:
    """As Arrow: for each record its id and its embedding, null where the record has no score."""
    import pyarrow as pa

    scored = (
        record.bases
        for record, row in zip(records, results, strict=True)
        if row.virus_score is not None
    )
    vectors = detector.scorer.embed(scored)
    columns = {
        "sequence_id": [row.sequence_id for row in results],
        "embedding": [None if row.virus_score is None else next(vectors) for row in results],
    }
    return [pa.RecordBatch.from_pydict(columns, schema=_schema()).serialize().to_pybytes()]
