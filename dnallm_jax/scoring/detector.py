"""How does a Python program score sequences? In three lines, with the results of the command.

from dnallm_jax import Detector
detector = Detector.load("runs/genomes/bundle")
results = list(detector.score({"contig_1": "ACGT..."}))
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from data_pipeline.errors import UserError
from data_pipeline.parsing import ACCEPTED, GAPS
from data_pipeline.reading import Record
from data_pipeline.spooling import Spooled
from dnallm_jax.parallel import hosts
from dnallm_jax.parallel.execution import choose
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.scoring import bundle, settings
from dnallm_jax.scoring.output import SHORTEST, Calls, Result, choose_calls, score_part
from dnallm_jax.scoring.parts import cut, worked

Letters = str | bytes
Given = Letters | tuple[str, Letters] | Record | Spooled
_U_TO_T = bytes.maketrans(b"Uu", b"Tt")


@dataclass(frozen=True)
class Detector:
    """A bundle, ready to score.

    Attributes:
      bundle: the networks and their calibration.
      calls: the threshold, the prevalence, and what is too short to be scored.
      batch_tokens: tokens of a batch, about.
    """

    bundle: bundle.Detector
    calls: Calls
    batch_tokens: int

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        threshold: float | None = None,
        false_positive_rate: float | None = None,
        prevalence: float | None = None,
        min_length: int = SHORTEST,
        batch_size: str = settings.AUTO,
    ) -> "Detector":
        """The detector in the folder that `finetune` wrote, on all devices of this machine.

        Or one that comes with the package, by its name; without a path, `default`.

        The options are those of the command `score` (`docs/score.md`). Raises UserError: what is
        missing, damaged, or cannot be met. Compiled code is kept in the user's cache folder.
        """
        hosts.start()
        batch_tokens = settings.batch_tokens(batch_size)
        execution, _ = choose()
        # Each device holds the whole network, so any number of them will do.
        mesh = make_mesh(data=-1, fsdp=1)
        folder = bundle.SHIPPED if path is None else bundle.locate(path)
        opened = bundle.open_bundle(folder, execution, mesh, batch_tokens=batch_tokens)
        calls = choose_calls(
            opened,
            threshold=threshold,
            false_positive_rate=false_positive_rate,
            prevalence=prevalence,
            min_length=min_length,
        )
        return cls(opened, calls, batch_tokens)

    def score(self, sequences: Iterable[Given] | Mapping[str, Letters]) -> Iterator[Result]:
        """Exactly one result a sequence, in order, as they come; memory is bounded.

        Args:
          sequences: letters of DNA or RNA; pairs of id and letters, or a mapping of them; or
            records, as `data_pipeline.reading.read_records(["contigs.fa.gz"], strict=False)` gives
            them (`data_pipeline.spooling.spooled(read_blocks(...))`: in constant memory). Without
            an id, a sequence has its number, from 0.

        Raises:
          UserError: a letter that stands for no base. TypeError: what is no sequence.
        """
        if isinstance(sequences, str | bytes):
            raise TypeError("score takes several sequences; put a single one into a list")
        if isinstance(sequences, Mapping):
            sequences = sequences.items()
        records = (_record(number, given) for number, given in enumerate(sequences))
        work = functools.partial(score_part, self.bundle, self.calls)
        for _, results in worked(work, cut(records)):
            yield from results


def _record(number: int, given: Given) -> Spooled:
    if isinstance(given, Record | Spooled):
        return Spooled(given.id, given.description, given.bases)
    name, letters = given if isinstance(given, tuple) else (str(number), given)
    if not isinstance(letters, str | bytes):
        raise TypeError(f"sequence {name}: a {type(letters).__name__}, not letters")
    bases = letters.encode() if isinstance(letters, str) else letters
    if foreign := bases.translate(None, ACCEPTED):
        raise UserError(
            f"sequence {name}: {foreign[:1].decode('latin-1')!r} is no letter of DNA or RNA"
        )
    return Spooled(name, "", bases.translate(_U_TO_T, GAPS))
