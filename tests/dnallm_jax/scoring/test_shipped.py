"""Is the detector that comes with the package whole, small, without a language-model head?"""

import pathlib

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.tokenizers import reverse_complement
from dnallm_jax import Detector
from dnallm_jax.scoring import bundle
from tests.dnallm_jax.bundles import random_bases

MOST_BYTES = 20_000_000
SEQUENCES = [random_bases(length, 7) for length in (150, 300, 1_000, 2_500)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load()


def test_it_is_small_and_has_no_language_model_head(detector: Detector) -> None:
    files = [path for path in bundle.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert not any(
        b"lm_head" in path.read_bytes() for path in files if path.name != "manifest.json"
    )
    manifest = detector.bundle.manifest
    assert manifest["language_model_head"] is False
    assert not any("lm_head" in name for name in manifest["parameters"])


def test_it_says_where_it_comes_from(detector: Detector) -> None:
    manifest = detector.bundle.manifest
    assert manifest["backbone"]["kind"] == "pretrain"
    assert manifest["config"]["name"] == "detector"
    assert manifest["config"]["corpus"]["exclude"] == ["group=euk-virus"]
    assert manifest["validation"]["auroc"]["value"] > 0.8
    assert manifest["threshold"] == manifest["thresholds"]["0.01"]


def test_detectors_have_names(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle.locate("default") == bundle.SHIPPED
    with pytest.raises(UserError, match=r"^--bundle=accurat: no such folder.*there is .*default"):
        bundle.locate("accurat")
    assert bundle.locate("runs/none") == pathlib.Path("runs/none")  # told of when it is opened
    (tmp_path / "default").mkdir()
    assert bundle.locate("default") == pathlib.Path("default")


def test_it_scores_both_strands_alike(detector: Detector) -> None:
    forward = [result.virus_score for result in detector.score(dict(enumerate_ids(SEQUENCES)))]
    flipped = [reverse_complement(sequence) for sequence in SEQUENCES]
    backward = [result.virus_score for result in detector.score(dict(enumerate_ids(flipped)))]
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(forward, backward, atol=1e-5)


def enumerate_ids(sequences: list[bytes]) -> list[tuple[str, bytes]]:
    return [(f"contig_{number}", sequence) for number, sequence in enumerate(sequences)]


def test_random_bases_are_not_called_viral(detector: Detector) -> None:
    results = detector.score(enumerate_ids([random_bases(3_000, seed) for seed in range(8)]))
    assert sum(bool(result.is_virus) for result in results) <= 2
