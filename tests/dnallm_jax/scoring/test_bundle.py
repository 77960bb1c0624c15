"""Is a detector on disk the detector that was written, and is everything else refused by name?"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from data_pipeline.contigs import Contigs, Test, Train, Validation
from data_pipeline.errors import UserError
from data_pipeline.tokenizers import reverse_complement
from data_pipeline.views import Composition
from dnallm_jax.evaluation.calibration import Calibration
from dnallm_jax.evaluation.joining import Joining
from dnallm_jax.model.composition import CompositionSpec
from dnallm_jax.model.network import composition_network
from dnallm_jax.parallel.mesh import make_mesh
from dnallm_jax.scoring import batches, controls
from dnallm_jax.scoring.bundle import (
    Detector,
    Predictions,
    Reading,
    make_scorer,
    note_opened,
    open_bundle,
    predict,
    write_bundle,
)
from dnallm_jax.scoring.controls import shuffled_controls
from dnallm_jax.training.checkpoints import save_bundle
from tests.dnallm_jax import tiny
from tests.dnallm_jax.bundles import (
    PROVENANCE,
    one_window_each,
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


@pytest.fixture(scope="module", autouse=True)
def _few_lengths_to_compile() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_ROW_STEP", 1.0)
        yield


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
    assert found == [dataclasses.replace(s, members=(s,)) for s in expected]
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
        Predictions(Validation, validation_table(12)),
        false_positive_rate=0.01,
        provenance=PROVENANCE,
    )
    found = opened(tmp_path / "bundle")
    assert found.threshold == 0.5
    assert found.manifest["threshold_false_positive_rate"] is None


@pytest.mark.parametrize("split", [Train, Test])
def test_nothing_is_chosen_by_another_split(
    split: type[Train | Test], params_and_folder: tuple[dict, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """The type checker says so first: this is the planted fault."""
    with pytest.raises(TypeError, match=f"chosen by Validation, not by {split.__name__}"):
        write_bundle(
            tmp_path / "bundle",
            {"gpt": params_and_folder[0]},
            {"gpt": reading()},
            Predictions(split, validation_table()),  # type: ignore[arg-type]
            false_positive_rate=0.01,
            provenance=PROVENANCE,
        )
    assert not (tmp_path / "bundle").exists()


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
    table = predict(detector.scorer, contigs.source("validation")).table
    source = contigs.source("validation")
    records = [source[number] for number in range(len(source))]
    assert table["sequence_id"].tolist() == [record["id"].decode() for record in records]
    assert table["label"].tolist() == [record["label"] for record in records]
    assert table["length"].tolist() == [len(record["bases"]) for record in records]
    expected = detector.scorer.score(record["bases"].tobytes() for record in records)
    assert table["logit"].tolist() == [scored.logit for scored in expected]
    assert set(table["group"]) == {"g0", "g1"}
    bases = [record["bases"].tobytes() for record in records]
    shares = [(b.count(b"G") + b.count(b"C")) / len(b) for b in bases]
    assert table["gc"] == pytest.approx(shares)
    found = detector.predict(source)
    assert found.split is Validation
    expected = detector.calibration.apply(table["logit"], table["length"])
    assert found.table["score"].tolist() == expected.tolist()


def test_contigs_of_unknown_cluster_are_not_relatives(detector: Detector, contigs: Contigs) -> None:
    table = predict(detector.scorer, contigs.source("validation")).table
    own = table["cluster"] == table["sequence_id"]
    assert own.sum() == 8
    assert "-" not in table["cluster"]
    assert len(set(table["cluster"][~own])) == 6


def test_a_limited_prediction_sees_both_classes(detector: Detector, contigs: Contigs) -> None:
    table = predict(detector.scorer, contigs.source("validation"), 6).table
    assert table["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(table["sequence_id"])) == 6
    assert len(predict(detector.scorer, contigs.source("validation"), 1_000).table["label"]) == 24


# --- what was looked at ---------------------------------------------------------------------------


def test_that_test_contigs_were_opened_stays_in_the_bundle(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "bundle")
    for data, auroc in (("a" * 64, 0.9), ("b" * 64, 0.8)):
        note_opened(copy, "test", data, {"auroc": {"value": auroc}})
    opened_for = opened(copy).manifest["opened"]
    assert [(e["split"], e["data"], e["auroc"]) for e in opened_for] == [
        ("test", "a" * 64, 0.9),
        ("test", "b" * 64, 0.8),
    ]
    before = opened(folder)
    assert "opened" not in before.manifest
    assert opened(copy).threshold == before.threshold


# --- several members ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_members(
    params_and_folder: tuple[dict, pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A bundle of the random GPT and of random networks on composition."""
    spec = CompositionSpec(features=Composition.features, widths=(4,), networks=2)
    network = composition_network(spec)
    rng = np.random.default_rng(0)
    drawn = {
        name: jax.numpy.asarray(rng.normal(0, 0.3, leaf.shape), jax.numpy.float32)
        for name, leaf in jax.eval_shape(lambda: network.initialise(0)).items()
    }
    drawn["feature_spread"] = abs(drawn["feature_spread"]) + 0.5
    table = validation_table()
    table["logit_composition"] = -0.2 * table["logit_gpt"] + rng.normal(2.0 * table["label"], 2.0)
    table["windows_composition"] = one_window_each(table["logit_composition"])
    folder = tmp_path_factory.mktemp("two") / "bundle"
    write_bundle(
        folder,
        {"composition": drawn, "gpt": params_and_folder[0]},
        {
            "composition": Reading(network.description, None, Composition.name, 500),
            "gpt": reading(),
        },
        Predictions(Validation, table),
        false_positive_rate=0.05,
        provenance=PROVENANCE,
    )
    return folder


def test_members_are_joined_by_the_length_of_the_sequence(
    two_members: pathlib.Path, detector: Detector
) -> None:
    both = opened(two_members)
    joint = Joining.from_dict(both.manifest["joining"])
    alone = [scored.logit for scored in detector.scorer.score(SEQUENCES)]
    found = list(both.scorer.score(SEQUENCES))
    assert both.scorer.names == ("composition", "gpt")
    members = np.array([[each.logit for each in scored.members] for scored in found])
    np.testing.assert_allclose(members[:, 1], alone, atol=1e-5)
    lengths = np.array([len(sequence) for sequence in SEQUENCES])
    np.testing.assert_allclose([s.logit for s in found], joint.apply(members, lengths))
    # 650 bases are three windows of the GPT's, and two of the other's.
    assert [scored.windows for scored in found] == [1, 1, 1, 3]
    flipped = both.scorer.score([reverse_complement(sequence) for sequence in SEQUENCES])
    np.testing.assert_allclose([s.logit for s in found], [s.logit for s in flipped], atol=1e-4)


def test_members_have_columns_of_their_own(two_members: pathlib.Path, contigs: Contigs) -> None:
    scorer = opened(two_members).scorer
    table = predict(scorer, contigs.source("validation")).table
    source = contigs.source("validation")
    scored = list(scorer.score(source[n]["bases"].tobytes() for n in range(len(source))))
    for place, name in enumerate(("composition", "gpt")):
        own = [s.members[place] for s in scored]
        assert table[f"logit_{name}"].tolist() == [s.logit for s in own]
        read = table[f"windows_{name}"]
        assert [tuple(windows.logits) for windows in read] == [s.by_window for s in own]


def test_thresholds_for_the_rates_that_validation_supports(folder: pathlib.Path) -> None:
    thresholds = opened(folder).manifest["thresholds"]  # of 200 contigs that are not viral
    assert set(thresholds) == {"0.005", "0.01", "0.02", "0.05", "0.1"}
    assert list(thresholds.values()) == sorted(thresholds.values(), reverse=True)


def test_controls_are_shuffled_contigs_of_each_class(
    detector: Detector, contigs: Contigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "LENGTHS", (200, 300))
    held_out = contigs.source("validation")
    called_all = dataclasses.replace(detector, threshold=0.0)
    assert {
        name: (rate["called"], rate["of"])
        for name, rate in shuffled_controls(called_all, held_out, count=5).items()
    } == {"viral": (5, 5), "not viral": (5, 5)}
    called_none = dataclasses.replace(detector, threshold=1.1)
    rates = shuffled_controls(called_none, held_out, count=5)
    assert [rate["value"] for rate in rates.values()] == [0, 0]
