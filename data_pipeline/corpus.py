"""How do genomes become a TFDS data set of packed, tokenised rows, and how are the rows read back?

Two passes over the sources: the first checks and measures every record and settles its split, the
second tokenises, packs and writes. A split is written in shards, each of which packs its own
consecutive part of the input, so that memory is bounded by a shard and the rows do not depend on
who builds which shard.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline import bpe, buckets, datasets, floors, markov
from data_pipeline.corpus_options import CorpusOptions
from data_pipeline.errors import UserError
from data_pipeline.labels import read_metadata
from data_pipeline.overlap import overlap
from data_pipeline.pieces import BLOCK_BASES, SplitPlan
from data_pipeline.reading import expand
from data_pipeline.records import Measured, Records
from data_pipeline.rows import RowFormat, RowSource, Segments, StoredRows
from data_pipeline.survey import chosen, header, read_table, summary, survey, write_table
from data_pipeline.tokenizers import Tokenizer, from_spec
from data_pipeline.writing import IN_PROCESS, CorpusConfig, PackedCorpus, Runner

CODE_VERSION = 4  # raise it when the same sources and options give other rows
MASK_VERSION = 2  # when they give other rows only where a soft mask is kept; 2: GenBank has none
POINTER = "corpus.json"
RECORDS = "records.tsv.gz"
# Reading one record of an ArrayRecord file takes time in proportion to the records in it, and every
# file read from stays open: so some thousand rows a shard, more only when there are very many rows.
LEAST_SHARD_ROWS, MOST_SHARD_ROWS, USUAL_SHARDS = 4_096, 9_000, 256
SHARD_TOKENS = 1 << 26  # what is short waits in memory until its shard is full
MARKOV_ORDERS = range(markov.MAX_ORDER + 1)
MARKOV_BASES = 50_000_000


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
        stored = tfds.builder_from_directory(self.folder).info.splits[split]
        raw = StoredRows([str(path) for path in stored.filepaths], stored.shard_lengths)
        weight = self.manifest["options"].get("soft_mask_weight", 1.0) if split == "train" else 1.0
        return RowSource(raw, self.tokenizer, weight)

    def records(self) -> Iterator[dict[str, str]]:
        """The record table, one record after the other, by column."""
        return read_table(os.path.join(self.folder, RECORDS))


def build_corpus(options: CorpusOptions, data_dir: str, runner: Runner = IN_PROCESS) -> Corpus:
    """The corpus of these options, built into `data_dir` unless it is there already.

    The rows are the same whatever `runner` writes them.

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
    tables = datasets.describe_sources([options.metadata] if options.metadata else [])
    plain = asdict(replace(options, tokenizer=request))
    paths = ("sources", "validation_sources", "metadata")
    identity = {
        "code_version": CODE_VERSION,
        "options": {name: value for name, value in plain.items() if name not in paths},
        # Not the folders: the same files elsewhere are the same data.
        "inputs": {split: datasets.contents(described) for split, described in inputs.items()},
        "learned_by": version("tokenizers") if learned else None,
        **({"mask_version": MASK_VERSION} if options.soft_mask_weight != 1 else {}),
        **({"tables": datasets.contents(tables)} if tables else {}),
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
            "tables": tables,
            **_build(options, learned, inputs, fingerprint, data_dir, runner),
            "libraries": datasets.library_versions(),
        }
        manifest["markov"] = markov_floor(Corpus(data_dir, manifest))
        datasets.write_pointer(os.path.join(data_dir, POINTER), manifest)
    return open_corpus(data_dir)


def open_corpus(data_dir: str) -> Corpus:
    """The corpus in `data_dir`; UserError for none, missing files, and rows of another version."""
    data_dir = buckets.fetched(data_dir, POINTER)
    manifest = datasets.open_pointer(data_dir, POINTER)
    if manifest["code_version"] != CODE_VERSION:
        raise UserError(
            f"{data_dir}: prepared by another version of this program, which stores rows in "
            "another way; run prepare again"
        )
    return Corpus(data_dir, manifest)


def markov_floor(corpus: Corpus) -> dict[str, Any] | None:
    """What Markov models of order 0 to 12 reach on the validation rows; None without such rows.

    Up to 50 Mbp of either, in rows at even distances; see `floors.markov_floor`.
    """
    if "validation" not in corpus.splits:
        return None

    def rows(split: str) -> Iterator[Segments]:
        source = corpus.source(split)
        step = -(-corpus.splits[split].bases // MARKOV_BASES)
        return source.segments(range(0, len(source), step))

    counted, scored = rows("train"), rows("validation")
    return floors.markov_floor(corpus.tokenizer, counted, scored, MARKOV_ORDERS)


def _build(
    options: CorpusOptions,
    learned: bool,
    inputs: Mapping[str, list[dict[str, Any]]],
    fingerprint: str,
    data_dir: str,
    runner: Runner,
) -> dict[str, Any]:
    """Writes the data set; returns its part of the manifest."""
    paths = {split: [file["path"] for file in files] for split, files in inputs.items()}
    table = read_metadata(options.metadata) if options.metadata else None

    def metadata(record: Measured) -> Mapping[str, str]:
        """What its header says, and the table, which knows better."""
        if table is None:
            return header(record)
        if record.id not in table:
            raise UserError(
                f"{record.source}: record {record.id} has no row in {options.metadata}; add one, "
                "or take the record out"
            )
        return {**header(record), **table[record.id]}

    found = survey(
        paths,
        metadata=metadata,
        leave_out=lambda record: (
            _excluded(record, metadata(record), options.exclude) if options.exclude else ""
        ),
        max_bases=options.max_bases,
        cluster_key=options.cluster_key,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
    )
    leakage = overlap(found, paths, lambda record: record.group)
    records = {"train": found.of("train")}
    if len(validation := found.of("validation")):
        records["validation"] = validation
    tokenizer = (
        _learned(paths["train"], records["train"], options.tokenizer["vocab_size"])
        if learned
        else from_spec(options.tokenizer)
    )
    plan = {
        split: _plan(
            own,
            paths.get(split, paths["train"]),
            tokenizer,
            options.row_length,
            phases=options.phases if split == "train" else 1,
            wrap_circular=options.wrap_circular and split == "train",
        )
        for split, own in records.items()
    }
    config = CorpusConfig(
        name=f"rows-{fingerprint[:16]}",
        plan=plan,
        format=RowFormat(tokenizer, options.row_length, options.soft_mask_weight != 1),
        runner=runner,
    )
    folder = os.path.join(data_dir, PackedCorpus.name, config.name, str(PackedCorpus.VERSION))
    datasets.remove_leftovers(data_dir, folder)
    with datasets.quiet_tfds() as downloads:
        builder = PackedCorpus(config=config, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_dir=downloads)
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


def _excluded(record: Measured, known: Mapping[str, str], words: Sequence[str]) -> str:
    """The first of the words that the record's header, or what is known of it, says, or ""."""
    own = {*record.description.split(), *(f"{k}={'_'.join(v.split())}" for k, v in known.items())}
    return next((word for word in words if word in own), "")


def _learned(files: Sequence[str], records: Records, vocab_size: int) -> Tokenizer:
    """Byte-pair encoding learned from these records."""
    stretches = chosen(files, records.ids, BLOCK_BASES)
    return bpe.train((stretch.bases for stretch in stretches), records.bases, vocab_size)


def _plan(
    records: Records,
    files: Sequence[str],
    tokenizer: Tokenizer,
    row_length: int,
    phases: int,
    wrap_circular: bool,
) -> SplitPlan:
    numbers = {file: number for number, file in enumerate(files)}
    place = np.array([numbers.get(name, -1) for name in records.names["source"]])
    letters = np.zeros((phases, len(files)), np.int64)
    count = np.zeros(len(files), np.int64)
    for part in records.parts():
        of_file, lengths = place[part.column("source")], part.column("length").astype(np.int64)
        count += np.bincount(of_file, minlength=len(files))
        for phase, own in enumerate(letters):
            own += np.bincount(of_file, np.maximum(lengths - phase, 0), len(files)).astype(np.int64)
    # An ambiguous letter costs about a token of its own, whatever the tokenizer.
    tokens = letters.sum() / int(tokenizer.token_lengths.max())
    tokens += int(records.column("ambiguous").sum())
    rows = tokens / row_length
    shard_rows = min(max(LEAST_SHARD_ROWS, rows / USUAL_SHARDS), MOST_SHARD_ROWS)
    shards = max(rows / shard_rows, tokens / SHARD_TOKENS)
    return SplitPlan(
        files=tuple(files),
        records=tuple(count.tolist()),
        letters=tuple(tuple(own) for own in letters.tolist()),
        ids=records.ids,
        # No shard may come out empty, so none is narrower than a block.
        shards=max(min(int(np.ceil(shards)), int(letters.sum()) // BLOCK_BASES), 1),
        wrap_circular=wrap_circular,
    )
