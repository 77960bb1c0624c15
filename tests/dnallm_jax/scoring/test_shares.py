"""Do many processes make the files of one, whoever ends last, and nothing of what does not fit?"""

import os
import pathlib
from collections.abc import Iterable

import pytest

from data_pipeline.errors import UserError
from data_pipeline.spooling import Spooled
from dnallm_jax.scoring import batch, parts
from dnallm_jax.scoring.batch import Targets, is_made, score_to_files
from dnallm_jax.scoring.formats import choose_format
from dnallm_jax.scoring.output import Calls
from dnallm_jax.scoring.progress import Progress
from dnallm_jax.scoring.shares import WHOLE, Share
from dnallm_jax.scoring.tally import Tally
from tests.dnallm_jax.scoring.standin import Detector, record

RECORDS = [
    record(f"r{number % 17}", b"ACGT" * (number % 9) + b"A" * (number % 7), "of a sample")
    for number in range(40)
]
PROVENANCE = {"version": "1", "bundle": "0" * 64, "threshold": 0.5, "prevalence": 0.5}
PROVENANCE |= {"false_positive_rate": None, "min_length": 0, "command": "score"}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FIRST", 300)
    monkeypatch.setattr(parts, "LARGEST", 400)
    monkeypatch.setattr(batch, "COMMIT_EVERY", 0.0)
    assert len(list(parts.cut(RECORDS))) > 6


def targets(folder: pathlib.Path, name: str = "scores.tsv") -> Targets:
    return Targets(
        str(folder / name),
        choose_format(name),
        fasta=str(folder / "viral.fa.gz"),
        regions=str(folder / "where.bed"),
        summary=str(folder / "summary.html"),
    )


def score(
    where: Targets,
    share: Share = WHOLE,
    records: Iterable[Spooled] = RECORDS,
    *,
    resume: bool = False,
    provenance: dict[str, object] = PROVENANCE,
    **identity: object,
) -> tuple[Tally, list[int]]:
    return score_to_files(
        Detector(),
        Calls(0.5),
        records,
        where,
        Progress([], quiet=True),
        provenance=provenance,
        identity=identity,
        resume=resume,
        share=share,
    )


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("scores.tsv", 2),
        ("scores.jsonl.gz", 3),
        ("scores.parquet", 12),
    ],  # the last: more than parts
)
def test_many_processes_make_the_files_of_one(
    tmp_path: pathlib.Path, name: str, processes: int
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    whole, awaited = score(targets(alone, name))
    assert awaited == []
    for number in reversed(range(processes)):
        assert not (shared / name).exists()
        tally, awaited = score(targets(shared, name), Share(number, processes), device=number)
        assert awaited == list(range(number))
    assert content(shared) == content(alone)
    assert tally.counts == whole.counts


def test_a_process_that_is_started_again_when_all_is_done(tmp_path: pathlib.Path) -> None:
    where, given = targets(tmp_path / "out"), tmp_path / "given.fa"
    given.touch()
    assert not is_made(where, Share(0, 2), PROVENANCE, [str(given)])
    for number in range(2):
        score(where, Share(number, 2))
    made = content(tmp_path / "out")
    assert is_made(where, Share(0, 2), PROVENANCE, [str(given), "-"])
    assert not is_made(where, Share(0, 2), {**PROVENANCE, "threshold": 0.4}, [str(given)])
    later = pathlib.Path(where.rows).stat().st_mtime + 9
    os.utime(given, (later, later))
    assert not is_made(where, Share(0, 2), PROVENANCE, [str(given)])
    # Without --resume it begins anew, and the table stays until the others have done so, too.
    assert score(where, Share(0, 2))[1] == [1]
    assert {name: made[name] for name in made} == {
        name: data for name, data in content(tmp_path / "out").items() if name in made
    }


def test_parquet_tells_that_it_is_made(tmp_path: pathlib.Path) -> None:
    where = targets(tmp_path, "scores.parquet")
    for number in range(2):
        score(where, Share(number, 2))
    assert is_made(where, Share(1, 2), PROVENANCE, [])
    assert not is_made(where, Share(1, 2), {**PROVENANCE, "command": "other"}, [])
    pathlib.Path(where.rows).write_text("no Parquet")
    assert not is_made(where, Share(1, 2), PROVENANCE, [])


@pytest.fixture
def first(tmp_path: pathlib.Path) -> Targets:
    """What process 0 of two leaves when it is done."""
    assert score(targets(tmp_path), Share(0, 2))[1] == [1]
    return targets(tmp_path)


def test_a_share_of_other_inputs_is_refused(first: Targets) -> None:
    with pytest.raises(UserError, match=r"0-of-2\.journal: process 0 had another inputs; start it"):
        score(first, Share(1, 2), [*RECORDS[:-1], record("r5", b"ACGA")])
    assert not os.path.exists(first.rows)
    score(first, Share(1, 2))
    assert os.path.exists(first.rows)


def test_a_share_with_other_options_is_refused(first: Targets) -> None:
    with pytest.raises(UserError, match="process 0 had another threshold; start it again"):
        score(first, Share(1, 2), provenance={**PROVENANCE, "threshold": 0.4})


@pytest.mark.parametrize("name", ["viral.fa.gz", "scores.tsv.parts", "scores.tsv"])
def test_a_share_that_has_changed_is_refused(
    first: Targets, tmp_path: pathlib.Path, name: str
) -> None:
    path = tmp_path / f"{name}.0-of-2.partial"
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(UserError, match="is missing or has changed since it was complete"):
        score(first, Share(1, 2))
    path.unlink()
    with pytest.raises(UserError, match="is missing or has changed since it was complete"):
        score(first, Share(1, 2), resume=True)
    assert not os.path.exists(first.rows)
    path.write_bytes(data)
    score(first, Share(1, 2), resume=True)
    assert os.path.exists(first.rows)


@pytest.mark.parametrize(("number", "count"), [(2, 2), (-1, 2), (0, 0), (1, 1), (0, -1)])
def test_numbers_that_do_not_fit_are_refused(number: int, count: int) -> None:
    with pytest.raises(UserError, match=f"--processes={count} and --process={number}: give both"):
        Share(number, count)


def test_shares_need_a_file() -> None:
    with pytest.raises(UserError, match=r"^--processes needs rows in a file"):
        Targets("-", choose_format("-")).check([], resume=False, processes=2)
