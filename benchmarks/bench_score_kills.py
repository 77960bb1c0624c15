"""Does `score` survive SIGKILL at any moment? The command itself, killed at random, then resumed.

    python -m benchmarks.bench_score_kills [--kills=50] [--kilobases=600] [--at-once=1]

Runs the command once without a kill for each format; then kills it, again and again, at a random
moment between its first write and its end, goes on with --resume until it ends, and compares every
file with the first run's. Parts are small and commits frequent here, so that most kills find some.
Prints how many ended with equal bytes, and how many had a commit to go on from. Every other flag
(--bundle, --threads, --platform, ...) is the command's own.
"""

import argparse
import itertools
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

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


def command(folder: pathlib.Path, ending: str, flags: list[str], *more: str) -> list[str]:
    targets = [f"--output={folder}/scores.{ending}", f"--fasta-out={folder}/viral.fa.gz"]
    targets += [f"--summary={folder}/summary.html", "--threshold=0.5"]
    source = str(folder.parent / "contigs.fa")
    program = PROGRAM.format(root=str(ROOT))
    return [sys.executable, "-c", program, "score", "--quiet", *flags, *targets, *more, source]


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def await_journal(folder: pathlib.Path, running: subprocess.Popen[bytes]) -> None:
    """Until the run begins to write (or has ended)."""
    while running.poll() is None and not [*folder.glob("*.journal")]:
        time.sleep(0.01)


def written(folder: pathlib.Path, ending: str, flags: list[str]) -> float:
    """Seconds from the first write of a whole run to its end."""
    folder.mkdir()
    subprocess.run(command(folder, ending, flags), check=True)  # which compiles
    running = subprocess.Popen(command(folder, ending, flags))
    await_journal(folder, running)
    begin = time.monotonic()
    if running.wait():
        raise SystemExit("a run that was not killed has failed")
    return time.monotonic() - begin


def killed(folder: pathlib.Path, ending: str, flags: list[str], after: float) -> bool:
    """Kills a run so many seconds after its first write and goes on; was there a commit?"""
    folder.mkdir()
    running = subprocess.Popen(command(folder, ending, flags))
    await_journal(folder, running)
    time.sleep(after)
    running.kill()
    running.wait()
    journals = [path.read_bytes() for path in folder.glob("*.journal")]
    subprocess.run(command(folder, ending, flags, "--resume"), check=True)
    return any(journal.count(b"\n") > 1 for journal in journals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kilobases", type=int, default=600)
    parser.add_argument("--at-once", type=int, default=1)
    arguments, flags = parser.parse_known_args()
    rng = random.Random(0)
    equal = going_on = 0
    with (
        tempfile.TemporaryDirectory() as scratch,
        ThreadPoolExecutor(arguments.at_once) as pool,
    ):
        contigs = simulated(np.random.default_rng(0), 1_000, arguments.kilobases)
        with pathlib.Path(scratch, "contigs.fa").open("wb") as file:
            file.writelines(b">c%d\n%s\n" % pair for pair in enumerate(contigs))
        whole = {ending: pathlib.Path(scratch, f"whole-{ending}") for ending in ENDINGS}
        lasts = {ending: written(whole[ending], ending, flags) for ending in ENDINGS}
        expected = {ending: content(folder) for ending, folder in whole.items()}
        endings = [ENDINGS[kill % len(ENDINGS)] for kill in range(arguments.kills)]
        folders = [pathlib.Path(scratch, str(kill)) for kill in range(arguments.kills)]
        moments = [rng.uniform(0, lasts[ending]) for ending in endings]
        runs = pool.map(killed, folders, endings, itertools.repeat(flags), moments)
        for kill, went_on in enumerate(runs):
            going_on += went_on
            equal += content(folders[kill]) == expected[endings[kill]]
            print(f"\r{kill + 1} killed, {equal} equal, {going_on} went on", end="", flush=True)
        print()
    if equal < arguments.kills:
        raise SystemExit("a run that was killed ended with other bytes")


if __name__ == "__main__":
    main()
