"""How do genomes become a TFDS data set of packed, tokenised rows, and how are the rows read back?

Two passes over the sources: the first checks and measures every record and settles its split, the
second tokenises, packs and writes. A split is written in shards, each of which packs its own
consecutive part of the input, so that memory is bounded by a shard and the rows do not depend on
who builds which shard.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline import bpe, datasets, floors, markov
from data_pipeline.corpus_options import CorpusOptions
from data_pipeline.errors import UserError
from data_pipeline.overlap import overlap
from data_pipeline.packing import Piece, pack
from data_pipeline.pieces import (
    BLOCK_BASES,
    SplitPlan,
    check_counts,
    marked_lengths,
    pieces,
    unmarked,
)
from data_pipeline.reading import expand
from data_pipeline.survey import Measured, chosen, read_table, summary, survey, write_table
from data_pipeline.tokenizers import Tokenizer, from_spec

CODE_VERSION = 2  # raise it when the same sources and options give other rows
POINTER = "corpus.json"
RECORDS = "records.tsv.gz"
# Reading one record of an ArrayRecord file takes time in proportion to the records in it, and every
# file read from stays open: so some thousand rows a shard, more only when there are very many rows.
LEAST_SHARD_ROWS, MOST_SHARD_ROWS, USUAL_SHARDS = 4_096, 9_000, 256
SHARD_TOKENS = 1 << 26  # a shard waits in memory to be counted
MARKOV_ORDERS = range(markov.MAX_ORDER + 1)
MARKOV_BASES = 50_000_000

ShardFunction = Callable[[], Iterator[tuple[int, dict[str, Any]]]]


@dataclass(frozen=True)
class SplitInfo:
    """The size of one split."""

    rows: int
    tokens: int
    bases: int  # of its records, each once
    repeated: int  # beyond those, by `phases` and `wrap_circular`
    covered: int  # by the tokens; a codon stream leaves some out and reads some twice

    @property
    def bases_per_token(self) -> float:
        return self.covered / self.tokens


@dataclass(frozen=True, slots=True)
class RowSource:
    """The rows of one split by number; may be pickled and read from several threads."""

    raw: Any  # TFDS data source of serialised examples
    tokenizer: Tokenizer
    soft_mask_weight: float = 1.0

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """tokens dtype[<= L], segment_lengths int32[S], starts int64[S], record_ids bytes.

        `starts` are offsets in the records: in bases, or of a codon stream in tokens. `record_ids`
        joins S ids by newlines. The arrays are read-only views. What TFDS itself decodes to, in a
        fraction of the time: our features are all bytes. Where the soft mask is stored, `weights`
        as well, float32[<= L]: 1, less for tokens with lower-case letters.
        """
        example = tf_example_pb2.Example.FromString(self.raw[index])
        values = {
            name: feature.bytes_list.value[0] for name, feature in example.features.feature.items()
        }
        tokens = np.frombuffer(values["tokens"], self.tokenizer.dtype)
        row = {
            "tokens": tokens,
            "segment_lengths": np.frombuffer(values["segment_lengths"], np.int32),
            "starts": np.frombuffer(values["starts"], np.int64),
            "record_ids": values["record_ids"],
        }
        if "masked" in values:
            share = np.frombuffer(values["masked"], np.uint8) / self.tokenizer.token_lengths[tokens]
            row["weights"] = (1 - (1 - self.soft_mask_weight) * share).astype(np.float32)
        return row


@dataclass(frozen=True)
class Corpus:
    """A whole data set of packed rows on disk; `manifest` says everything about it."""

    data_dir: str
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def tokenizer(self) -> Tokenizer:
        return from_spec(self.manifest["tokenizer"])

    @property
    def row_length(self) -> int:
        return self.manifest["options"]["row_length"]

    @property
    def folder(self) -> str:
        """The folder that TFDS wrote; `tfds.builder_from_directory` reads it."""
        return os.path.join(self.data_dir, self.manifest["folder"])

    @property
    def splits(self) -> dict[str, SplitInfo]:
        return {
            name: SplitInfo(
                counts["rows"],
                counts["tokens"],
                counts["bases"],
                repeated=(repeated := counts.get("repeated", 0)),
                covered=counts.get("covered", counts["bases"] + repeated),
            )
            for name, counts in self.manifest["splits"].items()
        }

    def source(self, split: str) -> RowSource:
        """Random access to the rows of a split; UserError if the corpus has no such split."""
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise UserError(f"{self.data_dir}: the corpus has no split {split!r}, only {known}")
        raw = tfds.builder_from_directory(self.folder).as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        weight = self.manifest["options"].get("soft_mask_weight", 1.0) if split == "train" else 1.0
        return RowSource(raw, self.tokenizer, weight)

    def records(self) -> Iterator[dict[str, str]]:
        """The record table, one record after the other, by column."""
        return read_table(os.path.join(self.folder, RECORDS))


@dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
    """A TFDS config: its name stands for everything the rows depend on."""

    plan: Mapping[str, SplitPlan]
    tokenizer: Tokenizer
    row_length: int
    masks: bool  # store the soft mask


class PackedCorpus(tfds.core.ShardBasedBuilder):
    """The TFDS builder of packed rows.

    It builds shard by shard: TFDS's other builders hold a whole split in memory, and need
    TensorFlow for one of more than 1 GB.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **kwargs: Any) -> None:
        self.written: dict[
            str, Counter[str]
        ] = {}  # split -> rows, tokens, bases ... handed to TFDS
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def array(dtype: np.dtype | type) -> tfds.features.Tensor:
            # The default encoding, a list of variable-length integers, is five times slower.
            return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")

        return tfds.core.DatasetInfo(
            builder=self,
            description="Tokenised DNA, packed into rows; segments of a row are unrelated.",
            features=tfds.features.FeaturesDict(
                {
                    "tokens": array(self.builder_config.tokenizer.dtype),
                    "segment_lengths": array(np.int32),
                    "starts": array(np.int64),
                    "record_ids": tfds.features.Text(),
                    **({"masked": array(np.uint8)} if self.builder_config.masks else {}),
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
                functools.partial(self._examples, split, own)
                for own in datasets.by_shard(
                    pieces(plan, config.tokenizer, config.row_length, self.written[split]),
                    plan.shards,
                )
            ]
            for split, plan in config.plan.items()
        }

    def _examples(self, split: str, own: Iterator[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        tokenizer = config.tokenizer
        for key, row in enumerate(pack(own, config.row_length, marked_lengths(tokenizer))):
            tokens, masked = unmarked(row.tokens, tokenizer)
            self.written[split].update(
                rows=1,
                tokens=len(tokens),
                covered=int(tokenizer.token_lengths[tokens].sum()),
                masked=int(masked.sum()),
            )
            yield (
                key,
                {
                    "tokens": tokens,
                    "segment_lengths": row.segment_lengths,
                    "starts": row.starts,
                    "record_ids": "\n".join(row.record_ids),
                    **({"masked": masked} if config.masks else {}),
                },
            )


def build_corpus(options: CorpusOptions, data_dir: str) -> Corpus:
    """The corpus of these options, built into `data_dir` unless it is there already.

    Raises UserError for wrong options, malformed sources, sequences that occur in both splits, a
    validation split of near-copies (`overlap`), and when another process is building in `data_dir`.
    Killed at any time, it leaves nothing that `open_corpus` opens, or the corpus that was there
    before.
    """
    options.check()
    learned = options.tokenizer.get("name") == bpe.Bpe.name and "merges" not in options.tokenizer
    request = (
        bpe.check_request(options.tokenizer) if learned else from_spec(options.tokenizer).spec()
    )
    inputs = {"train": datasets.describe_sources(expand(options.sources))}
    if options.validation_sources:
        inputs["validation"] = datasets.describe_sources(expand(options.validation_sources))
    plain = asdict(replace(options, tokenizer=request))
    identity = {
        "code_version": CODE_VERSION,
        "options": {name: value for name, value in plain.items() if not name.endswith("sources")},
        # Not the folders: the same files elsewhere are the same data.
        "inputs": {split: datasets.contents(described) for split, described in inputs.items()},
        "learned_by": version("tokenizers") if learned else None,
    }
    fingerprint = datasets.fingerprint(identity)
    if datasets.is_whole(data_dir, POINTER, fingerprint):
        return open_corpus(data_dir)
    with datasets.sole_writer(data_dir):
        if datasets.is_whole(data_dir, POINTER, fingerprint):  # built while we looked
            return open_corpus(data_dir)
        manifest = {
            "kind": "corpus",
            "fingerprint": fingerprint,
            "code_version": CODE_VERSION,
            "options": plain,
            "inputs": inputs,
            **_build(options, learned, inputs, fingerprint, data_dir),
            "libraries": datasets.library_versions(),
        }
        manifest["markov"] = markov_floor(Corpus(data_dir, manifest))
        datasets.write_pointer(os.path.join(data_dir, POINTER), manifest)
    return open_corpus(data_dir)


def open_corpus(data_dir: str) -> Corpus:
    """The corpus in `data_dir`; UserError when there is none, or when files of it are missing."""
    return Corpus(data_dir, datasets.open_pointer(data_dir, POINTER))


def markov_floor(corpus: Corpus) -> dict[str, Any] | None:
    """What Markov models of order 0 to 12 reach on the validation rows; None without such rows.

    Up to 50 Mbp of either, in rows at even distances; see `floors.markov_floor`.
    """
    if "validation" not in corpus.splits:
        return None

    def rows(split: str) -> Iterator[dict[str, Any]]:
        source = corpus.source(split)
        step = -(-corpus.splits[split].bases // MARKOV_BASES)
        return (source[index] for index in range(0, len(source), step))

    counted, scored = rows("train"), rows("validation")
    return floors.markov_floor(corpus.tokenizer, counted, scored, MARKOV_ORDERS)


def _build(
    options: CorpusOptions,
    learned: bool,
    inputs: Mapping[str, list[dict[str, Any]]],
    fingerprint: str,
    data_dir: str,
) -> dict[str, Any]:
    """Writes the data set; returns its part of the manifest."""
    paths = {split: [file["path"] for file in files] for split, files in inputs.items()}
    found = survey(
        paths,
        leave_out=lambda record: _excluded(record, options.exclude),
        max_bases=options.max_bases,
        cluster_key=options.cluster_key,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
    )
    leakage = overlap(found, paths, lambda record: record.group)
    records = {"train": found.of("train")}
    if validation := found.of("validation"):
        records["validation"] = validation
    tokenizer = (
        _learned(paths["train"], records["train"], options.tokenizer["vocab_size"])
        if learned
        else from_spec(options.tokenizer)
    )
    plan = {}
    for split, own in records.items():
        phases = options.phases if split == "train" else 1
        letters = sum(max(r.length - phase, 0) for r in own for phase in range(phases))
        plan[split] = SplitPlan(
            files=tuple(paths.get(split, paths["train"])),
            ids=frozenset(record.id for record in own),
            bases=sum(record.length for record in own),
            letters=letters,
            shards=_number_of_shards(own, letters, tokenizer, options.row_length),
            phases=phases,
            wrap_circular=options.wrap_circular and split == "train",
        )
    config = CorpusConfig(
        name=f"rows-{fingerprint[:16]}",
        plan=plan,
        tokenizer=tokenizer,
        row_length=options.row_length,
        masks=options.soft_mask_weight != 1,
    )
    folder = os.path.join(data_dir, PackedCorpus.name, config.name, str(PackedCorpus.VERSION))
    datasets.remove_leftovers(data_dir, folder)
    with datasets.quiet_tfds() as downloads:
        builder = PackedCorpus(config=config, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_dir=downloads)
    for split in plan:
        stored = builder.info.splits[split].num_examples
        check_counts(split, plan[split], builder.written[split], stored, tokenizer)
    write_table(os.path.join(folder, RECORDS), found.records)
    if isinstance(tokenizer, bpe.Bpe):
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
            file.write(tokenizer.json())
    counts = {split: {**builder.written[split], **summary(own)} for split, own in records.items()}
    for own_counts in counts.values():
        own_counts["fill"] = own_counts["tokens"] / (own_counts["rows"] * options.row_length)
    return {
        "tokenizer": tokenizer.spec(),
        "vocab_size": tokenizer.vocab_size,
        "folder": os.path.relpath(folder, data_dir),
        "files": datasets.sizes_of_files(folder),
        "splits": counts,
        "left_out": found.left_out,
        "leakage": leakage,
    }


def _excluded(record: Measured, words: Sequence[str]) -> str:
    """The first of the words that stands in the record's header, or ""."""
    if not words:
        return ""
    own = set(record.description.split())
    return next((word for word in words if word in own), "")


def _learned(files: Sequence[str], records: list[Measured], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding learned from these records."""
    stretches = chosen(files, {record.id for record in records}, BLOCK_BASES)
    letters = sum(record.length for record in records)
    return bpe.train((stretch.bases for stretch in stretches), letters, vocab_size)


def _number_of_shards(
    records: list[Measured], letters: int, tokenizer: Tokenizer, row_length: int
) -> int:
    # An ambiguous letter costs about a token of its own, whatever the tokenizer.
    tokens = letters / int(tokenizer.token_lengths.max()) + sum(r.ambiguous for r in records)
    rows = tokens / row_length
    shard_rows = min(max(LEAST_SHARD_ROWS, rows / USUAL_SHARDS), MOST_SHARD_ROWS)
    shards = max(rows / shard_rows, tokens / SHARD_TOKENS)
    # No shard may come out empty, so none is narrower than a block.
    return max(min(int(np.ceil(shards)), letters // BLOCK_BASES), 1)
