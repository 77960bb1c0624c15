"""A GPT of 25 million parameters over single bases, in rows of 4,096.

python main.py plan     --config=configs/gpt_25m.py --topology=v5e:2x4
python main.py prepare  --config=configs/gpt_25m.py --workdir=DIR --config.root=GENOMES
python main.py pretrain --config=configs/gpt_25m.py --workdir=DIR --platform=tpu

Predicted by `plan`, a bound that was not measured on a TPU: on eight v5e chips 3.2 of 15.75 GiB a
chip, at most 4.43 million tokens a second (71 % MFU, by memory); on eight v6e 3.4 of 31.25 GiB and
7.74 million (27 %, by memory: at this width there is little arithmetic for a byte).
"""

from ml_collections import ConfigDict

from configs import gpt_5m


def get_config() -> ConfigDict:
    c = gpt_5m.get_config()
    c.name = "gpt_25m"
    c.corpus.row_length = 4_096
    c.model.width = 512
    c.model.layers = 8
    c.model.heads = 4
    c.model.kv_heads = 2
    c.model.head_width = 128
    c.model.feed_forward = 1536
    c.execution.remat = "dots"
    c.pretrain.steps = 2_000
    c.pretrain.batch_rows = 64
    c.pretrain.optimizer.warmup_steps = 200
    return c
