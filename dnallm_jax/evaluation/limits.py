"""What must a reader know before using a score?"""

from collections.abc import Sequence

from dnallm_jax.evaluation.page import escape

LIMITS = (
    "A score says how much a contig looks like the viruses of the training data rather than like "
    "the other DNA there. It is no proof of a virus: confirm what matters by alignment, marker "
    "genes or the bench.",
    "Short contigs carry little evidence. Read the table by length before you trust one score.",
    "Viruses of families that training did not hold are missed more often, and DNA of hosts that "
    "it did not hold is called viral more often.",
    "Integrated viruses (prophages, endogenous viruses, giant transposons) lie between the "
    "classes. Their labels are uncertain, and some mistakes listed here may be right answers.",
    "Most samples hold fewer viruses than this set. Judge calls by the precision at the share of "
    "viruses that you expect, not by the precision here.",
)

RESPONSIBLE_USE = (
    "This is a detector, for surveillance, ecology and quality control. It does not generate or "
    "design sequences, and it says nothing about host range, virulence or risk.",
    "It must not be the only ground for a clinical, regulatory or biosecurity decision. Take a "
    "finding of concern to the responsible authority before you publish it.",
    "Human reads in a sample are personal data: remove them before you share contigs or scores.",
)


def limits_section(more: Sequence[str] = ()) -> str:
    """What the detector cannot do, the case at hand first, and what it must not be used for."""
    limits = "".join(f"<li>{escape(line)}</li>" for line in (*more, *LIMITS))
    use = "".join(f"<li>{escape(line)}</li>" for line in RESPONSIBLE_USE)
    return f"<h3>Limits</h3>\n<ul>{limits}</ul>\n<h3>Responsible use</h3>\n<ul>{use}</ul>"
