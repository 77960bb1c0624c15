"""Does the page count what the rows say, and tell what so many calls are worth?"""

import html
import json
import re

import pytest

from dnallm_jax.scoring.output import Result
from dnallm_jax.scoring.summary import STATUSES, summary_page
from dnallm_jax.scoring.tally import BINS, LENGTHS, Tally

PROVENANCE = {
    **{"program": "dnallm_jax", "version": "1", "bundle": "0" * 64, "threshold": 0.9},
    **{"false_positive_rate": 0.01, "prevalence": 0.5, "min_length": 0},
    "command": "python main.py score '<a>.fa'",
}


def row(length: int, score: float | None, status: str = "ok") -> Result:
    called = None if score is None else score >= 0.9
    return Result("x", length, score, called, 1, 1.0, 0.0, status)


ROWS = [row(60, 0.95, "short"), row(300, 0.0), row(2_999, 0.9), row(3_000, 1.0)]
ROWS += [row(250_000_000, 0.2, "duplicate_id"), row(0, None, "empty"), row(50, None, "ambiguous")]


def tallied(rows: list[Result]) -> Tally:
    tally = Tally()
    tally.add(rows)
    return tally


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())


def test_counts() -> None:
    tally = tallied(ROWS)
    counts = tally.counts
    assert counts["records"] == [3, 0, 1, 1, 1, 0, 1]
    assert counts["scored"] == [1, 0, 1, 1, 1, 0, 1]
    assert counts["viral"] == [1, 0, 0, 1, 1, 0, 0]
    assert [tally.total(name) for name in ("records", "scored", "viral")] == [7, 5, 3]
    assert tally.total("viral_bases") == 60 + 2_999 + 3_000
    assert counts["status"] == {
        "ok": 3, "short": 1, "ambiguous": 1, "empty": 1, "duplicate_id": 1
    }  # fmt: skip
    assert [sum(bins) for bins in counts["scores"]] == counts["scored"]
    assert counts["scores"][4][BINS - 1] == 1
    assert list(counts["status"]) == ["ok", "short", "ambiguous", "empty", "duplicate_id"]
    assert set(counts["status"]) == set(STATUSES)
    assert len(LENGTHS) == len(counts["records"])


def test_counts_that_were_taken_up_go_on() -> None:
    first = tallied(ROWS[:3])
    later = Tally(json.loads(json.dumps(first.counts)))
    later.add(ROWS[3:])
    assert later.counts == tallied(ROWS).counts


def test_the_page() -> None:
    page = summary_page(tallied(ROWS), PROVENANCE)
    assert page == summary_page(tallied(ROWS), PROVENANCE)
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert all(link.startswith("#") for link in re.findall('(?:src|href)="([^"]*)', page))
    text = text_of(page)
    assert "3 of 5 scored sequences are called viral" in text
    assert "of 5 sequences without a virus among them about 0 would be" in text
    assert "python main.py score '<a>.fa'" in text
    assert "1–3 kb 1 2,999 1 1 2,999" in text


@pytest.mark.parametrize(("viral", "warned"), [(0, True), (14, True), (30, False)])
def test_calls_that_are_no_sign_of_viruses(viral: int, warned: bool) -> None:
    rows = [row(500, 0.95)] * viral + [row(500, 0.1)] * (1_000 - viral)
    text = text_of(summary_page(tallied(rows), PROVENANCE))
    assert "of 1,000 sequences without a virus among them about 10 would be" in text
    assert ("no sign of viruses" in text) == warned


def test_a_threshold_of_ones_own_promises_nothing() -> None:
    text = text_of(summary_page(tallied(ROWS), {**PROVENANCE, "false_positive_rate": None}))
    assert "its false positives are unknown" in text


def test_a_page_about_nothing() -> None:
    page = summary_page(tallied([row(0, None, "empty")]), PROVENANCE)
    assert "0 of 0 scored sequences" in text_of(page)
