"""python main.py prepare --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE ...]

Reads the genomes named by config.corpus into a TFDS data set of packed rows (DIR/data/corpus) and
the labelled records named by config.contigs into a second one (DIR/data/contigs). Paths are
relative to config.root. What is there already and of the same identity is kept.
"""

import os

from dnallm_jax.commands import common

define_flags = common.define_config_flags


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    config, workdir = common.config(), common.workdir()

    from data_pipeline import describing
    from data_pipeline.contigs import ContigsOptions, build_contigs
    from data_pipeline.corpus import CorpusOptions, build_corpus
    from dnallm_jax.config import tokenizer_spec

    def rooted(patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(os.path.join(config.root, p) if "://" not in p else p for p in patterns)

    if config.corpus.sources:
        corpus = build_corpus(
            CorpusOptions(
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
            ),
            str(workdir / common.CORPUS),
        )
        for line in describing.lines(corpus.manifest):
            print(line)
    if config.contigs.train:
        contigs = build_contigs(
            ContigsOptions(
                train=rooted(config.contigs.train),
                validation=rooted(config.contigs.validation),
                test=rooted(config.contigs.test),
                validation_fraction=config.contigs.validation_fraction,
                cluster_key=config.contigs.cluster_key,
                seed=config.contigs.seed,
            ),
            str(workdir / common.CONTIGS),
        )
        for line in describing.lines(contigs.manifest):
            print(line)
