"""Does every key of a recipe that says how to train reach the step that is compiled?

What each does is looked at where it is done. Here: nothing that a user sets is left unread.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from data_pipeline.tokenizers import Nucleotide
from dnallm_jax.config import Config, Finetune, Lora, Model, Pretrain, to_dict
from dnallm_jax.parallel.execution import choose, on_mesh
from dnallm_jax.parallel.mesh import make_mesh, to_device
from dnallm_jax.training import finetuning, pretraining, step
from dnallm_jax.training.members import gpt_member
from tests.dnallm_jax.tiny import packed

RECIPE = Config(
    model=Model(width=16, layers=2, heads=2, kv_heads=1, head_width=8, feed_forward=16),
    pretrain=Pretrain(steps=9, batch_rows=4),
    finetune=Finetune(steps=9, lengths=(60,), dropout=0.1),
)
# Keys of the sections that say what is due when, and what is read.
ELSEWHERE = {
    *("mixture", "batch_rows", "log_every", "eval_every", "eval_rows", "save_every", "keep"),
    *("keep_every", "spike", "backbone", "batch_tokens", "lengths", "length_weights", "min_length"),
    *("start_step", "strands", "balance_key", "negative_balance_key", "negative_weights"),
    *("max_ambiguous", "mutate", "unknown", "view", "eval_contigs", "patience", "seeds"),
    *("ensemble", "lora"),  # the last of which is read where `train` is lora
}
OTHER: dict[str, Any] = {
    **{"dtype": "bfloat16", "attention": "reference", "unroll": "no", "remat": "dots"},
    **{"accumulate": 2, "on_bad_step": "skip", "pooling": "last", "train": "head"},
    **{"causal": False, "matrices": ("wq",)},
}


def keys(*sections: str) -> list[str]:
    """pretrain.steps, pretrain.seed and so on."""
    plain = to_dict(RECIPE)
    found = []
    for section in sections:
        values = functools.reduce(dict.__getitem__, section.split("."), plain)
        found += [
            f"{section}.{key}"
            for key, value in values.items()
            if not isinstance(value, dict) and key not in ELSEWHERE
        ]
    return found


def changed(key: str, config: Any = RECIPE) -> Any:
    """The recipe with another value for one key."""
    first, _, rest = key.partition(".")
    old = getattr(config, first)
    new = changed(rest, old) if rest else OTHER.get(first, old + 1 if isinstance(old, int) else 0.3)
    assert new != old
    return dataclasses.replace(config, **{first: new})


@functools.cache
def one() -> Mesh:
    return make_mesh(devices=jax.devices()[:1])


def text(made: step.Program, batch: dict[str, np.ndarray]) -> str:
    """How the state is made, and a step, without where things lie in memory."""
    state, shardings = made.abstract_state()
    train_step: Any = made.train_step(shardings)
    traced = train_step.trace(state, to_device(batch, one()))
    return re.sub(r"0x[0-9a-f]+", "", f"{jax.make_jaxpr(made.initialise)()}{traced.jaxpr}")


def pretrain(config: Config) -> str:
    made, _, _ = pretraining.program(config, Nucleotide(), one())
    return text(made, packed([[32]] * 4, 32))


def finetune(config: Config) -> str:
    run = on_mesh(choose(**vars(config.execution))[0], one())
    member = gpt_member(config, one(), run, None, Nucleotide().spec())
    labels = {key: np.ones(4, np.float32) for key in ("labels", "example_weights")}
    made = finetuning.program(member.settings, member.network, one())
    return text(made, packed([[32]] * 4, 32) | labels)


@functools.cache
def usual(command: str) -> str:
    return COMMANDS[command](RECIPE)


COMMANDS = {"pretrain": pretrain, "finetune": finetune}
READ = [
    (command, key)
    for command in COMMANDS
    for key in (
        *keys("execution", command),
        *("model.window", f"{command}.optimizer.learning_rate"),  # of sections that go whole
    )
]


@pytest.mark.parametrize(("command", "key"), READ, ids=[" ".join(pair) for pair in READ])
def test_a_key_reaches_the_step(command: str, key: str) -> None:
    assert COMMANDS[command](changed(key)) != usual(command)


def test_keys_of_adapters_reach_the_step() -> None:
    adapted = dataclasses.replace(RECIPE.finetune, train="lora", lora=Lora())
    config = dataclasses.replace(RECIPE, finetune=adapted)
    plain = finetune(config)
    for key in keys("finetune.lora"):
        assert finetune(changed(key, config)) != plain, key


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_else_moves_the_text(command: str) -> None:
    assert COMMANDS[command](RECIPE) == usual(command)
