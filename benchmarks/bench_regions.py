"""Does a virus in a chromosome show? Implants phages into bacterial chromosomes and looks for them.

python -m benchmarks.bench_regions GENOMES.fa.gz [--bundle=DIR] [--phages=14] [--bases=300000]

GENOMES.fa.gz holds records whose headers say group=bacteria, archaea or phage and cluster=...; take
genomes that the detector was not trained on. A phage of 8 to 80 thousand bases, each of another
cluster, is put into a stretch of each chromosome at a place drawn at random. For several thresholds
of the bundle it prints how many are found (a region that covers half of the phage and is at most
twice as long), how far the borders are off, and false regions per million bases of host. Real
prophages of the hosts count as false.
"""

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from data_pipeline.reading import Record, fields, read_records
from data_pipeline.spooling import Spooled
from dnallm_jax.scoring.detector import Detector
from dnallm_jax.scoring.output import Calls, Part, choose_calls, score_part
from dnallm_jax.scoring.regions import Region, regions

HOSTS, PHAGE = ("bacteria", "archaea"), (8_000, 80_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("genomes")
    parser.add_argument("--bundle")
    parser.add_argument("--phages", type=int, default=14)
    parser.add_argument("--bases", type=int, default=300_000)
    options = parser.parse_args()
    detector = Detector.load(options.bundle).bundle
    rng = np.random.default_rng(0)
    everything = Calls(0.0)  # every run of the path, with its score
    found: list[tuple[int, int, list[Region]]] = []
    for host, phage in implants(options.genomes, options.phages, options.bases, rng):
        place = int(rng.integers(options.bases // 5, options.bases * 4 // 5))
        bases = host.bases[:place] + phage.bases + host.bases[place:]
        record = Spooled(host.id, "", bases.upper())
        part = Part(0, [record], [False], "")
        own = next(regions(detector, everything, [record], score_part(detector, everything, part)))
        found.append((place, place + len(phage.bases), own))
        shown = " ".join(f"{a:,}-{b:,}:{score:.3f}" for a, b, score in own)
        print(f"{host.id} {phage.id} at {place:,}-{place + len(phage.bases):,} -> {shown}")
    for rate in (0.001, 0.01, 0.05, 0.1):
        threshold = choose_calls(detector, false_positive_rate=rate).threshold
        print(f"--fpr={rate:g}: {told(found, threshold, options.bases)}")


def implants(
    path: str, count: int, bases: int, rng: np.random.Generator
) -> Iterator[tuple[Record, Record]]:
    """Stretches of chromosomes, in turn, each with a phage of a cluster of its own."""
    chromosomes: list[Record] = []
    phages: dict[str, Record] = {}
    for record in read_records([path]):
        known = fields(record.description)
        if known.get("group") in HOSTS and len(record.bases) > bases:
            chromosomes.append(record)
        if known.get("group") == "phage" and PHAGE[0] <= len(record.bases) <= PHAGE[1]:
            phages.setdefault(known.get("cluster", record.id).split(".")[0], record)
    chosen = rng.permutation(len(phages))[:count].tolist()
    for number, host in zip(chosen, itertools.cycle(chromosomes), strict=False):
        at = int(rng.integers(0, len(host.bases) - bases))
        stretch = Record(host.id, "", host.bases[at : at + bases])
        yield stretch, list(phages.values())[number]


def told(found: list[tuple[int, int, list[Region]]], threshold: float, bases: int) -> str:
    """Found phages, borders and false regions at a threshold."""
    hits, false, off = 0, 0, []
    for start, stop, own in found:
        hit = False
        for begin, end, score in own:
            if score < threshold:
                continue
            shared = min(end, stop) - max(begin, start)
            if shared > (stop - start) / 2 and end - begin < 2 * (stop - start):
                hit = True
                off += [abs(begin - start), abs(end - stop)]
            elif shared <= 0:
                false += 1
        hits += hit
    border = f"{np.median(off):,.0f}" if off else "-"
    rate = false / (len(found) * bases / 1e6)
    return (
        f"{hits} of {len(found)} found, borders off by {border} bases (median), {false} false "
        f"regions, {rate:.2f} per million bases"
    )


if __name__ == "__main__":
    main()
