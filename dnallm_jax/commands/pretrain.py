"""python main.py pretrain --config=configs/NAME.py --workdir=DIR [--platform=tpu]
                               [--devices=8] [--config.KEY=VALUE ...]
                               [--coordinator=HOST:PORT --processes=N --process=I]
                               [--profile=10:15] [--workers=N]

Pre-trains a GPT on the rows that `prepare` wrote to DIR/data/corpus, or to several workdirs, mixed
by weight (config.pretrain.mixture); checkpoints and metrics go to DIR/pretrain. Started again, it
goes on from the last whole checkpoint; asked to stop (SIGTERM, SIGINT), it saves and ends with exit
code 75. Where it waits for its input, --workers=N makes the same batches in N processes. On a TPU
pod and under SLURM the same command runs on every host; elsewhere --coordinator says where the
processes meet. Ends with the bits per base on the validation genomes (of all and of each corpus)
beside Markov models of order 0 to 9 fitted on the very rows it has seen; of a codon corpus, beside
codon Markov models of order 0 to 3, per base covered.
"""

import pathlib
import time
from typing import TYPE_CHECKING

from absl import flags

from dnallm_jax.commands import common
from dnallm_jax.config import Config

if TYPE_CHECKING:
    from dnallm_jax.training.observed import Observed


def define_flags() -> None:
    common.define_config_flags()
    common.define_device_flags()
    common.define_peer_flags()
    common.define_profile_flag()
    common.define_workers_flag()


def run(arguments: list[str]) -> None:
    common.refuse_arguments(arguments)
    begun = time.perf_counter()
    config, workdir = common.config(), common.workdir(bucket=True)
    observed = common.observed(begun)
    with common.joined_devices():
        _run(config, workdir, observed)


def _run(config: Config, workdir: pathlib.Path, observed: "Observed") -> None:
    from dnallm_jax.config import gpt_spec
    from dnallm_jax.parallel import hosts
    from dnallm_jax.planning import flops
    from dnallm_jax.training import pretraining
    from dnallm_jax.training.manifest import write_json

    corpus = hosts.together(lambda: common.open_rows(config, workdir))
    folder = workdir / common.PRETRAIN
    spec = gpt_spec(config.model, corpus.tokenizer.vocab_size)
    with common.watched():
        metrics = pretraining.pretrain(
            config,
            corpus,
            folder,
            flops_per_token=flops.flops_per_token(spec, corpus.row_length),
            peak=flops.device_peak(),
            observed=observed,
            workers=flags.FLAGS.workers,
        )
    if not hosts.is_main():
        return
    markov = None
    if "validation" in corpus.splits:
        markov = pretraining.markov_beside(corpus, config)
        for line in pretraining.comparison(metrics, markov):
            print(line)
    write_json(folder / "result.json", {"model": metrics, "markov": markov})
