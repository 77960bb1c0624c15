"""Whom does a virus infect, and to which genus, family and phylum does an organism belong?

Both are read from NCBI's own taxonomy dump (new_taxdump.tar.gz), whose numbers are those of the
assembly summaries: `rankedlineage.dmp` for the lineage and `host.dmp` for the hosts, words such as
"bacteria" or "vertebrates,human". The summaries themselves name no host.

A virus counts as one of prokaryotes only if that is written somewhere: every host word of its taxid
and of its species' taxid is "bacteria" or "archaea", or it has no host word at all and belongs to a
class that infects nothing else (ICTV). Any other virus, one of unknown host included, is treated as
a virus of eukaryotes.
"""

import io
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from data_pipeline.assemblies import UNKNOWN
from data_pipeline.errors import UserError

PROKARYOTES = frozenset({"bacteria", "archaea"})
PROKARYOTIC_CLASSES = frozenset(
    {
        *("Caudoviricetes", "Faserviricetes", "Huolimaviricetes", "Laserviricetes"),
        *("Leviviricetes", "Malgrandaviricetes", "Tokiviricetes", "Vidaverviricetes"),
    }
)
"""Classes of which every member infects bacteria or archaea (ICTV, 2024)."""

_LINEAGE, _HOST = "rankedlineage.dmp", "host.dmp"
_FIELDS = {_LINEAGE: 8, _HOST: 2}  # that are read; later releases have added more behind them


@dataclass(frozen=True)
class Taxonomy:
    """The lineage and hosts of some taxids."""

    lineages: dict[str, dict[str, str]] = field(default_factory=dict)
    hosts: dict[str, set[str]] = field(default_factory=dict)

    def lineage(self, *taxids: str) -> dict[str, str]:
        """genus, family, class and phylum, by the first of these taxids that is known."""
        empty = dict.fromkeys(("genus", "family", "class", "phylum"), UNKNOWN)
        return next((self.lineages[taxid] for taxid in taxids if taxid in self.lineages), empty)

    def host(self, *taxids: str) -> tuple[str, bool]:
        """The host words of a virus with these taxids, and whether it infects prokaryotes only."""
        words = set().union(*(self.hosts.get(taxid, set()) for taxid in taxids))
        if words:
            return ",".join(sorted(words)), words <= PROKARYOTES
        of_class = self.lineage(*taxids)["class"]
        return UNKNOWN, of_class in PROKARYOTIC_CLASSES


def read_taxonomy(path: str, taxids: Collection[str]) -> Taxonomy:
    """What new_taxdump.tar.gz says of these taxids; its other millions are passed over.

    Raises UserError for an archive that is damaged, lacks a file or has another layout.
    """
    taxonomy, seen = Taxonomy(), set()
    wanted = frozenset(taxids)
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if name in _FIELDS else None
                if content is None:
                    continue
                seen.add(name)
                for row in _rows(io.TextIOWrapper(content, "utf-8", "replace"), wanted, path, name):
                    if name == _HOST:
                        words = (word.strip().lower() for word in row[1].split(","))
                        taxonomy.hosts.setdefault(row[0], set()).update(filter(None, words))
                    else:
                        taxonomy.lineages[row[0]] = {
                            "genus": row[3] or UNKNOWN,
                            "family": row[4] or UNKNOWN,
                            "class": row[6] or UNKNOWN,
                            "phylum": row[7] or UNKNOWN,
                        }
    except (tarfile.TarError, zlib.error, EOFError, OSError) as problem:
        raise UserError(
            f"{path}: not a readable taxonomy ({problem}); delete the file to fetch it again"
        ) from problem
    if missing := sorted(_FIELDS.keys() - seen):
        raise UserError(f"{path}: holds no {missing[0]}; this is not NCBI's new_taxdump.tar.gz")
    return taxonomy


def _rows(
    lines: Iterator[str], wanted: Collection[str], path: str, name: str
) -> Iterator[list[str]]:
    for number, line in enumerate(lines, 1):
        if line.partition("\t")[0] not in wanted:
            continue
        row = line.rstrip("\n").removesuffix("\t|").split("\t|\t")
        if len(row) < _FIELDS[name]:
            raise UserError(
                f"{path}: {name}, line {number}: {len(row)} fields where {_FIELDS[name]} are "
                "needed; the layout of the taxonomy has changed"
            )
        yield row
