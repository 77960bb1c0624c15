"""Does pre-training read a mixture of corpora, and say so?"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from data_pipeline import corpus
from data_pipeline.corpora import mixed
from data_pipeline.corpus import Corpus, CorpusOptions, build_corpus
from data_pipeline.errors import UserError
from dnallm_jax.config import Config, Model, Pretrain
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training import pretraining
from tests.dnallm_jax.tiny import quick_jit

RECIPE = Config(
    name="tiny",
    model=Model(width=16, layers=1, heads=2, kv_heads=1, head_width=8, feed_forward=16),
    pretrain=Pretrain(
        steps=3, batch_rows=4, log_every=1, eval_every=3, save_every=3, eval_rows=4,
        mixture=("runs/a=1", "runs/b=3"),
    ),
)  # fmt: skip


@pytest.fixture
def corpora(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[Corpus]:
    monkeypatch.setattr(corpus, "MARKOV_ORDERS", range(2))
    rng, found = np.random.default_rng(0), []
    for name in ("a", "b"):
        records = [f">{name}{n}\n{''.join(rng.choice(list('ACGT'), 200))}\n" for n in range(6)]
        (tmp_path / f"{name}.fa").write_text("".join(records))
        options = CorpusOptions(
            (str(tmp_path / f"{name}.fa"),), row_length=32, validation_fraction=0.2
        )
        found.append(build_corpus(options, str(tmp_path / name)))
    return found


def test_a_run_on_a_mixture(
    corpora: list[Corpus],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    one = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "make_mesh", lambda **_: one)
    monkeypatch.setattr(jax, "jit", quick_jit)
    both = mixed(["runs/a", "runs/b"], corpora, [1, 3])
    metrics = pretraining.pretrain(
        RECIPE, both, tmp_path / "run", flops_per_token=1e6, peak=Peak(1e9, "a guess")
    )
    assert 1.5 < metrics["validation_bits_per_base"] < 4
    told = capfd.readouterr().err.splitlines()
    lines = [line.split()[:3] for line in told if line.startswith("mixture")]
    assert lines == [["mixture", "25.00%", "runs/a:"], ["mixture", "75.00%", "runs/b:"]]
    (manifest,) = (tmp_path / "run" / "checkpoints").glob("3/manifest.json")
    assert json.loads(manifest.read_text())["data"] == both.fingerprint
    assert 1.5 < pretraining.markov_beside(both, RECIPE)["bits_per_base"]["0"] < 2.5
    other = dataclasses.replace(both, shares=(2048, 2048))
    with pytest.raises(UserError, match="data"):
        pretraining.pretrain(
            RECIPE, other, tmp_path / "run", flops_per_token=1e6, peak=Peak(1e9, "a guess")
        )
