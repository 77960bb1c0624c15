"""Are long sequences, which lie on the disk, scored as those in memory, and in constant memory?"""

import copy
import pathlib
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipeline import spooling
from data_pipeline.parsing import Block
from data_pipeline.reading import read_blocks
from data_pipeline.spooling import Letters, OnDisk, Spooled, spooled
from dnallm_jax.scoring import formats, shares
from dnallm_jax.scoring import scorer as scoring
from dnallm_jax.scoring.batch import Targets, score_to_files
from dnallm_jax.scoring.formats import choose_format
from dnallm_jax.scoring.joint import JointScorer
from dnallm_jax.scoring.output import Calls, score_part
from dnallm_jax.scoring.parts import cut
from dnallm_jax.scoring.progress import Progress
from dnallm_jax.scoring.scorer import Scorer
from dnallm_jax.scoring.shares import WHOLE, Share
from tests.dnallm_jax.scoring.standin import Detector
from tests.dnallm_jax.scoring.test_regions import CHROMOSOME, HOST, LikesAT
from tests.dnallm_jax.scoring.test_scorer import SEQUENCES, make

PROVENANCE = {"version": "1", "bundle": "0" * 64, "threshold": 0.5, "prevalence": 0.5}
PROVENANCE |= {"false_positive_rate": None, "min_length": 0, "command": "score"}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return make()


def on_disk(sequences: list[bytes]) -> list[Letters]:
    """The sequences, each on the disk (but for what has no bases)."""
    blocks = (Block(str(n), "", "", False, 1, 0, s, True) for n, s in enumerate(sequences))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spooling, "HELD", 0)
        return [record.bases for record in spooled(blocks)]


def test_scores_are_those_of_letters_in_memory(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = on_disk(SEQUENCES)
    assert all(isinstance(sequence, OnDisk) for sequence in long)
    assert list(scorer.score(long)) == list(scorer.score(SEQUENCES))
    joint = JointScorer({"one": scorer, "two": scorer})
    assert list(joint.score(long)) == list(joint.score(SEQUENCES))
    # So are embeddings, whose sums do not depend on which windows are read together.
    expected = [vector.tobytes() for vector in scorer.embed(SEQUENCES)]
    assert [vector.tobytes() for vector in scorer.embed(long)] == expected
    (whole,) = scorer.embed([SEQUENCES[-3]])
    monkeypatch.setattr(scoring, "_GROUP_BASES", WINDOW // 100)
    (in_pieces,) = scorer.embed([SEQUENCES[-3]])
    np.testing.assert_allclose(in_pieces, whole, atol=1e-6)  # of batches that are filled otherwise


def files(folder: pathlib.Path, source: pathlib.Path, *processes: Share) -> dict[str, bytes]:
    """What a run writes that scores a file with a detector that likes A and T."""
    detector = Detector()
    detector.scorer = LikesAT()
    for share in processes:
        score_to_files(
            detector,
            Calls(0.6),
            spooled(read_blocks([str(source)], strict=False)),
            Targets(
                str(folder / "scores.tsv"),
                choose_format("scores.tsv"),
                fasta=str(folder / "viral.fa"),
                regions=str(folder / "where.bed"),
            ),
            Progress([], quiet=True),
            provenance=PROVENANCE,
            identity={},
            resume=False,
            share=share,
        )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_files_are_those_of_letters_in_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "some.fa"
    viral = b"AATTG" * 4_001
    sequences = [b"AT" * 9, CHROMOSOME, viral, b"", HOST[:9_000], b"AAT" * 3_000]
    source.write_bytes(b"".join(b">r%d x\n%s\n" % pair for pair in enumerate(sequences)))
    expected = files(tmp_path / "held", source, WHOLE)
    assert viral in expected["viral.fa"].replace(b"\n", b"")
    assert b"r1\t" in expected["where.bed"]
    for module, name, small in [
        (spooling, "HELD", 100), (formats, "_LINES", 2), (shares, "_BLOCK", 999),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, small)
    assert files(tmp_path / "long", source, WHOLE) == expected
    assert files(tmp_path / "shared", source, Share(0, 2), Share(1, 2)) == expected
    # The planted fault: a piece that is no whole number of lines.
    monkeypatch.setattr(formats, "pieces", lambda letters, size: spooling.pieces(letters, 99))
    assert files(tmp_path / "faulty", source, WHOLE) != expected


# --- memory ---------------------------------------------------------------------------------------

WINDOW, BLOCK = 10_000, 100_000


def chromosome(blocks: int) -> Iterator[Spooled]:
    """One record of so many times BLOCK bases, read block by block."""
    return spooled(
        Block("c", "", "", False, 1, n * BLOCK, bytes(BLOCK).replace(b"\0", b"A"), n + 1 == blocks)
        for n in range(blocks)
    )


def growth(detector: Detector) -> float:
    """Bytes that each further base of one sequence takes, from 4 million to 16 million."""
    peaks = []
    for blocks in (40, 160):
        tracemalloc.start()
        for part in cut(chromosome(blocks)):
            (result,) = score_part(detector, Calls(0.5), part)
            assert result.is_virus
            assert result.length == blocks * BLOCK
            for written in formats.called_viral(part.records, [result]):
                assert len(written) < 2_000_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (120 * BLOCK)


def test_memory_does_not_grow_with_a_sequence(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "HELD", 1_000_000)
    monkeypatch.setattr(scoring, "_GROUP_BASES", 1_000_000)
    without_network = copy.copy(scorer)
    without_network._window = WINDOW
    without_network._batches = SimpleNamespace(  # type: ignore[assignment]  # all that is called
        logits=None, values=lambda network, params, pieces: np.ones((len(pieces), 2), np.float32)
    )
    detector = Detector()
    detector.scorer = without_network  # type: ignore[assignment]  # a stand-in, too
    assert growth(detector) < 0.1  # some hundred bytes a window
    # The planted fault: every record is held whole.
    monkeypatch.setattr(spooling, "HELD", 1 << 40)
    assert growth(detector) > 0.9
