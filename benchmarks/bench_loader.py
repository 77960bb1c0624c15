"""How fast are batches made from stored rows, beside a bare read of the same records?

    python -m benchmarks.bench_loader [--row_length=8192] [--megabases=100] [--batch_rows=8]
    python -m benchmarks.bench_loader --corpus=WORKDIR/data/corpus
    python -m benchmarks.bench_loader --rows=1000000

The first prepares genomes of 3 Mbp drawn at random, the second takes a corpus that is prepared;
they print tokens per CPU-second of one process, reading at random: of ArrayRecord alone (one record
at a time, nothing unpacked), of rows unpacked by the corpus's own source and by TFDS's, and of
whole batches, both strands, directly and through the stream that training reads. What they are
compared with is read in turn with them, several times; the fastest of each counts. The third writes
data sets of 10,000 rows to so many, and prints what reading one row at random takes in each.
"""

import argparse
import functools
import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from benchmarks.bench_prepare import write_fasta
from data_pipeline import loader, order
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus, open_corpus
from data_pipeline.rows import RowSource

GENOME = 3_000_000
READ = 4_096  # rows, of each variant each time
TIMES = 5


def exhaust(items: Iterable[Any]) -> None:
    deque(items, maxlen=0)


def fastest(works: dict[str, Callable[[], None]]) -> dict[str, float]:
    """CPU seconds of each, in turn."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(TIMES):
        for name, work in works.items():
            begin = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def read_all(source: RowSource, places: Sequence[int]) -> None:
    exhaust(map(source.raw.__getitem__, places))


def prepared(folder: str, bases: int, row_length: int) -> Corpus:
    path = os.path.join(folder, "x.fa")
    write_fasta(path, bases, GENOME)
    corpus = build_corpus(CorpusOptions((path,), row_length=row_length), folder)
    os.unlink(path)
    return corpus


def measure_batches(corpus: Corpus, batch_rows: int) -> None:
    source, length = corpus.source("train"), corpus.row_length
    places = [order.row_at(place, len(source), seed=1) for place in range(READ)]
    batches = loader.CorpusBatches(source, corpus.tokenizer, length, batch_rows=batch_rows, seed=1)
    count = READ // batch_rows
    theirs = tfds.builder_from_directory(corpus.folder).as_data_source("train")
    works: dict[str, Callable[[], None]] = {
        "bare ArrayRecord": lambda: read_all(source, places),
        "rows": lambda: exhaust(source[row] for row in places),
        "rows through TFDS": lambda: exhaust(theirs[row] for row in places),
        "batches": lambda: exhaust(map(batches, range(count))),
        "batches, streamed": lambda: exhaust(
            itertools.islice(loader.stream(batches, start=0), count)
        ),
    }
    took = fastest(works)
    bare = took["bare ArrayRecord"]
    print(f"{len(source):,} rows of {length}, batches of {batch_rows}; one process")
    for name, seconds in took.items():
        print(
            f"{name:<20} {seconds / READ * 1e6:7.1f} us a row  "
            f"{READ * length / seconds / 1e6:7.1f} million tokens a second  {bare / seconds:.2f}"
        )


def measure_access(folder: str, most: int, row_length: int) -> None:
    for rows in [n for n in (10_000, 100_000, 1_000_000) if n < most] + [most]:
        place = os.path.join(folder, str(rows))
        os.mkdir(place)
        source = prepared(place, rows * row_length, row_length).source("train")
        places = np.random.default_rng(1).integers(0, len(source), READ).tolist()
        read_all(source, places)  # opens the files
        took = fastest({"": functools.partial(read_all, source, places)})[""]
        print(f"{len(source):>10,} rows of {row_length}: {took / READ * 1e6:.1f} us to read one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--row_length", type=int, default=8_192)
    parser.add_argument("--megabases", type=float, default=100)
    parser.add_argument("--batch_rows", type=int, default=8)
    parser.add_argument("--corpus", default="")
    parser.add_argument("--rows", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.corpus:
        measure_batches(open_corpus(arguments.corpus), arguments.batch_rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.rows:
            measure_access(folder, arguments.rows, arguments.row_length)
        else:
            bases = int(arguments.megabases * 1e6)
            measure_batches(prepared(folder, bases, arguments.row_length), arguments.batch_rows)


if __name__ == "__main__":
    main()
