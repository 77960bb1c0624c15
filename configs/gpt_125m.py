"""A GPT of 125 million parameters over single bases, in rows of 8,192.

python main.py plan     --config=configs/gpt_125m.py --topology=v5e:2x4
python main.py prepare  --config=configs/gpt_125m.py --workdir=DIR --config.root=GENOMES
python main.py pretrain --config=configs/gpt_125m.py --workdir=DIR --platform=tpu

Predicted by `plan`, a bound that was not measured on a TPU: on eight v5e chips 3.8 of 15.75 GiB a
chip, at most 0.89 million tokens a second (71 % MFU); on eight v6e 4.1 of 31.25 GiB and 2.92
million (50 %). benchmarks/LOG.md has rows of 131,072.
"""

from ml_collections import ConfigDict

from configs import gpt_5m


def get_config() -> ConfigDict:
    c = gpt_5m.get_config()
    c.name = "gpt_125m"
    c.corpus.row_length = 8_192
    c.model.width = 1024
    c.model.layers = 10
    c.model.heads = 8
    c.model.kv_heads = 4
    c.model.head_width = 128
    c.model.feed_forward = 3072
    c.execution.remat = "block"
    c.pretrain.steps = 5_000
    c.pretrain.batch_rows = 64
    c.pretrain.optimizer.warmup_steps = 500
    return c
