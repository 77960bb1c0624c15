"""Where in a long sequence is the virus? Stretches whose windows are called viral by themselves.

A sequence longer than WINDOW is cut into evenly spread windows of at most that length, and each is
scored as a sequence of its own: calibrated for its length, called at the same threshold. Windows
called that touch are one region.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from data_pipeline.reading import Record
from dnallm_jax.scoring.output import Calls, Result

if TYPE_CHECKING:
    from dnallm_jax.scoring.bundle import Detector

WINDOW = 5_000  # bases: long enough for a sure call, shorter than most viruses

Region = tuple[int, int, float]  # start, stop (from 0, stop not in it), highest score of a window


def regions(
    detector: "Detector", calls: Calls, records: Sequence[Record], results: Sequence[Result]
) -> Iterator[list[Region]]:
    """The regions of each record, whose rows are `results`, in order along it."""
    from dnallm_jax.scoring.scorer import windows

    cuts = [
        windows(row.length, WINDOW) if row.length > WINDOW and row.virus_score is not None else []
        for row in results
    ]
    scored = detector.scorer.score(
        record.bases[start:stop]
        for record, spans in zip(records, cuts, strict=True)
        for start, stop in spans
    )
    for row, spans in zip(results, cuts, strict=True):
        found: list[Region] = []
        if not spans and row.is_virus:
            found = [(0, row.length, row.virus_score or 0.0)]
        for start, stop in spans:
            one = next(scored)
            if one.logit != one.logit:  # nan: nothing there to be read
                continue
            score = calls.score(detector.probability(one, stop - start))
            if score < calls.threshold:
                continue
            if found and start <= found[-1][1]:
                start, score = found[-1][0], max(score, found.pop()[2])
            found.append((start, stop, score))
        yield found


def bed(
    detector: "Detector", calls: Calls, records: Sequence[Record], results: Sequence[Result]
) -> bytes:
    """The regions of all records as lines of BED: id, start, stop, `virus`, score x 1,000."""
    found = regions(detector, calls, records, results)
    lines = [
        f"{row.sequence_id}\t{start}\t{stop}\tvirus\t{round(1_000 * score)}\n"
        for row, own in zip(results, found, strict=True)
        for start, stop, score in own
    ]
    return "".join(lines).encode()
