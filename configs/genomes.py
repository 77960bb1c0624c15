"""Real genomes on two CPU cores in about an hour: 3-mers, read in frame for detection.

python main.py prepare  --config=configs/genomes.py --workdir=runs/genomes --config.root=GENOMES
"""

from ml_collections import ConfigDict

from dnallm_jax.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.name = "genomes"
    c.tokenizer.name = "kmer"
    c.tokenizer.k = 3
    c.corpus.sources = ("pretrain/train.fa.gz",)
    c.corpus.validation_sources = ("pretrain/validation.fa.gz",)
    c.corpus.exclude = ("group=euk-virus",)
    c.corpus.row_length = 512
    c.contigs.train = ("virus/genomes_train.fa.gz",)
    c.contigs.validation = ("virus/validation.fa.gz",)
    c.model.width = 128
    c.model.layers = 3
    c.model.heads = 2
    c.model.kv_heads = 1
    c.model.head_width = 64
    c.model.feed_forward = 384
    c.pretrain.steps = 800
    c.pretrain.batch_rows = 16
    c.pretrain.optimizer.learning_rate = 3e-3
    c.pretrain.eval_rows = 512
    c.finetune.view = "frames"
    c.finetune.steps = 500
    c.finetune.batch_tokens = 12_288
    c.finetune.lengths = (300, 500, 1000)
    c.finetune.optimizer.learning_rate = 1e-3
    c.finetune.eval_every = 250
    c.finetune.eval_contigs = 1500
    c.finetune.save_every = 250
    c.score.window = 1000
    return c
