"""How much memory does `score` take, and does it grow with the input or with a sequence?

    python -m benchmarks.bench_score_memory [--bundle=DIR] [--reads=20000,80000] [--megabases=5,20]

Runs the command on so many simulated reads of 300 bases, and on one sequence of so many million
bases, each in a process of its own, and prints the most memory that it held at a time, in MiB, and
how much of that each further read or base took. Without a bundle: the shipped detector.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.bench_frames import simulated

MAIN = pathlib.Path(__file__).parents[1] / "main.py"


def peak(path: pathlib.Path, bundle: list[str]) -> float:
    """MiB that the command held at most."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    words = [sys.executable, str(MAIN), "score", "--quiet", *bundle, f"--output={path}.tsv", path]
    told = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], check=True, capture_output=True
    ).stdout
    return int(told.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", default="")
    parser.add_argument("--reads", default="20000,80000")
    parser.add_argument("--megabases", default="5,20")
    arguments = parser.parse_args()
    bundle = [f"--bundle={arguments.bundle}"] if arguments.bundle else []
    rng = np.random.default_rng(0)
    for what, sizes in (("reads", arguments.reads), ("megabases", arguments.megabases)):
        found = []
        for size in map(int, filter(None, sizes.split(","))):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "input.fa")
                with path.open("wb") as file:
                    if what == "reads":
                        some = simulated(rng, 300, 1_000)
                        file.writelines(b">r%d\n%s\n" % (n, some[n % 1_000]) for n in range(size))
                    else:
                        file.write(b">chromosome\n")
                        some = simulated(rng, 100_000, 10)
                        file.writelines(b"".join(some) + b"\n" for _ in range(size))
                found.append((size, peak(path, bundle)))
            print(f"{size:>12,} {what:<10}{found[-1][1]:>10,.0f} MiB", flush=True)
        if len(found) > 1:
            (small, less), (large, more) = found[0], found[-1]
            each = (more - less) * 2**20 / (large - small) / (1e6 if what == "megabases" else 1)
            unit = "read" if what == "reads" else "base"
            print(f"{'':>12} {each:.1f} bytes for each further {unit}")


if __name__ == "__main__":
    main()
