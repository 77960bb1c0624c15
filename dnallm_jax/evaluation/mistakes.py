"""Which contigs does the detector get most wrong?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dnallm_jax.evaluation import metrics, page
from dnallm_jax.evaluation.page import escape

WORST = 12
"""Mistakes listed of each kind."""

AT_MOST = 2
"""Of which so many may be of one organism, or one would fill the list."""

FEWEST = 20
"""Contigs of a genus below which its share called viral says too little to be listed."""

NOVELTY = {
    "none": "relatives in training",
    "novel_family": "family not in training",
    "novel_phylum": "phylum not in training",
}
"""The words of label tables, for people."""


def mistakes_section(
    predictions: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
) -> str:
    """The viruses of lowest and the others of highest score, by name."""
    ids = metrics.text(predictions.get("sequence_id", np.arange(len(columns["label"]))))
    details = {
        name: metrics.text(predictions[name])
        for name in ("organism", "family", "group", "novelty")
        if name in predictions
    }
    details = {name: column for name, column in details.items() if (column != "-").any()}
    heads = ("Contig", *(name.capitalize() for name in details), "Length", "Score")
    parts = []
    for label, sign, caption in (
        (1, 1, "Viral contigs with the lowest scores"),
        (0, -1, "Other contigs with the highest scores"),
    ):
        members = np.flatnonzero(columns["label"] == label)
        ranked = members[np.lexsort((ids[members], sign * columns["score"][members]))]
        rows = [
            (
                f"<code>{escape(ids[i])}</code>",
                *(escape(NOVELTY.get(v[i], v[i].replace("_", " "))) for v in details.values()),
                f"{columns['length'][i]:,}",
                page.decimal(columns["score"][i], 4),
            )
            for i in varied(ranked, details.get("organism", ids))
        ]
        if rows:
            parts.append(page.table(caption, heads, rows, words=1 + len(details)))
    note = f"At most {AT_MOST} contigs of one organism each.\n" if "organism" in details else ""
    return "\n".join(parts) + (f'\n<p class="note">{note}</p>' if note else "")


def genera_table(predictions: Mapping[str, np.ndarray], threshold: float | None) -> str:
    """The genera that are not viral and most often called so, where genera are known."""
    if threshold is None or "genus" not in predictions:
        return ""
    rates = metrics.called_viral_by(predictions, "genus", threshold=threshold)
    listed = [(name, rate) for name, rate in rates.items() if name != "-" and rate["of"] >= FEWEST]
    if not listed:
        return ""
    rows = [
        (escape(name.replace("_", " ")), f"{rate['of']:,}", page.cell(rate, percent=True))
        for name, rate in listed[:WORST]
    ]
    caption = f"Of {len(listed):,} genera with {FEWEST} contigs or more, those most often called"
    return page.table(caption, ("Genus", "Contigs", "Called viral"), rows, words=1)


def genomes_section(genomes: Mapping[str, Any] | None) -> str:
    """What was called viral in whole genomes that are not: regions per million bases."""
    if not genomes:
        return ""
    rows = [
        (
            escape(name),
            f"{entry['bases'] / 1e6:,.2f}",
            f"{entry['regions']:,}",
            page.cell(entry["per_million_bases"]),
            page.percentage(entry["called_bases"] / entry["bases"]),
        )
        for name, entry in [("all", genomes["all"]), *genomes["by_group"].items()]
    ]
    heads = ("Group", "Million bases", "Regions", "Regions per million bases", "Bases called")
    worst = [
        (f"<code>{escape(e['sequence_id'])}</code>", f"{e['start']:,}", f"{e['stop']:,}",
         page.decimal(e["score"]))
        for e in genomes["longest"][:WORST]
    ]  # fmt: skip
    text = page.table("Called viral in whole genomes", heads, rows, own="all")
    if worst:
        text += "\n" + page.table(
            "The longest regions", ("Sequence", "Start", "Stop", "Score"), worst
        )
    note = (
        "Regions as score --regions finds them, at the same threshold. Chromosomes of bacteria "
        "carry prophages, so some of these may be right answers."
    )
    return f'{text}\n<p class="note">{note}</p>'


def varied(ranked: np.ndarray, organisms: np.ndarray) -> list[int]:
    """The first WORST of the records, no more than AT_MOST of one known organism."""
    taken: list[int] = []
    seen: dict[str, int] = {}
    for record in ranked:
        organism = organisms[record]
        seen[organism] = seen.get(organism, 0) + 1
        if organism == "-" or seen[organism] <= AT_MOST:
            taken.append(int(record))
        if len(taken) == WORST:
            break
    return taken
