"""Does inspecting show what was prepared, as it was prepared?"""

import pathlib

import numpy as np
import pytest

from data_pipeline import corpus, inspecting
from data_pipeline.contigs import ContigsOptions, build_contigs
from data_pipeline.corpus import CorpusOptions, build_corpus
from data_pipeline.errors import UserError
from dnallm_jax.commands import prepare


def write(path: pathlib.Path, lengths: list[int], seed: int) -> str:
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for i, length in enumerate(lengths):
            bases = "".join(rng.choice(list("ACGT"), length))
            file.write(f">{path.stem}{i} group=g{i % 2} label={i % 2} licence=CC0\n{bases}\n")
    return str(path)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("work")
    train = write(folder / "train.fa", [90, 700, 1_000, 40_000, *[30] * 6], 1)
    (folder / "train.fa.address").write_text("https://host/train.fa")
    fresh = write(folder / "fresh.fa", [200, 300], 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "MARKOV_ORDERS", range(2))
        build_corpus(CorpusOptions((train,), (fresh,)), str(folder / "data" / "corpus"))
    build_contigs(ContigsOptions((train,), (fresh,)), str(folder / "data" / "contigs"))
    return folder


def test_histogram() -> None:
    edges, counts = inspecting.histogram(np.array([90, 100, 700, 999, 1_000, 1_999]))
    assert edges.tolist() == [50, 100, 200, 500, 1_000, 2_000]
    assert counts.tolist() == [1, 1, 0, 2, 2]
    edges, counts = inspecting.histogram(np.array([1]))
    assert (edges.tolist(), counts.tolist()) == ([1, 2], [1])
    rng = np.random.default_rng(0)
    for _ in range(50):  # as numpy counts
        lengths = rng.integers(1, 10 ** rng.integers(1, 10), 100)
        edges, counts = inspecting.histogram(lengths)
        assert counts.tolist() == np.histogram(lengths, edges)[0].tolist()
        assert counts[0] > 0 < counts[-1]


def test_the_command_shows_both(workdir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare._inspect(workdir)
    text = capsys.readouterr().out
    manifests = [corpus.open_corpus(str(workdir / "data" / "corpus")).manifest]
    for manifest in manifests:
        assert manifest["fingerprint"] in text
        assert manifest["inputs"]["train"][0]["sha256"] in text
    assert "from https://host/train.fa" in text
    assert "licence     CC0: 12 records" in text  # of the corpus; contigs keep no headers
    assert text.count("licence") == 1
    bases = (workdir / "train.fa").read_text().split("\n")[1]
    assert f"train0 (not, g0): {bases[:60]}... (90 bases)" in text
    assert "row 0: train3 from 0, 1,024 tokens" in text
    assert "20,000 - 49,999" in text
    for kind in ("corpus", "contigs"):
        assert (workdir / "data" / kind / f"{kind}.svg").read_text().startswith("<?xml")
        assert f"{kind}.svg" in text


def test_licences_of_a_table(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.fa"
    path.write_text(">a\nACGT\n>b\nACCC\n")
    table = path.with_suffix(".tsv")
    table.write_text("id\tlabel\tlicense\na\t1\tMIT\nb\t0\tMIT\n")
    found = build_contigs(ContigsOptions((str(path),)), str(tmp_path / "d"))
    assert inspecting.licences(found) == {"MIT": 2}
    table.unlink()
    assert inspecting.licences(found) == {}


def test_nothing_prepared(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="nothing has been prepared here"):
        prepare._inspect(tmp_path)
