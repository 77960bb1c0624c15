"""The recipe of `genomes` on a few real megabases: everything runs, in about ten minutes.

python main.py prepare  --config=configs/small.py --workdir=runs/small --config.root=GENOMES
python main.py pretrain --config=configs/small.py --workdir=runs/small
python main.py finetune --config=configs/small.py --workdir=runs/small
python main.py evaluate --config=configs/small.py --workdir=runs/small
"""

from ml_collections import ConfigDict

from configs import genomes


def get_config() -> ConfigDict:
    c = genomes.get_config()
    c.name = "small"
    c.corpus.sources = ("small/pretrain_small.fa.gz",)
    c.corpus.validation_sources = ()
    c.corpus.validation_fraction = 0.1
    c.corpus.cluster_key = "cluster"
    c.contigs.train = ("small/virus_small.fa.gz",)
    c.contigs.validation = ()
    c.contigs.validation_fraction = 0.2
    c.pretrain.steps = 150
    c.pretrain.eval_every = 50
    c.pretrain.save_every = 50
    c.finetune.steps = 100
    c.finetune.eval_every = 50
    c.finetune.save_every = 50
    c.finetune.eval_contigs = 0
    return c
