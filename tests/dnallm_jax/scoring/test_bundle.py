"""Is a detector on disk the detector that was written, and is everything else refused by name?"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from data_pipeline.contigs import Contigs
from data_pipeline.errors import UserError
from dnallm_jax.evaluation.calibration import Calibration
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.scoring.bundle import Detector, make_scorer, open_bundle, predict, write_bundle
from dnallm_jax.training.checkpoints import save_bundle
from tests.dnallm_jax import tiny
from tests.dnallm_jax.bundles import (
    PROVENANCE,
    random_bases,
    reading,
    validation_table,
    write_contigs,
    write_tiny_bundle,
)

RUN = dataclasses.replace(tiny.RUN, attention="reference")  # which compiles faster
SEQUENCES = [random_bases(length, 1) for length in (80, 299, 300, 650)]


def opened(folder: pathlib.Path, devices: int = 1) -> Detector:
    mesh = make_mesh(devices=jax.devices()[:devices])
    return open_bundle(folder, RUN, mesh, batch_tokens=2_048)


@pytest.fixture(scope="module")
def params_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, pathlib.Path]:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    return write_tiny_bundle(folder), folder


@pytest.fixture(scope="module")
def folder(params_and_folder: tuple[dict, pathlib.Path]) -> pathlib.Path:
    return params_and_folder[1]


@pytest.fixture(scope="module")
def detector(folder: pathlib.Path) -> Detector:
    return opened(folder)


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Contigs:
    return write_contigs(tmp_path_factory.mktemp("contigs"))


def test_what_is_opened_scores_as_what_was_written(
    params_and_folder: tuple[dict, pathlib.Path], detector: Detector
) -> None:
    params, folder = params_and_folder
    one_device = make_mesh(devices=jax.devices()[:1])
    written = make_scorer(params, reading(), RUN, one_device, batch_tokens=2_048)
    found = list(detector.scorer.score(SEQUENCES))
    expected = list(written.score(SEQUENCES))
    assert found == [dataclasses.replace(s, members=(s.logit,)) for s in expected]
    sharded = opened(folder, devices=8).scorer
    spread = [scored.logit for scored in sharded.score(SEQUENCES)]
    np.testing.assert_allclose([scored.logit for scored in found], spread, atol=1e-5)


def test_calibration_and_threshold_come_back(detector: Detector, folder: pathlib.Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    table = validation_table()
    keep = np.isfinite(table["logit_gpt"])
    table = {name: column[keep] for name, column in table.items()}
    assert detector.calibration == Calibration.from_dict(manifest["calibration"])
    assert detector.calibration.records == keep.sum()
    assert detector.threshold == manifest["threshold"]
    scores = detector.calibration.apply(table["logit_gpt"], table["length"])
    called = scores[table["label"] == 0] >= detector.threshold
    assert 0.03 < called.mean() <= 0.05 == manifest["threshold_false_positive_rate"]
    (scored,) = detector.scorer.score(SEQUENCES[:1])
    assert detector.probability(scored, 80) == pytest.approx(
        detector.calibration.apply(np.array([scored.logit]), np.array([80]))[0]
    )


def test_a_bundle_has_no_language_model_head_and_explains_itself(
    detector: Detector, folder: pathlib.Path
) -> None:
    manifest = detector.manifest
    names = set(manifest["parameters"])
    assert "gpt/backbone/blocks/wq" in names
    assert {name for name in names if not name.startswith("gpt/backbone/")} == {
        *("gpt/head_bias", "gpt/head_kernel", "gpt/head_norm")
    }
    assert manifest["language_model_head"] is False
    assert not any(
        b"lm_head" in path.read_bytes() for path in (folder / "arrays").rglob("*") if path.is_file()
    )
    leaves = jax.tree.leaves(detector.scorer._members["gpt"]._params)
    assert sorted(map(list, (leaf.shape for leaf in leaves))) == sorted(
        manifest["parameters"].values()
    )
    assert manifest["labels"] == ["not virus", "virus"]
    assert manifest["validation"]["auroc"]["value"] > 0.7
    assert {name: manifest[name] for name in PROVENANCE} == PROVENANCE


def test_few_records_that_are_not_viral_give_the_middle_as_threshold(
    params_and_folder: tuple[dict, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    write_bundle(
        tmp_path / "bundle",
        {"gpt": params_and_folder[0]},
        {"gpt": reading()},
        validation_table(12),
        false_positive_rate=0.01,
        provenance=PROVENANCE,
    )
    found = opened(tmp_path / "bundle")
    assert found.threshold == 0.5
    assert found.manifest["threshold_false_positive_rate"] is None


# --- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def copied(folder: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A copy that a test may damage; it opens before."""
    copy = shutil.copytree(folder, tmp_path / "bundle")
    opened(copy)
    yield copy
    with pytest.raises(UserError) as error:
        opened(copy)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_found(copied: pathlib.Path) -> None:
    largest = max(copied.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_missing_file_is_found(copied: pathlib.Path) -> None:
    next(path for path in (copied / "arrays").rglob("*") if path.is_file()).unlink()


def test_a_missing_manifest_is_found(copied: pathlib.Path) -> None:
    (copied / "manifest.json").unlink()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", None],
    ids=["empty", "cut", "list", "nothing", "binary", "edited"],
)
def test_a_damaged_manifest_is_found(copied: pathlib.Path, content: bytes | None) -> None:
    manifest = copied / "manifest.json"
    if content is None:  # a threshold of somebody's own
        content = manifest.read_bytes().replace(b'"threshold": 0.', b'"threshold": 1.')
        assert content != manifest.read_bytes()
    manifest.write_bytes(content)


def test_folders_that_are_no_bundle_are_refused(
    params_and_folder: tuple[dict, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match="no such bundle; run finetune"):
        opened(tmp_path / "nothing")
    (tmp_path / "pretrain" / "checkpoints" / "20").mkdir(parents=True)
    with pytest.raises(UserError, match=r"pretrain is not a whole bundle: .* has no manifest.json"):
        opened(tmp_path / "pretrain")
    for kind, number in (("pretrain", 1), ("bundle", 999)):
        other = tmp_path / f"{kind}{number}"
        save_bundle(other, params_and_folder[0], {"kind": kind, "format": number})
        with pytest.raises(UserError, match=f"is a {kind} of format {number}, not a bundle of"):
            opened(other)


def test_a_network_that_does_not_divide_over_the_devices_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"model.width = 32 does not divide over the 3 parts"):
        opened(folder, devices=3)
    everywhere = make_mesh(data=-1, fsdp=1, devices=jax.devices()[:3])
    scorer = open_bundle(folder, RUN, everywhere, batch_tokens=2_048).scorer
    assert len(list(scorer.score(SEQUENCES[:1]))) == 1


def test_frames_are_not_read_at_one_end() -> None:
    frames, bases = reading("frames"), reading()
    last = dataclasses.replace(frames, network={**frames.network, "pooling": "last"})
    with pytest.raises(UserError, match=r"set finetune.pooling to mean"):
        make_scorer(None, last, RUN, make_mesh(), batch_tokens=2_048)
    # Both strands are read and averaged here, so an end is as good as the other.
    last = dataclasses.replace(bases, network={**bases.network, "pooling": "last"})
    make_scorer(None, last, RUN, make_mesh(), batch_tokens=2_048)


# --- predictions ----------------------------------------------------------------------------------


def test_predictions_are_one_row_a_contig(detector: Detector, contigs: Contigs) -> None:
    table = predict(detector.scorer, contigs, "validation")
    source = contigs.source("validation")
    records = [source[number] for number in range(len(source))]
    assert table["sequence_id"].tolist() == [record["id"].decode() for record in records]
    assert table["label"].tolist() == [record["label"] for record in records]
    assert table["length"].tolist() == [len(record["bases"]) for record in records]
    expected = detector.scorer.score(record["bases"].tobytes() for record in records)
    assert table["logit"].tolist() == [scored.logit for scored in expected]
    assert set(table["group"]) == {"g0", "g1"}


def test_contigs_of_unknown_cluster_are_not_relatives(detector: Detector, contigs: Contigs) -> None:
    table = predict(detector.scorer, contigs, "validation")
    own = table["cluster"] == table["sequence_id"]
    assert own.sum() == 8
    assert "-" not in table["cluster"]
    assert len(set(table["cluster"][~own])) == 6


def test_a_limited_prediction_sees_both_classes(detector: Detector, contigs: Contigs) -> None:
    table = predict(detector.scorer, contigs, "validation", 6)
    assert table["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(table["sequence_id"])) == 6
    assert len(predict(detector.scorer, contigs, "validation", 1_000)["label"]) == 24
