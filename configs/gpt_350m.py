"""A GPT of 350 million parameters over single bases, in rows of 8,192.

python main.py plan     --config=configs/gpt_350m.py --topology=v5e:2x4
python main.py prepare  --config=configs/gpt_350m.py --workdir=DIR --config.root=GENOMES
python main.py pretrain --config=configs/gpt_350m.py --workdir=DIR --platform=tpu

A step on 8 rows with all activations kept (batch_rows=8, remat=none) took 382 ms on an H200: 172
thousand tokens a second, 55 % MFU. Predicted by `plan`, a bound that was not measured on a TPU: on
eight v5e chips 6.5 of 15.75 GiB a chip, at most 0.36 million tokens a second (72 % MFU); on eight
v6e 6.9 of 31.25 GiB and 1.23 million (53 %).
"""

from ml_collections import ConfigDict

from configs import gpt_5m


def get_config() -> ConfigDict:
    c = gpt_5m.get_config()
    c.name = "gpt_350m"
    c.corpus.row_length = 8_192
    c.model.width = 1536
    c.model.layers = 14
    c.model.heads = 12
    c.model.kv_heads = 4
    c.model.head_width = 128
    c.model.feed_forward = 4096
    c.execution.remat = "block"
    c.pretrain.steps = 14_000
    c.pretrain.batch_rows = 64
    c.pretrain.optimizer.warmup_steps = 1_000
    return c
