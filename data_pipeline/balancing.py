"""Which record is drawn next? Each value of a metadata field as often as another, big or small.

So a family of hundreds of genomes does not drown one of three. Records of unknown family are
neither one family more, which would starve them, nor a family each, which would drown the rest:
each of their clusters is drawn as often as the clusters of known family are on average.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import UserError

UNKNOWN = "-"


@dataclass(frozen=True)
class Choices:
    """Records to draw from, by the values of metadata fields, one field after the other."""

    until: np.ndarray  # float64[n], rising to 1: the share of draws up to each member
    members: Sequence["Choices | int"]  # of the next field, at last record numbers
    size: float  # how many values the field has, as if the unknown ones held as much as others

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a record."""
        member = self.members[int(np.searchsorted(self.until, rng.random(), side="right"))]
        return member if isinstance(member, int) else member.draw(rng)

    def shares(self) -> dict[int, float]:
        """How often each record is drawn, of all draws."""
        found: dict[int, float] = {}
        for share, member in zip(np.diff(self.until, prepend=0.0), self.members, strict=True):
            if isinstance(member, int):
                found[member] = float(share)
            else:
                found |= {number: share * own for number, own in member.shares().items()}
        return found


Field = tuple[str, float]  # name and power


def fields(key: str, known: Collection[str]) -> list[Field]:
    """The fields of a balance key, drawn one after the other.

    In family/cluster first a family is drawn, then one of its clusters, then one of the cluster's
    records. A field may have a power, as in family^0.5/cluster: a family is drawn in proportion to
    that power of its number of clusters. 0, which is meant without one, makes families equal, 1
    makes clusters equal.

    Raises:
      UserError: a field that is not known, or a power that is no number from 0 to 1.
    """
    found = []
    for word in key.split("/"):
        name, given, power = word.partition("^")
        if name not in known:
            raise UserError(f"balance key {name!r} is not one of {', '.join(known)}")
        try:
            number = float(power) if given else 0.0
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            raise UserError(f"balance key {word!r}: after ^ goes a number from 0 to 1")
        found.append((name, number))
    return found


def balanced(
    records: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    fields: Sequence[Field],
    weights: Mapping[str, float],
) -> Choices:
    """The records numbered in `chosen`, drawn evenly over the fields.

    Args:
      records: columns of text.
      weights: how many times as often a value of the first field is drawn; where not named, once.
    """
    if not fields:
        return _drawn(chosen.tolist(), [1.0] * len(chosen), len(chosen))
    (field, power), *rest = fields
    groups: dict[str, list[int]] = defaultdict(list)
    for number in chosen.tolist():
        groups[str(records[field][number])].append(number)
    unknown = groups.pop(UNKNOWN, [])
    names = sorted(groups)
    members = [balanced(records, np.array(groups[name]), rest, {}) for name in names]
    shares = [
        weights.get(name, 1.0) * member.size**power
        for name, member in zip(names, members, strict=True)
    ]
    values = float(len(names))
    if unknown:
        of_unknown = balanced(records, np.array(unknown), rest, {})
        held = sum(member.size for member in members)
        alike = of_unknown.size * (values / held if held else 1.0)
        usual = sum(shares) / values if values else 1.0
        members.append(of_unknown)
        shares.append(weights.get(UNKNOWN, 1.0) * usual * alike)
        values += alike
    return _drawn(members, shares, values)


def _drawn(members: Sequence[Choices | int], shares: Sequence[float], size: float) -> Choices:
    until = np.cumsum(np.asarray(shares))
    return Choices(until / until[-1], members, size)
