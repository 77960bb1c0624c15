"""How fast does `prepare` write a corpus, how much disk and memory does it take?

    python -m benchmarks.bench_prepare [--megabases=30] [--row_length=1024] [--tokenizer=nucleotide]
    python -m benchmarks.bench_prepare --memory=genomes|chromosome|reads [--megabases=1000]

The first prints input MB per CPU-second of one process, from plain and from gz FASTA (genomes of
300,000 bases drawn at random), each both alone and with a tenth of the genomes as validation, which
adds the leakage table and the Markov models; and two limits measured in the same run: reading the
gz file to its end, and writing the very rows through TFDS's own serialisation and writer. Then
bytes on disk per base. The second prints the peak memory of a process that prepares so many
megabases in genomes of ten, in one chromosome or in reads of 100 bases.
"""

import argparse
import gzip
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline import datasets
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from data_pipeline.reading import read_blocks

RECORD_BASES = {"speed": 300_000, "genomes": 10_000_000, "chromosome": 1 << 60, "reads": 100}
LETTERS = np.frombuffer(b"ACGT", np.uint8)


def write_fasta(path: str, bases: int, record_bases: int) -> int:
    """Random bases in lines of 70; returns the bytes of the file."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for number, start in enumerate(range(0, bases, record_bases)):
            file.write(b">record%d cluster=c%d\n" % (number, number % 1_000))
            left = min(record_bases, bases - start)
            while left:
                lines = rng.choice(LETTERS, min(left, 7_000_000))
                left -= len(lines)
                whole = lines[: len(lines) // 70 * 70].reshape(-1, 70)
                ends = np.full((len(whole), 1), ord("\n"), np.uint8)
                file.write(np.hstack([whole, ends]).tobytes())
                if len(lines) % 70:
                    file.write(lines[len(lines) // 70 * 70 :].tobytes() + b"\n")
    return os.path.getsize(path)


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


class ThroughTfds(tfds.core.ShardBasedBuilder):
    """The rows of a corpus, written by TFDS alone."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, corpus: Corpus, **kwargs: Any) -> None:
        source = corpus.source("train")
        self.rows = [source[number] for number in range(len(source))]
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        arrays = {
            name: tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")
            for name, dtype in (
                ("tokens", self.rows[0]["tokens"].dtype),
                ("segment_lengths", np.int32),
                ("starts", np.int64),
            )
        }
        features = tfds.features.FeaturesDict({**arrays, "record_ids": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        del dl_manager
        return {"train": [lambda: enumerate(self.rows)]}


def measure_speed(megabases: float, row_length: int, spec: dict[str, Any], folder: str) -> None:
    plain, packed = os.path.join(folder, "x.fa"), os.path.join(folder, "x.fa.gz")
    size = write_fasta(plain, int(megabases * 1e6), RECORD_BASES["speed"])
    with open(plain, "rb") as file, gzip.open(packed, "wb", compresslevel=6) as target:
        target.write(file.read())
    rates: dict[str, float] = {}
    built: list[Corpus] = []

    def prepare(name: str, source: str, **options: Any) -> None:
        given = CorpusOptions((source,), tokenizer=spec, row_length=row_length, **options)
        took = seconds(lambda: built.append(build_corpus(given, os.path.join(folder, name))))
        rates[name] = size / took / 1e6
        print(f"{name:<36} {rates[name]:7.1f} MB/s")

    print(f"{megabases:g} Mbp, {spec}, rows of {row_length}; MB of FASTA per CPU-second")
    prepare("warm up", plain)
    prepare("plain", plain)
    prepare("plain, a tenth for validation", plain, validation_fraction=0.1, cluster_key="cluster")
    prepare("gz", packed)

    def decompress() -> None:
        with gzip.open(packed) as file:
            while file.read(1 << 20):
                pass

    limits = {"decompressor": decompress, "parser": lambda: exhaust(read_blocks([plain]))}
    builder = ThroughTfds(
        built[1], data_dir=os.path.join(folder, "tfds"), file_format="array_record"
    )

    def through_tfds() -> None:
        with datasets.quiet_tfds() as downloads:
            builder.download_and_prepare(download_dir=downloads)

    limits["TFDS writer, these rows"] = through_tfds
    for name, work in limits.items():
        rates[name] = size / seconds(work) / 1e6
        print(f"limit: {name:<29} {rates[name]:7.1f} MB/s")
    slower = min(rates["decompressor"], rates["TFDS writer, these rows"])
    print(f"gz / the slower of decompressor and TFDS writer: {rates['gz'] / slower:.2f}")
    print(f"plain / TFDS writer: {rates['plain'] / rates['TFDS writer, these rows']:.2f}")
    info, stored = built[1].splits["train"], sum(built[1].manifest["files"].values())
    print(f"disk: {stored / info.bases:.3f} bytes per base")


def exhaust(items: Iterator[Any]) -> None:
    for _ in items:
        pass


def measure_memory(kind: str, megabases: float, spec: dict[str, Any], folder: str) -> None:
    path = os.path.join(folder, "x.fa")
    size = write_fasta(path, int(megabases * 1e6), RECORD_BASES[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = CorpusOptions((path,), tokenizer=spec)
    if kind != "chromosome":
        options = CorpusOptions(
            (path,), tokenizer=spec, validation_fraction=0.05, cluster_key="cluster"
        )
    took = seconds(lambda: build_corpus(options, os.path.join(folder, "corpus")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{kind}, {megabases:g} Mbp, {spec}: peak {peak / 2**20:.2f} GiB "
        f"(before {before / 2**20:.2f}), {size / took / 1e6:.1f} MB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabases", type=float, default=30)
    parser.add_argument("--row_length", type=int, default=1_024)
    parser.add_argument("--tokenizer", default="nucleotide")
    parser.add_argument("--k", type=int, default=0)
    parser.add_argument("--memory", choices=("genomes", "chromosome", "reads"))
    arguments = parser.parse_args()
    spec = {"name": arguments.tokenizer} | ({"k": arguments.k} if arguments.k else {})
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            measure_memory(arguments.memory, arguments.megabases, spec, folder)
        else:
            measure_speed(arguments.megabases, arguments.row_length, spec, folder)


if __name__ == "__main__":
    main()
