"""Do tokens that were learned from a corpus go with its checkpoint into the detector?"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.config import Config, Finetune, Model, Tokenizer, gpt_spec
from dnallm_jax.model.gpt import Execution
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.scoring.bundle import Reading, make_scorer
from dnallm_jax.training.manifest import write_manifest
from dnallm_jax.training.members import bases_per_token, gpt_member, tokenizer_of
from tests.dnallm_jax.tiny import quick_jit

RECIPE = Config(
    tokenizer=Tokenizer(name="bpe", vocab_size=64),
    model=Model(width=16, layers=1, heads=2, kv_heads=1, head_width=8, feed_forward=16),
    finetune=Finetune(lengths=(64,)),
)
GENOME = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 20_000).tobytes()


@pytest.fixture(scope="module")
def learned() -> Mapping[str, Any]:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: requirements-bpe.txt")
    from data_pipeline import bpe

    return bpe.train([GENOME], len(GENOME), 64).spec()


def checkpoint(folder: pathlib.Path, tokenizer: Mapping[str, Any], vocabulary: int) -> pathlib.Path:
    folder.mkdir()
    model = vars(gpt_spec(RECIPE.model, vocabulary))
    write_manifest(folder, {"kind": "pretrain", "model": model, "tokenizer": tokenizer})
    return folder


def nothing() -> Mapping[str, Any]:
    raise AssertionError("the corpus is asked")


def test_tokens_are_those_of_the_backbone(
    learned: Mapping[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a bundle's manifest is enough to score with them."""
    monkeypatch.setattr(jax, "jit", quick_jit)
    backbone = checkpoint(tmp_path / "4", learned, learned["vocab_size"])
    found = tokenizer_of(RECIPE, backbone, nothing)
    assert found == learned
    mesh = make_mesh(devices=jax.devices()[:1])
    run = Execution(dtype="float32", attention="reference", unroll=True)
    member = gpt_member(RECIPE, mesh, run, backbone, found)
    assert member.network.description["vocab_size"] == learned["vocab_size"]
    windows = member.view.read([GENOME[:64], GENOME[64:128]], 64)[0]
    mean = bases_per_token(member, lambda _: windows)
    assert 1 < mean < 16
    assert mean * (windows["segment_ids"] > 0).sum() == pytest.approx(128)

    reading = Reading(member.network.description, found, member.view.name, 64, 0)
    kept = json.loads(json.dumps(dataclasses.asdict(reading)))
    params = jax.tree.map(lambda leaf: leaf + 0.1, member.network.initialise(0))
    scorer = make_scorer(params, Reading(**kept), run, mesh, batch_tokens=256)
    first, second = scorer.score([GENOME[:100], GENOME[200:300]])
    assert np.isfinite([first.logit, second.logit]).all()
    assert first.logit != second.logit


def test_without_a_backbone_they_are_the_corpus_s(learned: Mapping[str, Any]) -> None:
    assert tokenizer_of(RECIPE, None, lambda: learned) is learned
    plain = dataclasses.replace(RECIPE, tokenizer=Tokenizer())
    assert tokenizer_of(plain, None, nothing) == {"name": "nucleotide"}


def test_a_backbone_of_other_tokens_is_refused(
    learned: Mapping[str, Any], tmp_path: pathlib.Path
) -> None:
    other = checkpoint(tmp_path / "1", {"name": "kmer", "k": 3}, 70)
    with pytest.raises(UserError, match=r"was pre-trained with tokenizer .*kmer.*'vocab_size': 64"):
        tokenizer_of(RECIPE, other, nothing)
    plain = dataclasses.replace(RECIPE, tokenizer=Tokenizer())
    ours = checkpoint(tmp_path / "2", learned, 6)
    mesh = make_mesh(devices=jax.devices()[:1])
    run = Execution(dtype="float32", attention="reference", unroll=True)
    with pytest.raises(UserError, match="was pre-trained with tokenizer") as raised:
        gpt_member(plain, mesh, run, ours, {"name": "nucleotide"})
    assert "merges" not in str(raised.value)
