"""Do the settings fit together, and does one sentence say what does not?"""

import dataclasses
import functools
import json
import pathlib
import runpy
import subprocess
import sys
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from data_pipeline.errors import UserError
from data_pipeline.frames import Codon
from data_pipeline.tokenizers import Kmer, from_spec
from dnallm_jax import config
from dnallm_jax.config import Config, default_config, differences, digest, resolve, to_dict
from dnallm_jax.config.checks import LORA_MATRICES
from dnallm_jax.model.adapters import MATRICES
from dnallm_jax.model.attention import BACKENDS
from dnallm_jax.model.classifier import POOLINGS
from dnallm_jax.model.gpt import GPT, REMAT, initialise

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def changed(**values: Any) -> ConfigDict:
    """The defaults, with `model__width=3` for model.width."""
    c = default_config()
    c.update_from_flattened_dict({key.replace("__", "."): v for key, v in values.items()})
    return c


def test_the_defaults_are_the_dataclasses() -> None:
    assert resolve(default_config()) == Config()


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_resolves(path: pathlib.Path) -> None:
    recipe = resolve(runpy.run_path(str(path))["get_config"]())
    assert recipe.name == path.stem
    assert recipe.corpus.sources
    assert recipe.contigs.train


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gpt_5m", 5e6), ("gpt_25m", 25e6), ("gpt_125m", 125e6), ("gpt_350m", 350e6), ("gpt_1b", 1e9)],
)
def test_a_preset_is_as_large_as_its_name(name: str, parameters: float) -> None:
    recipe = resolve(runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]())
    spec = config.gpt_spec(
        recipe.model, from_spec(config.tokenizer_spec(recipe.tokenizer)).vocab_size
    )
    shapes = jax.eval_shape(functools.partial(initialise, GPT, spec, seed=0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / parameters - 1) < 0.15
    if parameters > 5e6:  # whole tiles of a TPU's matrix unit
        model = recipe.model
        assert model.head_width == 128
        assert not any(size % 128 for size in (model.width, model.feed_forward))


def test_a_misspelt_key_names_the_right_one() -> None:
    c = default_config()
    with pytest.raises(AttributeError, match='Did you mean "width" instead of "widht"'):
        c.model.widht = 3
    with pytest.raises(AttributeError, match='Did you mean "finetune" instead of "fintune"'):
        c.fintune.steps = 3
    with c.unlocked():
        c.model.widht = 3
    with pytest.raises(UserError) as error:
        resolve(c)
    assert str(error.value) == 'config key model.widht does not exist. Did you mean "width"?'
    c = default_config()
    with c.unlocked():
        c.mesh.colour = 3
    with pytest.raises(UserError) as error:
        resolve(c)
    assert str(error.value) == (
        "config key mesh.colour does not exist. The keys are: data, fsdp, tensor, sequence."
    )


def test_a_value_of_another_type_is_refused() -> None:
    c = default_config()
    for value in ("wide", 3.5):
        with pytest.raises(TypeError, match="width"):
            c.model.width = value
    with pytest.raises(TypeError, match="sources"):
        c.corpus.sources = "genomes.fa"  # not read as a list of letters
    c.model.rope_base = 500
    assert resolve(c).model.rope_base == 500.0
    c.model.width = None
    with pytest.raises(UserError) as error:
        resolve(c)
    assert str(error.value) == "config key model.width is None; give a value, or leave it out"


CLASHES = [
    ({"model__heads": 4, "model__kv_heads": 3},
     "model.heads 4 is not a multiple of model.kv_heads 3"),
    ({"model__kv_heads": 0}, "model.kv_heads is 0; it must be 1 or more"),
    ({"model__layers": -1}, "model.layers is -1; it must be 1 or more"),
    ({"model__head_width": 7}, "model.head_width 7 must be even (rotary pairs)"),
    ({"finetune__pooling": "max"}, "finetune.pooling 'max' is not one of mean, last, attention"),
    ({"finetune__train": "some"}, "finetune.train 'some' is not one of full, head, lora"),
    ({"finetune__train": "lora", "finetune__backbone": "random"},
     "finetune.train lora leaves the backbone as it is: set finetune.backbone to a pre-trained one "
     "and finetune.freeze_steps to 0"),
    ({"finetune__lora__matrices": ("wq", "wx")},
     "finetune.lora.matrices ('wq', 'wx') must be some of wq, wk, wv, wo, gate, up, down"),
    ({"finetune__lora__rank": 0}, "finetune.lora.rank must be at least 1"),
    ({"finetune__layer_decay": 0.0},
     "finetune.layer_decay is 0.0; choose more than 0, at most 1"),
    ({"finetune__dropout": 1.0}, "finetune.dropout is 1.0; choose 0 or more, less than 1"),
    ({"finetune__view": "codons"}, "finetune.view 'codons' is not bases or frames"),
    ({"finetune__view": "frames"},
     "finetune.view frames reads codons: set tokenizer.name to codon, or to kmer and "
     "tokenizer.k to 3"),
    ({"execution__dtype": "float16"},
     "execution.dtype 'float16' is not one of auto, float32, bfloat16"),
    ({"execution__unroll": "maybe"}, "execution.unroll 'maybe' is not one of auto, yes, no"),
    ({"corpus__validation_fraction": 1.0},
     "corpus.validation_fraction is 1.0; choose 0 or more, less than 1"),
    ({"contigs__validation_fraction": -0.1},
     "contigs.validation_fraction is -0.1; choose 0 or more, less than 1"),
    ({"finetune__lengths": ()},
     "finetune.lengths is empty; name at least one window length in bases"),
    ({"finetune__lengths": (300, 0.5)},
     "finetune.lengths (300, 0.5) are window lengths in bases: whole numbers above 0"),
    ({"finetune__length_weights": (1.0, 2.0)},
     "finetune.length_weights (1.0, 2.0) must be one number above 0 for each of finetune.lengths "
     "(300, 500, 1000, 3000), or none"),
    ({"finetune__min_length": 301},
     "finetune.min_length is 301; choose 1 to 300, the shortest of finetune.lengths, or 0 for "
     "windows of these lengths only"),
    ({"finetune__unknown": 1.0}, "finetune.unknown is 1.0; choose 0 or more, less than 1"),
    ({"finetune__strands": "one"}, "finetune.strands 'one' is not both or forward"),
    ({"finetune__start_step": 0}, "finetune.start_step must be at least 1"),
    ({"score__false_positive_rate": 1.0}, "score.false_positive_rate lies between 0 and 1"),
    ({"pretrain__batch_rows": 0}, "pretrain.batch_rows must be at least 1"),
    ({"pretrain__batch_rows": 8, "pretrain__accumulate": 3},
     "pretrain.batch_rows 8 is not a multiple of pretrain.accumulate 3"),
    ({"pretrain__ema": 1.0}, "pretrain.ema is 1.0; choose 0 or more, less than 1"),
    ({"pretrain__z_loss": -1.0}, "pretrain.z_loss is -1.0; choose 0 or more"),
    ({"execution__remat": "all"},
     "execution.remat 'all' is not one of none, block, dots, offload"),
    ({"pretrain__optimizer__name": "adam"},
     "pretrain.optimizer.name 'adam' is not adamw or muon"),
    ({"composition__optimizer__name": "muon"},
     "composition.optimizer.name 'muon' is not adamw"),
    ({"finetune__optimizer__schedule": "linear"},
     "finetune.optimizer.schedule 'linear' is not cosine or wsd"),
    ({"pretrain__optimizer__decay_fraction": 0.0},
     "pretrain.optimizer.decay_fraction is 0.0; choose more than 0, at most 1"),
    ({"pretrain__optimizer__learning_rate": -1.0},
     "pretrain.optimizer.learning_rate is -1.0; choose 0 or more"),
    ({"finetune__optimizer__clip": -1.0}, "finetune.optimizer.clip is -1.0; choose 0 or more"),
    ({"composition__optimizer__beta2": 1.0},
     "composition.optimizer.beta2 is 1.0; choose 0 or more, less than 1"),
    ({"score__window": 0}, "score.window must be at least 1"),
    ({"pretrain__steps": 0}, "pretrain.steps must be at least 1"),
    ({"finetune__log_every": 0}, "finetune.log_every must be at least 1"),
    ({"pretrain__eval_every": 25, "pretrain__log_every": 10},
     "pretrain.eval_every 25 is not a multiple of pretrain.log_every 10"),
    ({"finetune__save_every": 15, "finetune__log_every": 10},
     "finetune.save_every 15 is not a multiple of finetune.log_every 10"),
    ({"mesh__data": -1}, "only one axis of mesh may be -1 (what is left)"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), CLASHES, ids=[str(v) for v, _ in CLASHES])
def test_settings_that_clash_are_refused_in_one_sentence(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        resolve(changed(name="clash", **values))
    assert str(error.value) == f"config clash: {sentence}"


def test_a_tokenizer_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"config unnamed: tokenizer\.name 'letters' is not one of"):
        resolve(changed(tokenizer__name="letters"))


def test_frames_go_with_codons() -> None:
    resolve(changed(finetune__view="frames", tokenizer__name="kmer", tokenizer__k=3))
    resolve(changed(finetune__view="frames", tokenizer__name="codon"))


def test_what_can_be_chosen_is_what_exists() -> None:
    assert set(config.EXECUTION_CHOICES["attention"]) == {"auto", *BACKENDS}
    assert config.EXECUTION_CHOICES["remat"] == tuple(REMAT)
    assert tuple(MATRICES) == LORA_MATRICES
    for pooling in POOLINGS:
        resolve(changed(finetune__pooling=pooling))
    assert from_spec(config.tokenizer_spec(config.Tokenizer("kmer", 4))) == Kmer(4)
    assert config.tokenizer_spec(config.Tokenizer()) == {"name": "nucleotide"}
    codon = config.tokenizer_spec(config.Tokenizer("codon", max_overlap=0.0))
    assert from_spec(codon).spec() == codon == Codon(max_overlap=0.0).spec()
    spec = config.gpt_spec(config.Model(width=8), 6)
    assert (spec.width, spec.vocab_size) == (8, 6)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def test_a_config_goes_through_json_and_back() -> None:
    plain = to_dict(Config())
    assert json.loads(json.dumps(plain)) == plain
    assert resolve(ConfigDict(plain)).model == Config().model
    assert plain["finetune"]["lengths"] == list(Config().finetune.lengths)


def test_every_setting_changes_the_digest_and_shows_as_a_difference() -> None:
    plain = to_dict(Config())
    assert digest(Config()) == digest(plain) == digest(resolve(default_config()))
    assert len(digest(Config())) == 16
    assert digest(Config(), 1) != digest(Config(), 2) != digest(Config())
    assert differences(plain, to_dict(Config())) == []
    seen = {digest(Config())}
    for key, value in leaves(plain).items():
        other = to_dict(Config())
        *sections, last = key.split(".")
        functools.reduce(dict.__getitem__, sections, other)[last] = "changed"
        seen.add(digest(other))
        assert differences(plain, other) == [f"{key}: {value} -> changed"]
    assert len(seen) == 1 + len(leaves(plain))


def test_differences_name_keys_that_only_one_side_has() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}) == [
        "a.c: None -> 2",
        "d: None -> 3",
    ]


def test_a_config_cannot_change_after_it_was_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(default_config()).model.width = 3  # type: ignore[misc] # that is the point


def test_reading_a_config_loads_no_jax() -> None:
    code = (
        "import sys, dnallm_jax.config as c; c.resolve(c.default_config()); "
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
