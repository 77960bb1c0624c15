"""The smallest of the family: every part of a run in seconds, to see that it works where it is.

python main.py prepare  --config=configs/smoke.py --workdir=runs/smoke --config.root=GENOMES
python main.py pretrain --config=configs/smoke.py --workdir=runs/smoke

On two CPU cores: 1.93 bits per base on validation rows after its 100 steps, in 20 s of processor
time (Markov models of order 0 and 9 fitted on the same rows: 1.965 and 1.942).
"""

from ml_collections import ConfigDict

from configs import gpt_5m


def get_config() -> ConfigDict:
    c = gpt_5m.get_config()
    c.name = "smoke"
    c.corpus.sources = ("small/pretrain_small.fa.gz",)
    c.corpus.validation_sources = ()
    c.corpus.validation_fraction = 0.1
    c.corpus.cluster_key = "cluster"
    c.corpus.row_length = 256
    c.contigs.train = ("small/virus_small.fa.gz",)
    c.contigs.validation = ()
    c.contigs.validation_fraction = 0.2
    c.model.width = 64
    c.model.layers = 2
    c.model.heads = 2
    c.model.kv_heads = 1
    c.model.head_width = 32
    c.model.feed_forward = 192
    c.pretrain.steps = 100
    c.pretrain.batch_rows = 16
    c.pretrain.optimizer.learning_rate = 1e-2
    c.pretrain.optimizer.warmup_steps = 20
    c.pretrain.eval_every = 50
    c.pretrain.eval_rows = 256
    c.pretrain.save_every = 50
    c.finetune.steps = 50
    c.finetune.batch_tokens = 8_192
    c.finetune.lengths = (300, 500)
    c.finetune.eval_every = 50
    c.finetune.save_every = 50
    c.finetune.eval_contigs = 200
    return c
