"""Does `score` survive SIGKILL at any moment? The command itself, killed at random, then resumed.

    python -m benchmarks.bench_score_kills [--bundle=DIR] [--kills=50] [--kilobases=600]

Runs the command once without a kill for each format; then kills it, again and again, at a random
moment between its first write and its end, goes on with --resume until it ends, and compares every
file with the first run's. Parts are small and commits frequent here, so that most kills find some.
Prints how many ended with equal bytes, and how many had a commit to go on from.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.bench_frames import simulated

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from dnallm_jax.scoring import batch, parts
batch.COMMIT_EVERY, parts.FIRST, parts.LARGEST = 0.1, 4_000, 16_000
import main
main.run(["main.py", *sys.argv[1:]])
"""
ENDINGS = ("tsv", "jsonl.gz", "parquet")


def command(folder: pathlib.Path, ending: str, bundle: list[str], *more: str) -> list[str]:
    targets = [f"--output={folder}/scores.{ending}", f"--fasta-out={folder}/viral.fa.gz"]
    targets += [f"--summary={folder}/summary.html", "--threshold=0.5"]
    source = str(folder.parent / "contigs.fa")
    program = PROGRAM.format(root=str(ROOT))
    return [sys.executable, "-c", program, "score", "--quiet", *bundle, *targets, *more, source]


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def await_journal(folder: pathlib.Path, running: subprocess.Popen[bytes]) -> None:
    """Until the run begins to write (or has ended)."""
    while running.poll() is None and not [*folder.glob("*.journal")]:
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", default="")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kilobases", type=int, default=600)
    arguments = parser.parse_args()
    bundle = [f"--bundle={arguments.bundle}"] if arguments.bundle else []
    rng = random.Random(0)
    equal = going_on = 0
    with tempfile.TemporaryDirectory() as scratch:
        contigs = simulated(np.random.default_rng(0), 1_000, arguments.kilobases)
        with pathlib.Path(scratch, "contigs.fa").open("wb") as file:
            file.writelines(b">c%d\n%s\n" % pair for pair in enumerate(contigs))
        expected, lasts = {}, {}
        for ending in ENDINGS:
            (whole := pathlib.Path(scratch, f"whole-{ending}")).mkdir()
            subprocess.run(command(whole, ending, bundle), check=True)  # which compiles
            running = subprocess.Popen(command(whole, ending, bundle))
            await_journal(whole, running)
            begin = time.monotonic()
            running.wait()
            lasts[ending] = time.monotonic() - begin
            expected[ending] = content(whole)
        for kill in range(arguments.kills):
            ending = ENDINGS[kill % len(ENDINGS)]
            (folder := pathlib.Path(scratch, str(kill))).mkdir()
            running = subprocess.Popen(command(folder, ending, bundle))
            await_journal(folder, running)
            time.sleep(rng.uniform(0, lasts[ending]))
            running.kill()
            running.wait()
            journals = [path.read_bytes() for path in folder.glob("*.journal")]
            going_on += any(journal.count(b"\n") > 1 for journal in journals)
            subprocess.run(command(folder, ending, bundle, "--resume"), check=True)
            equal += content(folder) == expected[ending]
            print(f"\r{kill + 1} killed, {equal} equal, {going_on} went on", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
