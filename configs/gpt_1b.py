"""A GPT of 1 billion parameters over single bases, in rows of 8,192.

python main.py plan     --config=configs/gpt_1b.py --topology=v5e:2x4
python main.py prepare  --config=configs/gpt_1b.py --workdir=DIR --config.root=GENOMES
python main.py pretrain --config=configs/gpt_1b.py --workdir=DIR --platform=tpu

Predicted by `plan`, a bound that was not measured on a TPU: on eight v5e chips 12.1 of 15.75 GiB a
chip, at most 0.14 million tokens a second (73 % MFU); on eight v6e 13.7 of 31.25 GiB and 0.50
million (56 %); on v5e:16x16, 1,024 rows, mesh.data=16, 6.0 GiB and 4.48 million (73 %).
"""

from ml_collections import ConfigDict

from configs import gpt_5m


def get_config() -> ConfigDict:
    c = gpt_5m.get_config()
    c.name = "gpt_1b"
    c.corpus.row_length = 8_192
    c.model.width = 2048
    c.model.layers = 22
    c.model.heads = 16
    c.model.kv_heads = 4
    c.model.head_width = 128
    c.model.feed_forward = 5632
    c.execution.remat = "block"
    c.pretrain.steps = 38_000
    c.pretrain.batch_rows = 64
    c.pretrain.optimizer.warmup_steps = 2_000
    return c
