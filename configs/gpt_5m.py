"""A GPT of 5 million parameters over single bases, and what its larger siblings have in common.

python main.py prepare  --config=configs/gpt_5m.py --workdir=runs/gpt_5m --config.root=GENOMES
python main.py pretrain --config=configs/gpt_5m.py --workdir=runs/gpt_5m

Measured steps: on 256 rows of 512, 6.27 million tokens a second on an H200 (21 % MFU); on 4 rows,
4,400 tokens a second on two CPU cores. At that pace its 98 million tokens are 6 hours.
"""

from ml_collections import ConfigDict

from dnallm_jax.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.name = "gpt_5m"
    c.tokenizer.name = "nucleotide"
    c.corpus.sources = ("pretrain/train.fa.gz",)
    c.corpus.validation_sources = ("pretrain/validation.fa.gz",)
    c.corpus.exclude = ("group=euk-virus",)
    c.corpus.row_length = 512
    c.contigs.train = ("virus/genomes_train.fa.gz",)
    c.contigs.validation = ("virus/validation.fa.gz",)
    c.model.width = 256
    c.model.layers = 6
    c.model.heads = 4
    c.model.kv_heads = 2
    c.model.head_width = 64
    c.model.feed_forward = 768
    # About 20 tokens for each parameter, as in all of this family (Hoffmann et al. 2022).
    c.pretrain.steps = 6_000
    c.pretrain.batch_rows = 32
    c.pretrain.optimizer.learning_rate = 3e-3
    c.pretrain.optimizer.base_width = 256  # wider siblings take it from here
    c.pretrain.optimizer.warmup_steps = 200
    c.pretrain.eval_every = 500
    c.pretrain.eval_rows = 1_024
    c.pretrain.save_every = 500
    c.finetune.lengths = (300, 500, 1000)
    c.score.window = 1000
    return c
