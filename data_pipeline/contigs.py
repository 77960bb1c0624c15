"""How do labelled sequences become a TFDS data set, and how are they read back?

Labels and metadata come from a table beside each FASTA file or from its headers. Train records may
be whole genomes, to be cut into contigs later; validation and test records are used as they are.
"""

import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline import buckets, datasets
from data_pipeline.errors import UserError
from data_pipeline.labels import Labels, read_labels
from data_pipeline.overlap import overlap
from data_pipeline.reading import expand, read_records
from data_pipeline.records import Measured
from data_pipeline.survey import summary, survey

CODE_VERSION = 1  # raise it when the same sources and options give other records
POINTER = "contigs.json"
METADATA = ("group", "cluster", "family", "genus", "phylum", "organism", "novelty", "source")
# Reading one record takes time in proportion to the records of its file; a shard waits in memory.
SHARD_RECORDS, SHARD_BASES = 4_096, 1 << 26

ShardFunction = Callable[[], Iterator[tuple[int, dict[str, Any]]]]


@dataclass(frozen=True)
class ContigsOptions:
    """What goes into a data set of labelled sequences; any change of it gives another one."""

    train: tuple[str, ...]  # patterns for reading.expand; beside X.fa.gz may lie X.tsv or X.csv
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.0  # of the bases of `train`, cut off by whole clusters
    cluster_key: str = "cluster"  # column or header key that names it, as in corpus_options
    max_ambiguous: float = (
        1.0  # records with a larger share of letters other than ACGT are left out
    )
    seed: int = 0  # of the choice of validation clusters

    def check(self) -> None:
        """Raises UserError for options that make no sense, alone or together."""
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction is {self.validation_fraction}; choose 0 or more, less than 1"
            )
        if self.validation and self.validation_fraction:
            raise UserError("validation and validation_fraction are both given; choose one of them")
        if not 0 <= self.max_ambiguous <= 1:
            raise UserError(f"max_ambiguous is {self.max_ambiguous}; choose from 0 to 1")


@dataclass(frozen=True)
class SplitInfo:
    """The size of one split."""

    records: int
    bases: int
    viral: int  # records


@dataclass(frozen=True, slots=True)
class ContigSource:
    """The records of one split by number; may be pickled and read from several threads.

    A split is a type: what is trained on `Train`, chosen by `Validation` and told of `Test` cannot
    be mixed up, because functions say which of them they take.
    """

    raw: Any  # TFDS data source of serialised examples

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """bases uint8[n] (ASCII, upper case, a read-only view), label int32, all else bytes.

        What TFDS itself decodes to, in a fraction of the time.
        """
        try:
            stored = self.raw[index]
        except RuntimeError as error:
            where = self.raw.dataset_info.data_dir
            raise datasets.unreadable(f"{where}: record {index} of the contigs", error) from error
        features = tf_example_pb2.Example.FromString(stored).features.feature
        values: dict[str, Any] = {
            name: features[name].bytes_list.value[0] for name in ("id", "bases", *METADATA)
        }
        values["bases"] = np.frombuffer(values["bases"], np.uint8)
        values["label"] = np.int32(features["label"].int64_list.value[0])
        return values


class Train(ContigSource):
    """What parameters are fitted on."""

    __slots__ = ()


class Validation(ContigSource):
    """What steps, weights, calibration and threshold are chosen by."""

    __slots__ = ()


class Test(ContigSource):
    """What nothing is chosen by."""

    __slots__ = ()
    __test__ = False  # for pytest


SPLITS: dict[str, type[Train | Validation | Test]] = {
    "train": Train,
    "validation": Validation,
    "test": Test,
}


@dataclass(frozen=True)
class Contigs:
    """A whole data set of labelled sequences on disk; `manifest` says everything about it."""

    data_dir: str
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def trained_on(self) -> str:
        """What the content of the training files is known by, whatever lies in the other splits."""
        return datasets.fingerprint({"train": datasets.contents(self.manifest["inputs"]["train"])})

    @property
    def folder(self) -> str:
        """The folder that TFDS wrote; `tfds.builder_from_directory` reads it."""
        return os.path.join(self.data_dir, self.manifest["folder"])

    @property
    def splits(self) -> dict[str, SplitInfo]:
        return {
            name: SplitInfo(counts["records"], counts["bases"], counts["viral"])
            for name, counts in self.manifest["splits"].items()
        }

    @overload
    def source(self, split: Literal["train"]) -> Train: ...
    @overload
    def source(self, split: Literal["validation"]) -> Validation: ...
    @overload
    def source(self, split: Literal["test"]) -> Test: ...
    @overload
    def source(self, split: str) -> Train | Validation | Test: ...

    def source(self, split: str) -> Train | Validation | Test:
        """Random access to the records of a split; UserError if there is no such split."""
        if split not in self.splits:
            raise UserError(
                f"{self.data_dir}: the contigs have no split {split!r}, only "
                f"{', '.join(self.splits)}"
            )
        raw = tfds.builder_from_directory(self.folder).as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        return SPLITS[split](raw)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What the second pass writes into one split."""

    files: tuple[str, ...]
    records: Mapping[str, Measured]  # by id; the other records of those files are left out
    shards: int


@dataclass(eq=False, kw_only=True)
class ContigsConfig(tfds.core.BuilderConfig):
    """A TFDS config: its name stands for everything the records depend on."""

    plan: Mapping[str, SplitPlan]
    labels: Labels


class LabelledContigs(tfds.core.ShardBasedBuilder):
    """The TFDS builder of labelled sequences; shard by shard, as in `corpus.PackedCorpus`."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **kwargs: Any) -> None:
        self.written: dict[str, Counter[str]] = {}  # split -> records, bases, viral handed to TFDS
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="DNA sequences, labelled 1 (virus) or 0 (not).",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "bases": tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),
                    "label": np.int32,
                    **{name: tfds.features.Text() for name in METADATA},
                }
            ),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[ShardFunction]]:
        del dl_manager
        config = self.builder_config
        self.written = {split: Counter() for split in config.plan}
        return {
            split: [
                functools.partial(self._counted, split, examples)
                for examples in datasets.by_shard(_examples(config, split), plan.shards)
            ]
            for split, plan in config.plan.items()
        }

    def _counted(
        self, split: str, examples: Iterator[dict[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, example in enumerate(examples):
            self.written[split].update(
                records=1, bases=len(example["bases"]), viral=example["label"]
            )
            yield key, example


def build_contigs(options: ContigsOptions, data_dir: str) -> Contigs:
    """The data set of these options, built into `data_dir` unless it is there already.

    Raises UserError for wrong options, malformed sequences or tables, records without a label,
    labels without a record, ids that occur twice, sequences that occur in two splits, splits of
    near-copies of train (`overlap`), and when another process is building in `data_dir`. Killed at
    any time, it leaves nothing that `open_contigs` opens, or the data set that was there before.
    """
    options.check()
    patterns = {"train": options.train, "validation": options.validation, "test": options.test}
    files = {split: expand(given) for split, given in patterns.items() if given}
    inputs = {split: datasets.describe_sources(own) for split, own in files.items()}
    labels = read_labels(itertools.chain.from_iterable(files.values()))
    tables = datasets.describe_sources(list(labels.tables.values()))
    identity = {
        "code_version": CODE_VERSION,
        "options": {name: value for name, value in asdict(options).items() if name not in patterns},
        # Not the folders: the same files elsewhere are the same data.
        "inputs": {split: datasets.contents(described) for split, described in inputs.items()},
        "tables": datasets.contents(tables),
    }
    fingerprint = datasets.fingerprint(identity)
    if datasets.is_whole(data_dir, POINTER, fingerprint):
        return open_contigs(data_dir)
    with datasets.sole_writer(data_dir):
        if datasets.is_whole(data_dir, POINTER, fingerprint):  # built while we looked
            return open_contigs(data_dir)
        manifest = {
            "kind": "contigs",
            "fingerprint": fingerprint,
            "code_version": CODE_VERSION,
            "options": asdict(options),
            "inputs": inputs,
            "tables": tables,
            **_build(options, files, labels, fingerprint, data_dir),
            "libraries": datasets.library_versions(),
        }
        datasets.write_pointer(os.path.join(data_dir, POINTER), manifest)
    return open_contigs(data_dir)


def open_contigs(data_dir: str) -> Contigs:
    """The data set in `data_dir`; UserError when there is none, or when files of it are missing."""
    data_dir = buckets.fetched(data_dir, POINTER)
    return Contigs(data_dir, datasets.open_pointer(data_dir, POINTER))


def _build(
    options: ContigsOptions,
    files: Mapping[str, list[str]],
    labels: Labels,
    fingerprint: str,
    data_dir: str,
) -> dict[str, Any]:
    """Writes the data set; returns its part of the manifest."""
    found = survey(
        files,
        metadata=labels.metadata,
        leave_out=lambda record: _too_ambiguous(record, options.max_ambiguous),
        cluster_key=options.cluster_key,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
    )
    labels.refuse_unused()
    leakage = overlap(
        found, files, lambda r: f"{'virus' if labels.label(r) else 'not'} {r.group}".strip(" -")
    )
    own = {split: found.of(split) for split in ("train", "validation", "test")}
    plan = {
        split: SplitPlan(
            files=tuple(files.get(split, files["train"])),
            records={record.id: record for record in records},
            shards=max(_shard_numbers(record.length for record in records)) + 1,
        )
        for split, records in own.items()
        if len(records)
    }
    config = ContigsConfig(name=f"contigs-{fingerprint[:16]}", plan=plan, labels=labels)
    folder = os.path.join(data_dir, LabelledContigs.name, config.name, str(LabelledContigs.VERSION))
    datasets.remove_leftovers(data_dir, folder)
    with datasets.quiet_tfds() as downloads:
        builder = LabelledContigs(config=config, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_dir=downloads)
    for split in plan:
        wanted = Counter(records=len(own[split]), bases=own[split].bases)
        written, stored = builder.written[split], builder.info.splits[split].num_examples
        if any(written[key] != wanted[key] for key in wanted) or stored != wanted["records"]:
            raise RuntimeError(
                f"{split}: {dict(wanted)} went in, {dict(written)} came out, of which {stored} "
                "records were stored; did a source change?"
            )
    return {
        "folder": os.path.relpath(folder, data_dir),
        "files": datasets.sizes_of_files(folder),
        "splits": {split: {**summary(own[split]), **builder.written[split]} for split in plan},
        "left_out": found.left_out,
        "leakage": leakage,
    }


def _too_ambiguous(record: Measured, most: float) -> str:
    ambiguous = record.ambiguous > most * record.length
    return f"more than {most:g} ambiguous letters" if ambiguous else ""


def _shard_numbers(lengths: Iterable[int]) -> Iterator[int]:
    """The shard of each record: the next one when a shard has its fill of records or bases."""
    shard = records = bases = 0
    for length in lengths:
        if records and (records == SHARD_RECORDS or bases + length > SHARD_BASES):
            shard, records, bases = shard + 1, 0, 0
        records += 1
        bases += length
        yield shard


def _examples(config: ContigsConfig, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The examples of a split in the order of the sources, each with its shard."""
    plan = config.plan[split]
    shards = _shard_numbers(record.length for record in plan.records.values())
    for record in read_records(plan.files):
        measured = plan.records.get(record.id)
        if measured is None:
            continue
        known = {**config.labels.metadata(measured), "group": measured.group}
        if measured.cluster != "-":
            known["cluster"] = measured.cluster
        yield (
            next(shards),
            {
                "id": record.id,
                "bases": np.frombuffer(record.bases.upper(), np.uint8),
                "label": config.labels.label(measured),
                **{name: known.get(name) or "-" for name in METADATA},
            },
        )
