"""Does pre-training read a mixture of corpora, and say so?"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from data_pipeline import corpus, loader
from data_pipeline.corpora import Mixed, mixed
from data_pipeline.corpus import Corpus, CorpusOptions, SplitInfo, build_corpus
from data_pipeline.errors import UserError
from dnallm_jax.commands import doctor
from dnallm_jax.commands.common import CORPUS
from dnallm_jax.config import Config, Model, Pretrain
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training import pretraining
from dnallm_jax.training.readiness import Check
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
        found.append(build_corpus(options, str(tmp_path / name / CORPUS)))
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
    joint, a, b = (metrics[f"validation_bits_per_base{of}"] for of in ("", "/runs/a", "/runs/b"))
    assert 1.5 < min(a, b) < joint < max(a, b) < 4
    told = capfd.readouterr().err.splitlines()
    lines = [line.split()[:3] for line in told if line.startswith("mixture")]
    assert lines == [["mixture", "25.00%", "runs/a:"], ["mixture", "75.00%", "runs/b:"]]
    (manifest,) = (tmp_path / "run" / "checkpoints").glob("3/manifest.json")
    assert json.loads(manifest.read_text())["data"] == both.fingerprint
    assert 1.5 < pretraining.markov_beside(both, RECIPE)["bits_per_base"]["0"] < 2.5
    said = pretraining.comparison(metrics, pretraining.markov_beside(both, RECIPE))
    assert said[1:3] == [f"  on runs/a: {a:.4f}", f"  on runs/b: {b:.4f}"]
    other = dataclasses.replace(both, shares=(2048, 2048))
    with pytest.raises(UserError, match="data"):
        pretraining.pretrain(
            RECIPE, other, tmp_path / "run", flops_per_token=1e6, peak=Peak(1e9, "a guess")
        )


class Sized:
    """A corpus of so many validation rows; of 0, without that split."""

    def __init__(self, rows: int) -> None:
        self.splits = {"validation": SplitInfo(rows, 0, 0, 0, 0)} if rows else {}


@pytest.mark.parametrize("rows", [1, 7, 64, 1_000, 5_000])
@pytest.mark.parametrize("sizes", [(1_000,), (1_000, 0, 10), (3, 1)])
def test_each_corpus_is_judged_by_its_share_of_the_rows(sizes: tuple[int, ...], rows: int) -> None:
    names = tuple(f"runs/{n}" for n in range(len(sizes)))
    members: tuple = tuple(map(Sized, sizes))
    corpus = members[0] if len(sizes) == 1 else Mixed(names, members, (1,) * len(sizes))
    found = pretraining.evaluated_rows(corpus, rows)
    kept = [(name, size) for name, size in zip(names, sizes, strict=True) if size]
    assert list(found) == ([""] if len(sizes) == 1 else [name for name, _ in kept])
    before, total = 0, sum(sizes)
    for (_, size), numbers in zip(kept, found.values(), strict=True):
        own = loader.evenly(size, -(-rows * size // total)) + before
        assert numbers == own.tolist()
        assert before <= numbers[0] <= numbers[-1] < before + size
        before += size
    assert min(rows, total) <= sum(map(len, found.values())) < rows + len(kept)


def test_doctor_reads_every_corpus_of_a_mixture(
    corpora: list[Corpus], tmp_path: pathlib.Path
) -> None:
    def checks(weight: int) -> dict[str, Check]:
        mixture = (f"{tmp_path / 'a'}=1", f"{tmp_path / 'b'}={weight}")
        pretrain = dataclasses.replace(RECIPE.pretrain, mixture=mixture)
        return doctor._run_checks(dataclasses.replace(RECIPE, pretrain=pretrain), tmp_path)

    both = mixed(["a", "b"], corpora, [1, 3])
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "run.json").write_text(json.dumps({"data": both.fingerprint}))
    assert set(checks(3)) == {"corpus", "mesh", "execution", "memory", "disk"}
    assert checks(3)["corpus"]().startswith(f"{both.fingerprint[:12]} can be read: train ")
    with pytest.raises(UserError, match=f"began with {both.fingerprint[:12]}"):
        checks(2)["corpus"]()
    next((tmp_path / "b").rglob("*.array_record*")).unlink()
    assert set(checks(3)) == {"corpus"}
    with pytest.raises(UserError, match=r"b/data/corpus/.* missing or cut short; prepare the data"):
        checks(3)["corpus"]()
