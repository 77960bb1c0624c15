"""How fast are open stretches found, read as codons and turned into features?

    python -m benchmarks.bench_frames [--megabases=3] [--repeats=9]

Prints million bases per CPU-second of one process (median of the repeats) on simulated contigs of
300 to 10,000 bases: open stretches, codon streams, features of the stretches, features of k-mers,
the first three in a row and all four, many contigs a call; "alone" is stretches and codons with one
contig a call. "of limit" says how near the search for stretches comes to a limit measured in the
same run: six passes of `bytes.translate` over the bases, one for each frame.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from data_pipeline import composition, frames
from data_pipeline.six_frames import CODONS, STOP_CODONS

LENGTHS = (300, 1_000, 3_000, 10_000)
COLUMNS = ("stretches", "codons", "features", "k-mers", "first 3", "all", "alone", "of limit")


def simulated(rng: np.random.Generator, length: int, count: int) -> list[bytes]:
    """Half of each contig is coding (no stop in one frame of one strand), half is random."""
    sense = np.array([list(c.encode()) for c in CODONS if c not in STOP_CODONS])
    letters = np.frombuffer(b"ACGT", np.uint8)
    contigs = []
    for _ in range(count):
        gene = sense[rng.integers(len(sense), size=length // 6)].astype(np.uint8).ravel()
        before = rng.integers(length - len(gene) + 1)
        contig = rng.choice(letters, length)
        contig[before : before + len(gene)] = gene
        contigs.append(contig.tobytes())
    return contigs


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of one call."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return statistics.median(times)


def measure(contigs: list[bytes], repeats: int) -> list[float]:
    """Million bases per CPU-second in the order of COLUMNS; the last is a share."""
    megabases = sum(map(len, contigs)) / 1e6
    found = frames.open_stretches_batch(contigs)
    text, table = b"".join(contigs), bytes(range(256))
    few = contigs[::10]

    def one_by_one() -> None:
        for bases in few:
            frames.codon_tokens(bases, frames.open_stretches(bases))

    steps = [
        seconds(lambda: frames.open_stretches_batch(contigs), repeats),
        seconds(lambda: frames.codon_streams_batch(contigs, found), repeats),
        seconds(lambda: composition.composition_features_batch(contigs, found), repeats),
        seconds(lambda: composition.kmer_features_batch(contigs), repeats),
    ]
    steps += [sum(steps[:3]), sum(steps)]
    alone = sum(map(len, few)) / 1e6 / seconds(one_by_one, repeats)
    limit = seconds(lambda: [text.translate(table) for _ in range(6)], repeats)
    return [*(megabases / step for step in steps), alone, limit / steps[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabases", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'bases':>8}" + "".join(f"{name:>12}" for name in COLUMNS))
    for length in LENGTHS:
        contigs = simulated(rng, length, max(1, round(arguments.megabases * 1e6 / length)))
        *rates, share = measure(contigs, arguments.repeats)
        print(f"{length:>8}" + "".join(f"{rate:>12.2f}" for rate in rates) + f"{share:>12.1%}")


if __name__ == "__main__":
    main()
