"""Simulated genomes whose best possible figures are known; `python main.py demo` runs it all.

Expected: validation bits per base within 0.03 of the source's entropy rate, and never below it.
"""

from ml_collections import ConfigDict

from dnallm_jax.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.name = "demo"
    c.tokenizer.name = "kmer"
    c.tokenizer.k = 3
    c.corpus.sources = ("pretrain/train.fa.gz",)
    c.corpus.validation_sources = ("pretrain/validation.fa.gz",)
    c.corpus.row_length = 256
    c.contigs.train = ("virus/genomes_train.fa.gz",)
    c.contigs.validation = ("virus/validation.fa.gz",)
    c.contigs.test = ("virus/test.fa.gz",)
    c.model.width = 64
    c.model.layers = 2
    c.model.heads = 2
    c.model.kv_heads = 2
    c.model.head_width = 32
    c.model.feed_forward = 128
    c.pretrain.steps = 60
    c.pretrain.batch_rows = 32
    c.pretrain.optimizer.learning_rate = 1e-2
    c.pretrain.optimizer.warmup_steps = 20
    c.pretrain.eval_every = 30
    c.pretrain.save_every = 30
    c.pretrain.eval_rows = 10_000  # all of them
    c.finetune.steps = 80
    c.finetune.batch_tokens = 6_144
    c.finetune.lengths = (300, 500)
    c.finetune.negative_balance_key = "cluster"
    c.finetune.optimizer.learning_rate = 3e-3
    c.finetune.optimizer.warmup_steps = 20
    c.finetune.eval_every = 80
    c.finetune.save_every = 40
    c.score.window = 1000
    return c
