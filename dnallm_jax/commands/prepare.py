"""python main.py prepare --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE ...]
python main.py prepare --inspect --workdir=DIR

Reads the genomes named by config.corpus into a TFDS data set of packed rows (DIR/data/corpus) and
the labelled records named by config.contigs into a second one (DIR/data/contigs). A source is a
file, a folder, a glob, @list.txt (one a line), an address (http, gs://, s3://) or - (standard
input); the last two are saved in DIR/data/downloads first. Several are written
--config.corpus.sources="('genomes/','more/*.fa.gz')". Paths, those in lists too, are relative to
config.root; --config.contigs.train=() prepares the corpus alone, --config.corpus.sources=() the
records. What is there already and of the same identity is kept.

--workers=N writes the corpus in N processes, --beam_pipeline_options=runner=NAME,... through Apache
Beam (an environment of its own: requirements-beam.txt; runner=FnApiRunner is a local one). The rows
are the same.

--inspect builds nothing: it shows what has been prepared in DIR, and draws it beside the manifests
(DIR/data/corpus/corpus.svg, DIR/data/contigs/contigs.svg).
"""

import os
import pathlib
from typing import Any

from absl import flags

from data_pipeline.errors import UserError
from dnallm_jax.commands import common


def define_flags() -> None:
    common.define_config_flags()
    flags.DEFINE_integer("workers", 1, "processes that write the corpus", lower_bound=1)
    flags.DEFINE_list(
        "beam_pipeline_options", [], "name=value,...: write the corpus through Apache Beam"
    )
    flags.DEFINE_boolean("inspect", False, "show what has been prepared; build nothing")


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    if flags.FLAGS.inspect:
        _inspect(common.workdir())
        return
    config, workdir = common.config(), common.workdir(bucket=True)
    if flags.FLAGS.beam_pipeline_options and flags.FLAGS.workers > 1:
        raise UserError("--workers and --beam_pipeline_options are both given; choose one of them")
    if not (config.corpus.sources or config.contigs.train):
        raise UserError(
            "neither config.corpus.sources nor config.contigs.train names a file, so there is "
            "nothing to prepare; for example --config.corpus.sources=genomes/*.fa.gz"
        )

    from data_pipeline import buckets, describing
    from data_pipeline.contigs import ContigsOptions, build_contigs
    from data_pipeline.corpus import CorpusOptions, build_corpus
    from data_pipeline.saving import saved
    from dnallm_jax.config import tokenizer_spec

    def rooted(patterns: tuple[str, ...]) -> tuple[str, ...]:
        return saved(patterns, buckets.local(str(workdir / "data" / "downloads")), config.root)

    # Both are looked for and checked before hours are spent on one of them.
    corpus_asked = contigs_asked = None
    if config.corpus.sources:
        corpus_asked = CorpusOptions(
            sources=rooted(config.corpus.sources),
            validation_sources=rooted(config.corpus.validation_sources),
            tokenizer=tokenizer_spec(config.tokenizer),
            row_length=config.corpus.row_length,
            validation_fraction=config.corpus.validation_fraction,
            cluster_key=config.corpus.cluster_key,
            exclude=config.corpus.exclude,
            max_bases=config.corpus.max_bases,
            soft_mask_weight=config.corpus.soft_mask_weight,
            wrap_circular=config.corpus.wrap_circular,
            phases=config.corpus.phases,
            seed=config.corpus.seed,
            metadata=config.corpus.metadata and os.path.join(config.root, config.corpus.metadata),
        )
        corpus_asked.check()
    if config.contigs.train:
        contigs_asked = ContigsOptions(
            train=rooted(config.contigs.train),
            validation=rooted(config.contigs.validation),
            test=rooted(config.contigs.test),
            validation_fraction=config.contigs.validation_fraction,
            cluster_key=config.contigs.cluster_key,
            seed=config.contigs.seed,
        )
        contigs_asked.check()

    # In a bucket, they are made on this machine's disk and then copied.
    if corpus_asked:
        corpus_dir = str(workdir / common.CORPUS)
        corpus = build_corpus(corpus_asked, buckets.local(corpus_dir), _runner())
        buckets.send(corpus_dir, "corpus.json")
        for line in describing.lines(corpus.manifest):
            print(line)
    if contigs_asked:
        contigs_dir = str(workdir / common.CONTIGS)
        contigs = build_contigs(contigs_asked, buckets.local(contigs_dir))
        buckets.send(contigs_dir, "contigs.json")
        for line in describing.lines(contigs.manifest):
            print(line)


def _runner() -> Any:
    """The data_pipeline.writing.Runner that the flags ask for."""
    from data_pipeline import runners
    from data_pipeline.writing import IN_PROCESS

    if options := flags.FLAGS.beam_pipeline_options:
        return runners.Beam(tuple(f"--{option.removeprefix('--')}" for option in options))
    return runners.Processes(flags.FLAGS.workers) if flags.FLAGS.workers > 1 else IN_PROCESS


def _inspect(workdir: pathlib.Path) -> None:
    from data_pipeline.contigs import open_contigs
    from data_pipeline.corpus import open_corpus
    from data_pipeline.inspecting import inspection

    opened: list[Any] = []
    if (workdir / common.CORPUS / "corpus.json").exists():
        opened.append(open_corpus(str(workdir / common.CORPUS)))
    if (workdir / common.CONTIGS / "contigs.json").exists():
        opened.append(open_contigs(str(workdir / common.CONTIGS)))
    if not opened:
        raise UserError(f"{workdir}: nothing has been prepared here; run prepare with a config")
    for data in opened:
        for line in inspection(data):
            print(line)
        print(f"  picture     {_draw(data)}")


def _draw(data: Any) -> str:
    """Lengths, groups and Markov floor of a Corpus or Contigs as an SVG; the path of the file."""
    import matplotlib.figure

    from data_pipeline.inspecting import histogram, record_lengths

    manifest = data.manifest
    floor = (manifest.get("markov") or {}).get("bits_per_base", {})
    figure = matplotlib.figure.Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3 if floor else 2)
    for split, lengths in record_lengths(data).items():
        edges, counts = histogram(lengths)
        axes[0].stairs(counts, edges, label=split)
    axes[0].set(xscale="log", xlabel="length of a record, bases", ylabel="records")
    axes[0].legend(frameon=False)
    names = sorted({name for found in manifest["splits"].values() for name in found["groups"]})
    height = 0.8 / len(manifest["splits"])
    for number, (split, found) in enumerate(manifest["splits"].items()):
        bases = [found["groups"].get(name, {"bases": 0})["bases"] for name in names]
        places = [place + number * height for place in range(len(names))]
        axes[1].barh(places, bases, height, label=split)
    axes[1].set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    axes[1].set(xscale="log", xlabel="bases by group")
    if floor:
        axes[2].plot([int(order) for order in floor], list(floor.values()), marker="o")
        axes[2].set(xlabel="order of the Markov model", ylabel="bits per base on validation")
    figure.suptitle(f"{manifest['kind']} {data.fingerprint[:16]}")
    path = os.path.join(data.data_dir, f"{manifest['kind']}.svg")
    figure.savefig(path)
    return path
