"""Is what is written read back, and anything else refused? Would a fault be noticed?"""

import pathlib
import random
import types
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_reading
from data_pipeline import opening, parsing, reading
from tests.data_pipeline.broken_packages import PACKERS

QUICK = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Pairs = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


_names = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12
).filter(str.isprintable)
_bases = st.text("ACGTRYSWKMBDHVNacgtn", max_size=90).map(str.encode)
_records = st.lists(st.tuples(_names, _bases), min_size=1, max_size=6)
_packers = st.sampled_from(list(PACKERS.values()))


@st.composite
def _fasta(draw: st.DrawFn) -> tuple[Pairs, bytes]:
    records = draw(_records)
    width = draw(st.integers(1, 100))
    between = draw(st.sampled_from([b"", b"\n", b" \n", b";note > \n"]))
    behind = draw(st.sampled_from([b"", b" ", b" \t"]))
    rna, gaps = draw(st.booleans()), draw(st.sampled_from([b"", b"-", b".*"]))
    text = between
    for name, bases in records:
        text += b">" + name.encode() + draw(st.sampled_from([b"", b" x", b"\ty=1"])) + b"\n"
        if rna:
            bases = bases.replace(b"T", b"U").replace(b"t", b"u")
        for start in range(0, len(bases), width):
            text += bases[start : start + width] + gaps + behind + b"\n" + between
    text = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text
    text = text[: len(text) - draw(st.integers(0, 1))] if text.endswith(b"\n") else text
    return records, text.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))


@st.composite
def _fastq(draw: st.DrawFn) -> tuple[Pairs, bytes]:
    records = draw(_records)
    text = b""
    for name, bases in records:
        quality = draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
        qualities = (quality.encode() * 91)[: len(bases)]
        again = draw(st.sampled_from([b"", name.encode()]))
        text += b"@%s\n%s\n+%s\n%s\n" % (name.encode(), bases, again, qualities)
    return records, text.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n"])))


@st.composite
def _genbank(draw: st.DrawFn) -> tuple[Pairs, bytes]:
    records = [(f"X{i}.1", bases) for i, (_, bases) in enumerate(draw(_records))]
    text = b""
    for name, bases in records:
        rows = b"".join(
            b"%9d %s\n"
            % (i + 1, b" ".join(bases[i : i + 60][j : j + 10] for j in range(0, 60, 10)))
            for i in range(0, len(bases), 60)
        )
        length = draw(st.sampled_from([b"%d bp" % len(bases), b""]))
        locus = b"LOCUS       %s %s DNA linear\n" % (name.encode(), length)
        text += locus + b"VERSION     %s\nORIGIN\n%s//\n" % (name.encode(), rows)
    records = [(name, bases.upper()) for name, bases in records]  # its lower case means nothing
    return records, text.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))


@given(st.one_of(_fasta(), _fastq(), _genbank()), _packers)
@QUICK
def test_what_is_written_is_read(written: tuple[Pairs, bytes], packer: Callable) -> None:
    records, content = written
    pathlib.Path("x").write_bytes(packer(content))
    found = [(record.id, record.bases) for record in reading.read_records(["x"], strict=False)]
    assert found == records


@given(st.one_of(_fasta(), _fastq(), _genbank()), st.integers(1, 50))
@QUICK
def test_how_the_content_is_cut_into_blocks_does_not_matter(
    written: tuple[Pairs, bytes], step: int
) -> None:
    records, content = written
    content = (content.removeprefix(b"\xef\xbb\xbf") + b"\n") * 3
    cut = [content[:300], *(content[i : i + step] for i in range(300, len(content), step))]
    whole = _joined(reading._parse([content], "x"))
    assert _joined(reading._parse(cut, "x")) == whole == records * 3


def _joined(blocks: Iterator[parsing.Block]) -> Pairs:
    joined: Pairs = []
    for block in blocks:
        if block.start == 0:
            joined.append((block.id, b""))
        name, bases = joined[-1]
        assert (name, len(bases)) == (block.id, block.start)
        joined[-1] = (name, bases + block.bases)
    return joined


@given(
    st.one_of(st.binary(max_size=200), st.text(">@+;\n\r ACGTN-E1\t", max_size=80).map(str.encode))
)
@example(b">")
@example(b"@\n\n+\n")
@example(b"LOCUS ")
@example(b"\x1f\x8b\x08\x04")
@QUICK
def test_anything_else_is_one_mistake(content: bytes) -> None:
    assert fuzz_reading.fault(content, pathlib.Path("x"), random.Random(0))[0] == ""


def test_a_slow_reader_finds_the_same() -> None:
    counts, faults = fuzz_reading.run(1_000, seed=7)
    assert faults == []
    assert counts["read"] > 150
    assert len(counts) > 25


def _cuts_at_nul(
    body: bytes, rows: bytes, source: str, line: int, record: str, clean: Callable = parsing.clean
) -> bytes:
    return clean(body.split(b"\0")[0], rows.split(b"\0")[0], source, line, record)


def _forgets_the_last(texts: Iterator[bytes], source: str, line: int) -> Iterator[parsing.Block]:
    blocks = list(parsing.fasta(texts, source, line))
    return iter(blocks[:-1])


@pytest.mark.parametrize(
    ("module", "name", "planted"),
    [
        (parsing, "clean", _cuts_at_nul),
        (parsing, "clean", lambda body, *rest: body),
        (reading, "fasta", _forgets_the_last),
        (parsing, "_U_TO_T", bytes.maketrans(b"Uu", b"TT")),
        (opening, "_step_gz", None),
    ],
)
def test_the_slow_reader_notices_planted_faults(
    module: types.ModuleType, name: str, planted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "_step_gz":  # a gz reader that takes truncated data for the whole

        def forgiving(raw: Iterator[bytes], packing: object, name: str) -> Iterator[bytes]:
            yield opening.zlib.decompressobj(31).decompress(b"".join(raw))

        monkeypatch.setattr(opening, "_unpack", forgiving)
    else:
        monkeypatch.setattr(module, name, planted)
    assert fuzz_reading.run(400, seed=7)[1] != []
