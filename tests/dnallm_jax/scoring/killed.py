"""python killed.py FORMAT FOLDER STEP FAULT [PROCESSES]: does a run killed anywhere go on?

Forks a run of score_to_files that kills itself (SIGKILL) before the n-th line that it executes in
the files that write; goes on with `resume` in another fork; and compares every file that is there
then with those of a run that was never killed; n grows by STEP. Prints one line: how many places
were tried. A process of its own, without threads of JAX, because it forks. FAULT plants one.
With PROCESSES the records are shared between so many runs, one after the other in a fork.
"""

import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import pyarrow.parquet  # noqa: F401  # here and below: loaded once, not in every fork

from data_pipeline.spooling import Spooled
from dnallm_jax.evaluation import calibration  # noqa: F401
from dnallm_jax.scoring import batch, parts, shares, summary  # noqa: F401
from dnallm_jax.scoring.formats import choose_format
from dnallm_jax.scoring.journal import Journal, Output
from dnallm_jax.scoring.output import Calls
from dnallm_jax.scoring.progress import Progress
from dnallm_jax.scoring.shares import Share
from tests.dnallm_jax.scoring.standin import Detector, record

WATCHED = ("batch.py", "journal.py", "formats.py", "shares.py")
PROCESSES = int((sys.argv[5:] or ["1"])[0])


def keeps_what_follows(journal: Journal, output: Output, size: int, checksum: str) -> None:
    """A planted fault: what was written after the last commit stays."""
    file = journal._files[output.path] = output.partial.open("ab", buffering=0)
    journal._sums[output.path].update(output.partial.read_bytes()[: file.tell()])


def at_once(journal: Journal, path: pathlib.Path, data: Iterable[bytes]) -> int:
    """No fault: what is written is on the disk long before the commit, so that more follows it."""
    whole = b"".join(data)
    journal._files[path].write(whole)
    journal._files[path].flush()
    journal._sums[path].update(whole)
    return len(whole)


def begins_at_the_last_part(found: Any, done: Any) -> Any:
    """A planted fault: the part before the commit is scored again."""
    return (part for part in found if part.number >= done.parts - 1)


in_order = shares._in_order


def turned_round(complete: Any, whole: Any) -> Iterator[list[list[bytes]]]:
    """A planted fault: the parts of two shares in the other order."""
    found = [[list(blocks) for blocks in written] for written in in_order(complete, whole)]
    for pair in zip(found[1::2], found[::2], strict=False):
        yield from pair


FAULTS = {
    "none": [(Journal, "write", at_once)],
    "keeps what follows": [(Journal, "write", at_once), (Journal, "_take_up", keeps_what_follows)],
    "begins at the last part": [(batch, "_after", begins_at_the_last_part)],
    "turns parts round": [(shares, "_in_order", turned_round)],
}


def records() -> Iterator[Spooled]:
    for number in range(25):
        yield record(f"r{number % 20}", b"ACGT" * number + b"A" * (number % 7), "described")


def score(folder: pathlib.Path, ending: str, *, resume: bool, processes: int = PROCESSES) -> None:
    packing = ".gz" if ending.endswith(".gz") else ""
    targets = batch.Targets(
        str(folder / f"scores.{ending}"),
        choose_format(f"scores.{ending}"),
        fasta=str(folder / f"viral.fa{packing}"),
        regions=str(folder / "regions.bed"),
        summary=str(folder / "summary.html"),
    )
    identity = {"batch_tokens": 1}
    provenance = {"version": "1", "bundle": "0" * 64, "threshold": 0.5, "command": "score"}
    provenance |= {"false_positive_rate": None, "prevalence": 0.5, "min_length": 0}
    for share in (Share(number, processes) for number in range(processes)):
        if resume and processes > 1 and batch.is_made(targets, share, provenance, []):
            continue
        batch.score_to_files(
            Detector(), Calls(0.5), records(), targets, Progress([], quiet=True),
            provenance=provenance, identity=identity, resume=resume, share=share,
        )  # fmt: skip


def fork(folder: pathlib.Path, ending: str, *, resume: bool, line: int = 0) -> int:
    """The status with which a fork ends that scores, killed before the `line`-th line watched."""
    if not (child := os.fork()):
        try:
            sys.settrace(killing(line) if line else None)
            score(folder, ending, resume=resume)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killing(line: int) -> Callable[[FrameType, str, Any], Any]:
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main(ending: str, scratch: pathlib.Path, step: int) -> None:
    parts.FIRST, parts.LARGEST, batch.COMMIT_EVERY = 500, 700, 0.0
    whole = scratch / "whole"
    whole.mkdir()
    score(whole, ending, resume=False, processes=1)
    expected = content(whole)
    line = tried = 0
    while True:
        line += step
        folder = scratch / str(line)
        folder.mkdir()
        if fork(folder, ending, resume=False, line=line) == 0:
            break
        tried += 1
        found = content(folder)
        shown = {name for name in found if not name.endswith((".partial", ".journal", ".tmp"))}
        assert all(found[name] == expected[name] for name in shown), f"line {line}: {shown}"
        # The run that goes on is killed as well, elsewhere; then it may end.
        fork(folder, ending, resume=True, line=1 + line * 7 % 400)
        assert fork(folder, ending, resume=True) == 0, f"line {line}"
        assert content(folder) == expected, f"line {line}"
    print(f"killed {tried} times")


if __name__ == "__main__":
    for where, name, fault in FAULTS[sys.argv[4]]:
        setattr(where, name, fault)
    main(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
