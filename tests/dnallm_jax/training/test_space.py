"""Does a line of a search space say what may change, and one sentence what is wrong with it?"""

import dataclasses

import pytest

from data_pipeline.errors import UserError
from dnallm_jax.config import Config, Tune, default_config, resolve
from dnallm_jax.config.writing import recipe
from dnallm_jax.training import space

LINES = (
    "finetune.optimizer.learning_rate = 1e-4 .. 1e-2 log",
    "finetune.steps=50..80",
    "finetune.pooling = mean | attention",
    "finetune.lengths = (300, 500) | (300, 1000)",
    "finetune.lora.alpha = 8 | 16.0",
    "finetune.causal = True | False",
)
CHOSEN = {
    "finetune.optimizer.learning_rate": 0.002,
    "finetune.steps": 60,
    "finetune.pooling": "attention",
    "finetune.lengths": "(300, 1000)",
    "finetune.lora.alpha": "8",
    "finetune.causal": "False",
}


def test_lines_become_dimensions_and_values_of_the_schema() -> None:
    found = space.parse(LINES)
    assert [dimension.key for dimension in found] == list(CHOSEN)
    rate, steps = found[:2]
    assert (rate.low, rate.high, rate.logarithmic, rate.whole) == (1e-4, 1e-2, True, False)
    assert (steps.low, steps.high, steps.logarithmic, steps.whole) == (50, 80, False, True)
    config = space.applied(Config(), found, CHOSEN)
    fine = config.finetune
    assert (fine.optimizer.learning_rate, fine.steps, fine.pooling) == (0.002, 60, "attention")
    assert (fine.lengths, fine.lora.alpha, fine.causal) == ((300, 1000), 8.0, False)
    assert dataclasses.replace(config, finetune=Config().finetune) == Config()
    assert space.present(config, found) == CHOSEN | {"finetune.steps": 60}
    assert space.present(Config(), found) is None, "1,000 steps are not among them"
    assert space.present(Config(), space.parse(Tune().space)), "the defaults begin with the recipe"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "tune.space is empty; name what may change, for example "),
        (("finetune.pooling",), "write KEY = LOW .. HIGH"),
        (("finetune.poling = mean",), "finetune.poling is no key that a search may change"),
        (
            ("model.width = 32 | 64",),
            "model.width is no key that a search may",
        ),
        (("finetune.optimizer = 1",), "finetune.optimizer is no key"),
        (("finetune.seed = 1 | 2",), "finetune.seed is no key"),
        (("finetune.pooling = 1 .. 2",), "finetune.pooling is no number: write its values with |"),
        (("finetune.dropout = 0 .. 0.3 log",), "a range rises, and with log begins above 0"),
        (("finetune.dropout = 0.3 .. 0.1",), "a range rises"),
        (("finetune.steps = 10 .. 20.5",), "'20.5' is no int"),
        (("finetune.steps = ten | 20",), "'ten' is no value"),
        (("finetune.lengths = 300 | 500",), "'300' is no tuple"),
        (("finetune.steps = 1 | 2", "finetune.steps = 3 | 4"), "names finetune.steps twice"),
    ],
)
def test_a_line_that_says_nothing(lines: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        space.parse(lines)
    assert str(raised.value).startswith("tune.space")
    assert sentence in str(raised.value)


def test_values_that_do_not_go_together_are_refused() -> None:
    found = space.parse(("finetune.train = lora", "finetune.freeze_steps = 0 | 5"))
    chosen = {"finetune.train": "lora", "finetune.freeze_steps": "5"}
    with pytest.raises(UserError, match=r"set finetune\.backbone to a pre-trained one"):
        space.applied(Config(), found, chosen)


def test_a_config_becomes_a_file_that_gives_it_again() -> None:
    config = space.applied(Config(name="new"), space.parse(LINES), CHOSEN)
    text = recipe(config, 'Says """all""" of C:\\it.')
    made: dict = {}
    exec(text, made)
    assert resolve(made["get_config"]()) == config
    assert text.count("    c.") == 7
    exec(recipe(Config(), "Nothing."), made)
    assert made["get_config"]() == default_config()
