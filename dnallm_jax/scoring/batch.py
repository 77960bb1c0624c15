"""How do the scores of a whole input reach their files? Part by part, committed as they come."""

import contextlib
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO

from data_pipeline.errors import UserError
from data_pipeline.spooling import Spooled
from dnallm_jax.scoring import embeddings, formats, shares
from dnallm_jax.scoring.formats import Format
from dnallm_jax.scoring.journal import Commit, Journal, Output, cannot_be_written
from dnallm_jax.scoring.output import Calls, Part, Result, score_part
from dnallm_jax.scoring.parts import cut, worked
from dnallm_jax.scoring.progress import Progress
from dnallm_jax.scoring.regions import bed
from dnallm_jax.scoring.shares import WHOLE, Share
from dnallm_jax.scoring.tally import Tally

if TYPE_CHECKING:  # which loads JAX
    from dnallm_jax.scoring.bundle import Detector

STDOUT = "-"
COMMIT_EVERY = 5.0  # seconds, at least: a commit waits for the disk


@dataclass(frozen=True)
class Targets:
    """Where results go: files, or for rows also "-", a pipe or a device; "" is nowhere."""

    rows: str
    format: Format
    fasta: str = ""  # sequences called viral
    regions: str = ""  # where in them
    embeddings: str = ""  # what the language model makes of each sequence
    summary: str = ""  # a page

    @property
    def streamed(self) -> bool:
        """Whether rows go where nothing can be taken back."""
        path = self.rows
        special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
        return path == STDOUT or special

    def check(self, inputs: Iterable[str], *, resume: bool, processes: int = 1) -> None:
        """Raises UserError for names that would overwrite each other or an input."""
        if self.streamed:
            parquet = self.format.name == formats.PARQUET
            needs = {"--format=parquet": parquet, "--resume": resume, **self.beside}
            needs["--processes"] = processes > 1
            for flag, given in needs.items():
                if given:
                    raise UserError(f"{flag} needs rows in a file; name it with --output")
            return
        known = {os.path.realpath(path): "an input" for path in inputs if os.path.exists(path)}
        for flag, path in {"--output": self.rows, **self.beside}.items():
            if path and (other := known.setdefault(os.path.realpath(path), flag)) != flag:
                raise UserError(f"{flag}={path} is also {other}; choose another name")

    @property
    def beside(self) -> dict[str, str]:
        """The files beside the rows, by their flags."""
        return {
            "--fasta-out": self.fasta,
            "--regions": self.regions,
            "--embeddings": self.embeddings,
            "--summary": self.summary,
        }

    @property
    def sidecar(self) -> Path:
        """The file with the provenance of rows that are text."""
        return Path(self.rows + ".provenance.json")


def score_to_files(
    detector: "Detector",
    calls: Calls,
    records: Iterable[Spooled],
    targets: Targets,
    progress: Progress,
    *,
    provenance: Mapping[str, Any],
    identity: Mapping[str, Any],
    resume: bool,
    share: Share = WHOLE,
) -> tuple[Tally, list[int]]:
    """Scores all records; the targets appear under their names when all is done.

    Args:
      provenance: how the rows came about, for their readers (`docs/score.md`): plain JSON.
      identity: what else must be equal for a run to be gone on with: plain JSON.
      share: which of the records are scored by this process; the others are scored by others.

    Returns:
      The counts of all records, and an empty list; or the counts of this share, and the numbers of
      the processes that are still at theirs.

    Raises:
      UserError: a target cannot be written; to `resume`, what was left is of another run.
    """
    kinds = [_rows(targets, provenance), *_extras(detector, calls, targets)]
    whole = [kind.output for kind in kinds]
    outputs = share.outputs(whole)

    def work(part: Part) -> tuple[list[Result], list[Iterable[bytes]]]:
        if not share.has(part.number):
            return [], []
        results = score_part(detector, calls, part)
        return results, [kind.encode(part.records, results) for kind in kinds]

    of_all = {**provenance, "format": targets.format.name, **targets.beside}
    beside = functools.partial(_beside, targets, provenance)
    if resume and not share.whole and (end := shares.left(whole, share, of_all)):
        for _ in _after(cut(records), end):  # which tells of inputs that have changed
            pass
        return shares.finish(whole, share, of_all, beside), []
    with Journal(outputs, {**of_all, **identity}, resume=resume) as journal:
        tally = Tally(journal.done.tally)
        progress.skip(tally.total("bases"))
        behind, committed = (journal.done.parts, journal.done.digest), time.monotonic()
        for part, (results, encoded) in worked(work, _after(cut(records), journal.done)):
            if encoded:
                share.write(journal, outputs, encoded)
            tally.add(results)
            progress.add(sum(row.length for row in results))
            behind = (part.number + 1, part.digest)
            if time.monotonic() - committed >= COMMIT_EVERY:
                journal.commit(*behind, tally.counts)
                committed = time.monotonic()
        if not journal.done.complete:
            journal.commit(*behind, tally.counts, complete=True)
        if share.whole:
            journal.finish(beside(tally))
            return tally, []
    made, awaited = shares.joined(whole, share, of_all, beside)
    return made or tally, awaited


@dataclass(frozen=True)
class Kind:
    """An output, and what of a part goes into it."""

    output: Output
    encode: Callable[[list[Spooled], list[Result]], Iterable[bytes]]


def _rows(targets: Targets, provenance: Mapping[str, Any]) -> Kind:
    format = targets.format
    output = Output(Path(targets.rows), format.head(), format.finisher(provenance))
    return Kind(output, lambda records, results: (format.rows(results),))


def _extras(detector: "Detector", calls: Calls, targets: Targets) -> Iterator[Kind]:
    """What was asked for beside the rows."""
    if path := targets.fasta:
        finisher = formats.packer(formats.packing_of(path))
        yield Kind(Output(Path(path), b"", finisher), formats.called_viral)
    if path := targets.regions:
        finisher = formats.packer(formats.packing_of(path))
        yield Kind(Output(Path(path), b"", finisher), functools.partial(bed, detector, calls))
    if path := targets.embeddings:
        if not detector.scorer.embeds:
            raise UserError("--embeddings: this detector has no language model to make them")
        head, finisher = embeddings.head(), formats.write_parquet
        encode = functools.partial(embeddings.encode, detector)
        yield Kind(Output(Path(path), head, finisher), encode)


def _after(parts: Iterable[Part], done: Commit) -> Iterator[Part]:
    """The parts that are still to be scored; UserError where those behind have changed."""
    behind = ""
    for part in parts:
        if part.number == done.parts - 1:
            behind = part.digest
        elif part.number >= done.parts:
            if behind != done.digest:
                break
            yield part
    if behind != done.digest:
        raise UserError(
            "the inputs are not those of the run that was stopped; give the same files, or leave "
            "out --resume to begin anew"
        )


def _beside(targets: Targets, provenance: Mapping[str, Any], tally: Tally) -> dict[Path, bytes]:
    """The small files that go with the rows."""
    files = {}
    if targets.format.name != formats.PARQUET:  # which holds the provenance inside
        files[targets.sidecar] = (json.dumps(provenance, indent=1) + "\n").encode()
    if targets.summary:
        from dnallm_jax.scoring.summary import summary_page

        files[Path(targets.summary)] = summary_page(tally, provenance).encode()
    return files


def is_made(
    targets: Targets, share: Share, provenance: Mapping[str, Any], inputs: Iterable[str]
) -> bool:
    """Whether other processes have made the outputs of all shares, and nothing is left of this one.

    So it seems where the rows are younger than the inputs and came about in the same way.
    """
    rows = Path(targets.rows)
    here = rows.with_name(f"{rows.name}.{share.number}-of-{share.count}")
    if not rows.exists() or any(Journal.beside(path).exists() for path in (rows, here)):
        return False
    if targets.format.name == formats.PARQUET:
        made = formats.provenance_of(rows)
    else:
        made = json.loads(targets.sidecar.read_bytes()) if targets.sidecar.exists() else None
    changed = max((os.stat(path).st_mtime for path in inputs if os.path.exists(path)), default=0.0)
    return made == provenance and rows.stat().st_mtime > changed


def score_to_stream(
    detector: "Detector",
    calls: Calls,
    records: Iterable[Spooled],
    targets: Targets,
    progress: Progress,
) -> Tally:
    """Scores all records into standard output, a pipe or a device, as rows come.

    UserError where it cannot be written.
    """
    tally = Tally()
    try:
        with _stream(targets) as stream:
            stream.write(targets.format.head())
            work = functools.partial(score_part, detector, calls)
            for _, results in worked(work, cut(records)):
                stream.write(targets.format.rows(results))
                stream.flush()
                tally.add(results)
                progress.add(sum(row.length for row in results))
    except OSError as error:
        name = "standard output" if targets.rows == STDOUT else targets.rows
        raise cannot_be_written(name, error) from error
    return tally


def stop_at_once(targets: Targets) -> None:
    """From here on Ctrl-C, or a reader of standard output that has gone, ends the program at once.

    By the signal itself, as other programs end, and without waiting for what is being computed; the
    journal is made for that.
    """

    def interrupted(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if not targets.streamed:
            print(
                f"\n{targets.rows}: stopped; the same command with --resume goes on",
                file=sys.stderr,
            )
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@contextlib.contextmanager
def _stream(targets: Targets) -> Iterator[BinaryIO]:
    if targets.rows == STDOUT:
        # A file of its own over the same descriptor, so that nothing is left to be written at exit.
        with open(sys.stdout.fileno(), "wb", closefd=False) as file:
            yield file
    else:
        with open(targets.rows, "wb") as file, formats.packed(file, targets.format.packing) as sink:
            yield sink
