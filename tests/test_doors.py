"""Do the doors of the house open downwards only, and does the tree keep its other rules?

The rules are in tests/house.py. Each is run on this repository, on a small sound house in which it
must find nothing, and on that house with one planted fault, which it must find.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house import (
    LONG_FILES,
    RULES,
    docstrings,
    doors,
    lengths,
    libraries,
    light_top,
    no_generation,
    room_rules,
    stray_names,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_repository_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    faults = rule(ROOT)
    assert not faults, "\n".join([rule.__doc__ or "", *faults])


def test_long_files_are_still_long() -> None:
    """An entry in the allow-list goes when its file no longer needs it."""
    for path in LONG_FILES:
        assert len((ROOT / path).read_bytes().splitlines()) > 400, path


SOUND = {
    "main.py": """
        from absl import app
        from ml_collections import config_flags
        from data_pipeline.errors import UserError
        from dnallm_jax.commands import COMMANDS
        def run(command):
            import importlib
            importlib.import_module(f"dnallm_jax.commands.{command}").main()
        """,
    "configs/tiny.py": "from ml_collections import ConfigDict\nimport math",
    "benchmarks/bench_against_transformers.py": "def theirs():\n  import torch, transformers",
    "dnallm_jax/__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from dnallm_jax.training import loop
        """,
    "dnallm_jax/config.py": "from data_pipeline import errors",
    "dnallm_jax/model/gpt.py": "import jax\nfrom flax import nnx\nfrom . import attention",
    "dnallm_jax/model/attention.py": "import math",
    "dnallm_jax/parallel/mesh.py": "import jax",
    "dnallm_jax/training/checkpoints.py": "import orbax.checkpoint as ocp, os, dnallm_jax",
    "dnallm_jax/training/loop.py": """
        from dnallm_jax import __version__, config
        from dnallm_jax.model import gpt
        from dnallm_jax.planning import flops
        from ..parallel.mesh import table
        from data_pipeline import loader
        from .checkpoints import save
        """,
    "dnallm_jax/evaluation/metrics.py": """
        def bootstrap(rng, n): return rng.multinomial(n, [1 / n] * n)
        def resample(x): return x
        """,
    "dnallm_jax/commands/__init__.py": "COMMANDS = ['pretrain']",
    "dnallm_jax/commands/pretrain.py": """
        import configs
        from absl import flags
        from dnallm_jax import config
        def run():
            from dnallm_jax.training import loop
        """,
    "data_pipeline/errors.py": "class UserError(Exception): pass",
    "data_pipeline/corpus.py": "import tensorflow_datasets as tfds, numpy",
    "data_pipeline/workers.py": "def batches():\n  import grain",
    "data_pipeline/simulate.py": "def sample_genome(rng): return rng.choice(4)",
    "tests/test_x.py": "import orbax.checkpoint, os\nfrom dnallm_jax.commands import pretrain",
    "notes.txt": "see docs/tmp/x, a/work, ../shared, ~/work and https://example.com/root/x",
}

# (rule, file, the line that breaks it)
PLANTED = [
    (doors, "data_pipeline/reading.py", "import dnallm_jax.config"),
    (doors, "data_pipeline/reading.py", "def f():\n  from dnallm_jax import config"),
    (doors, "dnallm_jax/model/gpt.py", "from dnallm_jax.parallel import mesh"),
    (doors, "dnallm_jax/model/gpt.py", "from .. import config"),
    (doors, "dnallm_jax/model/gpt.py", "from ..training.loop import step"),
    (doors, "dnallm_jax/config.py", "import dnallm_jax.parallel.mesh"),
    (doors, "dnallm_jax/training/loop.py", "from dnallm_jax.evaluation import metrics"),
    (doors, "dnallm_jax/training/loop.py", "from dnallm_jax.planning import topology"),
    (doors, "dnallm_jax/training/loop.py", "from dnallm_jax.commands import pretrain"),
    (doors, "dnallm_jax/scoring/scorer.py", "import main"),
    (doors, "dnallm_jax/scoring/scorer.py", "from configs import tiny"),
    (doors, "dnallm_jax/scoring/scorer.py", "import importlib as i; i.import_module(input())"),
    (doors, "dnallm_jax/__init__.py", "from dnallm_jax.scoring import scorer"),
    (doors, "dnallm_jax/attic/old.py", "import dnallm_jax.config"),
    (doors, "dnallm_jax/commands/pretrain.py", "import dnallm_jax.attic"),
    (room_rules, "data_pipeline/packing.py", "import jax.numpy as jnp"),
    (room_rules, "data_pipeline/packing.py", "def f():\n  from flax import nnx"),
    (room_rules, "data_pipeline/packing.py", "import optax"),
    (room_rules, "data_pipeline/packing.py", "import orbax.checkpoint"),
    (room_rules, "data_pipeline/packing.py", "import tensorflow_datasets as tfds"),
    (room_rules, "data_pipeline/packing.py", "import grain"),
    (room_rules, "dnallm_jax/model/gpt.py", "import ml_collections"),
    (room_rules, "dnallm_jax/model/gpt.py", "from absl import logging"),
    (room_rules, "dnallm_jax/model/gpt.py", "from pathlib import Path"),
    (room_rules, "dnallm_jax/model/gpt.py", "import tensorflow_datasets"),
    (room_rules, "dnallm_jax/model/gpt.py", "from data_pipeline import corpus"),
    (room_rules, "dnallm_jax/model/gpt.py", "def f(p): return open(p)"),
    (room_rules, "dnallm_jax/model/gpt.py", "import numpy as np\nx = np.load('x')"),
    (libraries, "dnallm_jax/training/loop.py", "from orbax import checkpoint"),
    (libraries, "benchmarks/speed.py", "import torch.nn"),
    (libraries, "benchmarks/bench_against_transformers.py", "import torch"),
    (libraries, "benchmarks/bench_against_transformers.py", "def f():\n  import keras"),
    (libraries, "tests/test_x.py", "def f():\n  import tensorflow as tf"),
    (libraries, "configs/tiny.py", "import importlib; importlib.import_module('tensorflow.io')"),
    (light_top, "main.py", "import jax"),
    (light_top, "main.py", "from dnallm_jax.commands import pretrain"),
    (light_top, "main.py", "def f():\n  from dnallm_jax import training"),
    (light_top, "main.py", "import ml_collections.config_dict"),
    (light_top, "dnallm_jax/commands/pretrain.py", "import jax"),
    (light_top, "dnallm_jax/commands/pretrain.py", "from dnallm_jax.training import loop"),
    (light_top, "configs/tiny.py", "import jax.numpy"),
    (light_top, "configs/tiny.py", "from dnallm_jax.model import gpt"),
    (no_generation, "dnallm_jax/commands/generate.py", "x = 1"),
    (no_generation, "dnallm_jax/commands/demo.py", "def sample_sequences(model): ..."),
    (no_generation, "dnallm_jax/model/gpt.py", "class SequenceGenerator: ..."),
    (no_generation, "dnallm_jax/model/gpt.py", "def f(k, x): return jax.random.categorical(k, x)"),
    (stray_names, "README.md", "Data: /" + "work/x"),
    (stray_names, "configs/tiny.py", "data = '/" + "root/genomes'"),
    (stray_names, "launch/vm.sh", "cd /" + "tmp && ls"),
    (stray_names, "docs/a.md", "`/home/" + "ann/x`"),
    (stray_names, "requirements.txt", "--extra-ind" + "ex-url x"),
    (stray_names, "Makefile", "curl files.python" + "hosted.org"),
    (docstrings, "dnallm_jax/model/gpt.py", None),
    (lengths, "dnallm_jax/model/gpt.py", "x = 1\n" * 401),
]  # fmt: skip


def build(tree: Path, sources: dict[str, str]) -> None:
    for path, source in sources.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        text = textwrap.dedent(source)
        (tree / path).write_text(f'"""What is it?"""\n{text}\n')


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_house_has_no_fault(rule: Callable[[Path], list[str]], tmp_path: Path) -> None:
    build(tmp_path, SOUND)
    assert rule(tmp_path) == []


@pytest.mark.parametrize(("rule", "path", "line"), PLANTED)
def test_a_planted_fault_is_found(
    rule: Callable[[Path], list[str]], path: str, line: str | None, tmp_path: Path
) -> None:
    build(tmp_path, SOUND)
    if line is None:
        (tmp_path / path).write_text("x = 1\n")
    else:
        build(tmp_path, {path: line})
    faults = rule(tmp_path)
    assert faults, f"{rule.__name__} does not see {line!r} in {path}"
    assert all(f.startswith(f"{path}:") for f in faults), faults
