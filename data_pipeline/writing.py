"""How are the shards of a corpus written, and is all there that went in?

A shard packs its own consecutive part of the input, so memory is bounded by a shard, and its bytes
do not depend on who writes it. A job is some consecutive shards of a split: it reads what they need
and leaves a count of what it did beside them. Whoever hands out the jobs adds up the counts, and
counts the stored rows by the files' own account.
"""

import itertools
import json
import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from data_pipeline.packing import pack
from data_pipeline.pieces import SplitPlan, pieces, steps
from data_pipeline.rows import RowFormat

COMPRESSION = "zstd:1"  # of tokens no higher level saves a byte, at twice the time


@dataclass(frozen=True)
class Job:
    """Some consecutive shards of a split; may be pickled."""

    plan: SplitPlan
    format: RowFormat
    shards: range
    paths: tuple[str, ...]  # of those shards
    counts: str  # path of the count that is left behind


class Runner(Protocol):
    """Does jobs, in any order."""

    @property
    def parts(self) -> int:
        """Into how many jobs a split is divided, if it has as many shards."""

    def __call__(self, jobs: Iterable[Job]) -> None:
        """Returns when all are done."""


@dataclass(frozen=True)
class InProcess:
    """One job after the other, in one pass over the sources of a split."""

    parts: ClassVar[int] = 1

    def __call__(self, jobs: Iterable[Job]) -> None:
        """Does them here."""
        for job in jobs:
            write(job)


IN_PROCESS = InProcess()


def write(job: Job) -> None:
    """Writes the shards of a job, and then its count."""
    counts: Counter[str] = Counter()
    form = job.format
    numbered = pieces(
        job.plan, form.tokenizer, form.row_length, counts, masks=form.masks, shards=job.shards
    )
    lengths = steps(form.tokenizer, form.masks)
    for shard, members in itertools.groupby(numbered, key=operator.itemgetter(0)):
        writer = array_record_module.ArrayRecordWriter(
            job.paths[job.shards.index(shard)], f"group_size:{form.together},{COMPRESSION}"
        )
        for rows in pack((piece for _, piece in members), form.row_length, lengths):
            stored, done = form.serialised(rows)
            counts.update(done)
            for row in stored:
                writer.write(row)
        writer.close()
    with open(job.counts, "w", encoding="utf-8") as file:
        json.dump(counts, file)


@dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
    """A TFDS config: its name stands for everything the rows depend on."""

    plan: Mapping[str, SplitPlan]
    format: RowFormat
    runner: Runner


class PackedCorpus(FileReaderBuilder):
    """The TFDS builder of packed rows; it writes the shards itself.

    TFDS's own writing holds a shard or a split in memory, needs TensorFlow for more than 1 GB of
    examples, spends five times as long on a row of 1,024, and stores each row in a chunk by itself.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **kwargs: Any) -> None:
        self.written: dict[str, Counter[str]] = {}  # split -> counts
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        arrays = {
            # The default encoding, a list of variable-length integers, is five times slower.
            name: tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")
            for name, dtype in self.builder_config.format.features.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tokenised DNA, packed into rows; segments of a row are unrelated.",
            features=tfds.features.FeaturesDict({**arrays, "record_ids": tfds.features.Text()}),
            disable_shuffling=True,
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        del dl_manager, download_config
        config, folder = self.builder_config, str(self.data_path)
        templates = {split: self._get_filename_template(split) for split in config.plan}
        jobs = []
        for split, plan in config.plan.items():
            paths = [
                str(templates[split].sharded_filepath(shard_index=i, num_shards=plan.shards))
                for i in range(plan.shards)
            ]
            for shards in divided(plan.shards, config.runner.parts):
                own = tuple(paths[shard] for shard in shards)
                counts = os.path.join(folder, f"{split}-{shards.start}.counts.json")
                jobs.append((split, Job(plan, config.format, shards, own, counts)))
        config.runner([job for _, job in jobs])
        self.written = {split: Counter() for split in config.plan}
        lengths: dict[str, list[int]] = {split: [] for split in config.plan}
        sizes: Counter[str] = Counter()
        for split, job in jobs:
            self.written[split].update(_finished(job))
            lengths[split] += map(stored_rows, job.paths)
            sizes[split] += sum(map(os.path.getsize, job.paths))
        for split, plan in config.plan.items():
            check_counts(split, plan, self.written[split], sum(lengths[split]), config.format)
        self.info.set_splits(
            tfds.core.SplitDict(
                [
                    tfds.core.SplitInfo(
                        name=split,
                        shard_lengths=lengths[split],
                        num_bytes=sizes[split],
                        filename_template=templates[split],
                    )
                    for split in config.plan
                ]
            )
        )


def divided(shards: int, parts: int) -> list[range]:
    """Shards 0 .. `shards` - 1 in at most `parts` consecutive parts of about one size."""
    parts = min(parts, shards)
    bounds = [shards * part // parts for part in range(parts + 1)]
    return [range(*pair) for pair in itertools.pairwise(bounds)]


def stored_rows(path: str) -> int:
    """How many rows are in the file, as the file itself says; RuntimeError if there is none."""
    if not os.path.exists(path):
        raise RuntimeError(f"{path}: the shard was not written")
    reader = array_record_module.ArrayRecordReader(path)
    try:
        return reader.num_records()
    finally:
        reader.close()


def _finished(job: Job) -> Counter[str]:
    """The count that a job left, which is taken away; RuntimeError if it left none."""
    try:
        with open(job.counts, encoding="utf-8") as file:
            counts = Counter(json.load(file))
    except FileNotFoundError:
        raise RuntimeError(f"{job.paths[0]}: the shards from here on were not finished") from None
    os.unlink(job.counts)
    return counts


def check_counts(
    split: str, plan: SplitPlan, counts: Counter[str], stored: int, form: RowFormat
) -> None:
    """RuntimeError unless all that the first pass measured was read, packed and stored."""
    came_out = counts["covered"] - counts["repeated"] if form.tokenizer.covering else plan.bases
    if (
        not plan.bases == counts["letters_in"] == came_out
        or counts["tokens"] != counts["tokens_in"]
    ):
        raise RuntimeError(
            f"{split}: {plan.bases} bases went in, {counts['letters_in']} were read as "
            f"{counts['tokens_in']} tokens, {came_out} came out in {counts['tokens']} tokens; did "
            "a source change?"
        )
    if counts["rows"] != stored:
        raise RuntimeError(f"{split}: {counts['rows']} rows were written, {stored} are stored")
