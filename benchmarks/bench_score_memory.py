"""How much memory does `score` take, and does it grow with the input or with a sequence?

    python -m benchmarks.bench_score_memory [--reads=20000,80000] [--megabases=5,20] [--bundle=DIR]

Runs the command on so many simulated reads of 300 bases, and on one sequence of so many million
bases, each in a process of its own, and prints the most memory that it held at a time, in MiB, its
seconds by the clock and of the processor, the rows that it wrote, one a record, and how much memory
each further read or base took. An empty list leaves a kind out. Every other flag (--bundle,
--threads, --platform, ...) is the command's own.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.bench_frames import simulated

MAIN = pathlib.Path(__file__).parents[1] / "main.py"


@dataclass(frozen=True)
class Run:
    """What a run of the command took."""

    mebibytes: float
    seconds: float
    processor_seconds: float
    rows: int


def scored(path: pathlib.Path, flags: list[str]) -> Run:
    """Scores a file in a process of its own."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)"
    )
    output = path.with_name("scores.tsv")
    words = [sys.executable, str(MAIN), "score", "--quiet", *flags, f"--output={output}", str(path)]
    begin = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", program, *words], check=True, stdout=subprocess.PIPE
    ).stdout
    seconds = time.monotonic() - begin
    mebibytes, processor_seconds = map(float, told.split())
    with output.open("rb") as file:
        rows = sum(1 for _ in file) - 1
    return Run(mebibytes, seconds, processor_seconds, rows)


def write(path: pathlib.Path, what: str, size: int) -> None:
    """So many reads of 300 bases, or one sequence of so many million."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        if what == "reads":
            some = simulated(rng, 300, 1_000)
            file.writelines(b">r%d\n%s\n" % (n, some[n % 1_000]) for n in range(size))
        else:
            file.write(b">chromosome\n")
            some = simulated(rng, 100_000, 10)
            file.writelines(b"".join(some) + b"\n" for _ in range(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reads", default="20000,80000")
    parser.add_argument("--megabases", default="5,20")
    arguments, flags = parser.parse_known_args()
    print(f"{'':>22} {'MiB':>9} {'seconds':>9} {'CPU-s':>9} {'rows':>11}")
    for what, sizes in (("reads", arguments.reads), ("megabases", arguments.megabases)):
        found = []
        for size in map(int, filter(None, sizes.split(","))):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "input.fa")
                write(path, what, size)
                run = scored(path, flags)
            found.append((size, run.mebibytes))
            print(
                f"{size:>12,} {what:<9} {run.mebibytes:>9,.0f} {run.seconds:>9,.0f} "
                f"{run.processor_seconds:>9,.0f} {run.rows:>11,}",
                flush=True,
            )
            expected = size if what == "reads" else 1
            if run.rows != expected:
                raise SystemExit(f"{run.rows} rows for {expected} records")
        if len(found) > 1:
            (small, less), (large, more) = found[0], found[-1]
            each = (more - less) * 2**20 / (large - small) / (1e6 if what == "megabases" else 1)
            unit = "read" if what == "reads" else "base"
            print(f"{'':>12} {each:.2f} bytes for each further {unit}")


if __name__ == "__main__":
    main()
