"""How much of the validation and test records was seen in train, and is it too much to go on?

A near-copy is a record with half of its 21-mers or more in train (`splits.NEAR_COPY`); relatives
that are kept on one side by clustering share a tenth. One near-copy alone does not spoil a split:
a short contig may lie wholly in a gene that strangers share, such as a ribosomal RNA. So a split is
refused when a near-copy is longer than such genes, or when near-copies hold more than a twentieth
of the split.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipeline import splits
from data_pipeline.errors import UserError
from data_pipeline.records import Measured
from data_pipeline.survey import Survey, stretches

LONGEST_SHARED_GENE = 12_000  # bases; ribosomal RNA operons take 5,000 to 9,000
MOST_COPIED = 0.05  # of the k-mers of a split
MAX_HASHES = 1 << 23  # of train: 300 Mbp are sampled one in 64, five hashes for 300 bases


def overlap(
    found: Survey,
    files: Mapping[str, Sequence[str]],
    label: Callable[[Measured], str],
) -> dict[str, Any]:
    """The leakage table of each split but train, JSON-able: see `splits.Leakage.summary`.

    Reads each split once, in memory that no record's length adds to. `files` are those that were
    surveyed; a split without files was cut from train's.

    Raises UserError for a split of near-copies, naming one and the train record it is nearest to.
    """
    held_out = [split for split in ("validation", "test") if len(found.of(split))]
    if not held_out:
        return {}
    train = files["train"], found.of("train").ids
    # Of a sample that is right for train, a much longer record of another split might not fit.
    letters = max(
        found.of("train").bases, *(int(found.of(s).column("length").max()) for s in held_out)
    )
    seen = splits.kmer_set(stretches(*train), letters=letters, max_hashes=MAX_HASHES)
    tables = {}
    for split in held_out:
        own = {record.id: record for record in found.of(split)}
        paths = files.get(split, files["train"])
        labels = {record_id: label(record) for record_id, record in own.items()}
        leak = splits.leakage(seen, stretches(paths, labels), labels)
        worst = max(leak.copies, key=lambda record_id: own[record_id].length, default="")
        if worst and (
            own[worst].length > LONGEST_SHARED_GENE
            or sum(leak.copies.values()) > MOST_COPIED * leak.kmers
        ):
            copy = splits.kmer_set(
                stretches(paths, {worst}), letters=own[worst].length, max_hashes=MAX_HASHES
            )
            nearest, share = splits.nearest(copy, stretches(*train))
            raise UserError(
                f"{own[worst].source}: record {worst} ({split}) is a near-copy of the training "
                f"data, which holds half of its {splits.K}-mers or more (record {nearest} alone "
                f"{share:.0%}), as {len(leak.copies):,} of {len(own):,} {split} records are; "
                "leave them out, or let prepare divide the records by clusters of near-duplicates "
                '(cluster_key "", or with names "genus+kmers")'
            )
        tables[split] = leak.summary()
    return tables
