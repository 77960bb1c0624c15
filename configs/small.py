"""A few real megabases, minutes on a laptop: see that everything runs on real genomes.

python main.py prepare  --config=configs/small.py --workdir=runs/small --config.root=GENOMES
"""

from ml_collections import ConfigDict

from dnallm_jax.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.name = "small"
    c.corpus.sources = ("small/pretrain_small.fa.gz",)
    c.corpus.validation_fraction = 0.1
    c.corpus.cluster_key = "cluster"
    c.corpus.exclude = ("group=euk-virus",)
    c.corpus.row_length = 512
    c.contigs.train = ("small/virus_small.fa.gz",)
    c.contigs.validation_fraction = 0.2
    c.finetune.steps = 40
    c.finetune.eval_every = 20
    c.finetune.save_every = 20
    c.finetune.lengths = (300, 1000)
    c.finetune.view = "frames"
    c.tokenizer.name = "kmer"
    c.tokenizer.k = 3
    c.model.width = 128
    c.model.layers = 3
    c.model.heads = 2
    c.model.kv_heads = 1
    c.model.head_width = 64
    c.model.feed_forward = 384
    c.pretrain.steps = 60
    c.pretrain.batch_rows = 16
    c.pretrain.eval_every = 30
    c.pretrain.save_every = 30
    return c
