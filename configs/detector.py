"""The shipped detector: a GPT over in-frame codons, joined to networks on composition.

Expected: 1.817 bits per base covered on validation genomes, AUROC .844 .887 .923 .947 .954 .955 on
validation contigs of 300 to 10,000 bases. The GPT takes minutes on a GPU; on two cores alone the
whole should take about a night, which was not tried. `make detector` runs it:

python main.py prepare  --config=configs/detector.py --workdir=runs/detector --config.root=GENOMES
python main.py pretrain --config=configs/detector.py --workdir=runs/detector
python main.py finetune --config=configs/detector.py --workdir=runs/detector
python main.py evaluate --config=configs/detector.py --workdir=runs/detector
"""

from ml_collections import ConfigDict

from dnallm_jax.config import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.name = "detector"
    c.tokenizer.name = "codon"
    c.corpus.sources = ("pretrain/train.fa.gz", "eukaryotes/genomes_train.fa.gz")
    c.corpus.validation_sources = ("pretrain/validation.fa.gz",)
    c.corpus.exclude = ("group=euk-virus",)
    c.corpus.row_length = 512
    c.contigs.train = ("virus/genomes_train.fa.gz", "eukaryotes/genomes_train.fa.gz")
    c.contigs.validation = ("virus/validation.fa.gz",)
    c.model.width = 128
    c.model.layers = 2
    c.model.heads = 2
    c.model.kv_heads = 1
    c.model.head_width = 64
    c.model.feed_forward = 256
    c.model.lookback = 4
    c.execution.dtype = "float32"  # as it is scored on CPUs, also where it is trained on a GPU
    c.pretrain.steps = 15_000
    c.pretrain.batch_rows = 64
    c.pretrain.optimizer.learning_rate = 3e-3
    c.pretrain.optimizer.warmup_steps = 300
    c.pretrain.log_every = 50
    c.pretrain.eval_every = 3000
    c.pretrain.save_every = 3000
    c.pretrain.eval_rows = 512
    c.finetune.view = "frames"
    c.finetune.causal = False
    c.finetune.pooling = "attention"
    c.finetune.dropout = 0.1
    c.finetune.steps = 3000
    c.finetune.batch_tokens = 24_576
    c.finetune.lengths = (300, 500, 1000)
    c.finetune.balance_key = "group/cluster"
    c.finetune.negative_balance_key = "group/cluster"
    c.finetune.negative_weights = (
        *("bacteria=8", "plasmid=3", "archaea=2", "organelle=2", "fungi=2"),
    )
    c.finetune.optimizer.learning_rate = 1e-3
    c.finetune.log_every = 50
    c.finetune.eval_every = 500
    c.finetune.eval_contigs = 2000
    c.finetune.save_every = 500
    c.composition.steps = 4000
    c.composition.networks = 4
    c.composition.widths = (64,)
    c.composition.log_every = 50
    c.composition.eval_every = 500
    c.composition.save_every = 500
    c.score.window = 1000
    return c
