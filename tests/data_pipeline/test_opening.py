"""Are inputs found, fetched, resumed, checked and unpacked, and is every failure one sentence?"""

import gzip
import importlib
import pathlib
import sys
from collections.abc import Iterator
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_pipeline import opening
from data_pipeline.errors import UserError
from data_pipeline.opening import expand, read_bytes
from data_pipeline.reading import read_records

FASTA = b">a\n" + b"ACGTTGCATT" * 50_000 + b"\n>b\nACGT\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(*names: str, content: bytes = b">a\nACGT\n") -> None:
    for name in names:
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def refused(patterns: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        expand(patterns)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- which inputs ---------------------------------------------------------------------------------


def test_files_stay_in_the_order_given() -> None:
    put("b.fa", "a.fa", "[x].fa", "no ending")
    given = ["b.fa", "a.fa", "[x].fa", "no ending", "-", "https://x.org/y?z=*.fa", "gs://b/x.fa"]
    assert expand(given) == given
    assert expand(expand(given)) == given


def test_globs_are_sorted_and_may_cross_folders() -> None:
    put("c/2.fa", "c/10.fa", "c/x.tsv", "c/d/3.fa", "e.fa", "@e.fa", "-")
    assert expand(["c/*.fa"]) == ["c/10.fa", "c/2.fa"]
    assert expand(["c/**/*.fa"]) == ["c/10.fa", "c/2.fa", "c/d/3.fa"]
    assert expand(["c/*", "e.?a"]) == ["c/10.fa", "c/2.fa", "c/x.tsv", "e.fa"]
    found = expand(["*"])
    assert found == ["./-", "./@e.fa", "e.fa"]
    assert expand(found) == found


def test_folders_are_searched_for_names_of_sequence_files() -> None:
    good = ["d/a.fa", "d/b.FASTA.GZ", "d/c/x.fq.zst", "d/c/y.gbff.xz", "d/z.fna.bgz"]
    put(*good, "d/a.tsv", "d/a.faa", "d/a.fa.md5", "d/.hidden.fa", "d/.git/x.fa", "d/notes.txt")
    assert expand(["d"]) == good
    assert expand(["d/"]) == good


def test_links_to_folders_are_followed_but_not_in_circles() -> None:
    put("d/a.fa", "far/c.fa", "far/deep/e.fa")
    pathlib.Path("d/link").symlink_to("../far")
    pathlib.Path("far/deep/round").symlink_to("../../d")
    pathlib.Path("d/same").symlink_to("../far/deep")
    assert expand(["d"]) == ["d/a.fa", "d/link/c.fa", "d/link/deep/e.fa"]


def test_paths_and_lists_are_relative_to_a_root() -> None:
    put("r/a.fa", "r/b.fa", "r/g/x.fa", "b.fa")
    put("r/l.txt", content=b"b.fa\ng\nhttps://x.org/y.fa\n")
    root = str(pathlib.Path("r").absolute())
    found = expand(["@l.txt", "a.*", "-"], root)
    local = [f"{root}/{name}" for name in ("b.fa", "g/x.fa")]
    assert found == [*local, "https://x.org/y.fa", f"{root}/a.fa", "-"]
    assert expand(found) == found
    assert expand(["b.fa", f"{root}/a.fa"], "r") == ["r/b.fa", f"{root}/a.fa"]
    with pytest.raises(UserError, match=r"^'': no such file"):
        expand([""], "r")


def test_lists() -> None:
    put("a.fa", "b.fa", "g/x.fa", "g/y.fa")
    put("l.txt", content=b"\xef\xbb\xbf# comment\r\nb.fa\r\n\r\n g \n*.fq\n")
    put("c.fq")
    assert expand(["@l.txt", "a.fa"]) == ["b.fa", "g/x.fa", "g/y.fa", "c.fq", "a.fa"]


def test_what_cannot_be_found_is_told() -> None:
    put("a.fa", "b/a.tsv", "only/.hidden.fa")
    put("empty.txt", content=b"\n# nothing\n")
    put("nested.txt", content=b"a.fa\n@empty.txt\n")
    put("missing.txt", content=b"a.fa\nb.fa\n")
    put("packed.txt", content=b"\x1f\x8b\xff\xff")
    pathlib.Path("link.fa").symlink_to("a.fa")
    pathlib.Path("dangling.fa").symlink_to("nowhere")
    endings = (
        "a directory without sequence files; name files, or let their names end in .fa, .fasta, "
        ".fna, .fq, .fastq, .gb, .gbk, .gbff (with .gz, .bz2, .xz, .zst if packed)"
    )
    assert refused(["x.fa"]) == "x.fa: no such file or directory; check the path"
    assert refused([""]) == "'': no such file or directory; check the path"
    assert refused(["dangling.fa"]) == "dangling.fa: no such file or directory; check the path"
    assert refused(["*.fq"]) == ("*.fq: no file matches this pattern; check the folder and ending")
    assert refused(["b"]) == f"b: {endings}"
    assert refused(["only"]) == f"only: {endings}"
    assert refused([]) == "no input is named; give files, folders, globs, '@list.txt', '-' or URLs"
    assert refused(["a.fa", "./a.fa"]) == (
        "./a.fa: named twice (it is the same file as a.fa); name each input once"
    )
    assert refused(["a.fa", "*.fa"]) == "a.fa: named twice; name each input once"
    assert refused(["link.fa", "a.fa"]) == (
        "a.fa: named twice (it is the same file as link.fa); name each input once"
    )
    assert refused(["-", "-"]) == "standard input: named twice; name each input once"
    assert refused(["@no.txt"]) == "no.txt: the list cannot be read (No such file or directory)"
    assert refused(["@empty.txt"]) == "empty.txt: the list names no file; write one path a line"
    assert refused(["@nested.txt"]) == (
        "nested.txt, line 2: a list inside a list; name its files here"
    )
    assert refused(["@missing.txt"]) == (
        "missing.txt, line 2: b.fa: no such file or directory; check the path"
    )
    assert refused(["@packed.txt"]) == (
        "packed.txt: not a list of paths in plain text; name sequence files without '@'"
    )
    assert refused(["ftp://x.org/a.fa"]) == (
        "ftp://x.org/a.fa: unknown kind of address; http://, https://, gs:// and s3:// are read"
    )
    assert refused(["https://x.org/a.fa#sha256=12"]) == (
        "https://x.org/a.fa#sha256=12: what follows '#' is not a checksum; write #sha256= and 64 "
        "hexadecimal digits, or #md5= and 32"
    )
    for url in ("http://[x", "http://", "https://x:y/a.fa", "https://x.org/a b.fa"):
        assert refused([url]) == f"{url}: not a web address; check its spelling"
    with pytest.raises(TypeError):
        expand("a.fa")


def test_what_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.fa")
    paths = expand(["a.fa"])
    pathlib.Path("a.fa").unlink()
    pathlib.Path("b").mkdir()
    with pytest.raises(UserError, match=r"^a\.fa: cannot be read \(No such file or directory\); "):
        list(read_bytes(paths[0]))
    with pytest.raises(UserError, match=r"^b: cannot be read \(Is a directory\); "):
        list(read_bytes("b"))

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(UserError, match=r"^standard input is a terminal; pipe a file into it"):
        list(read_bytes("-"))


def test_blocks_are_large_whatever_the_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    put("x.gz", content=gzip.compress(FASTA * 9))
    blocks = list(read_bytes("x.gz"))
    assert b"".join(blocks) == FASTA * 9
    assert len(blocks) > 1
    assert all(len(block) >= opening.BLOCK for block in blocks[:-1])


# --- buckets --------------------------------------------------------------------------------------


FILESYSTEMS = importlib.import_module("fsspec.registry")._registry


class Bucket(MemoryFileSystem):
    """What gcsfs would be, in memory."""

    protocol = ("gs",)
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return "gs://" + name.strip("/")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setitem(FILESYSTEMS, "gs", Bucket)
    system = Bucket()
    system.pipe("gs://lab/x/b.fa.gz", gzip.compress(FASTA))
    system.pipe("gs://lab/x/a.fa", b">c\nACGT\n")
    system.pipe("gs://lab/x/a.tsv", b"x")
    yield system
    Bucket.store.clear()


def test_buckets(bucket: Bucket) -> None:
    assert expand(["gs://lab/x/b.fa.gz"]) == ["gs://lab/x/b.fa.gz"]
    assert expand(["gs://lab/x/"]) == ["gs://lab/x/a.fa", "gs://lab/x/b.fa.gz"]
    assert expand(["gs://lab/*/b*"]) == ["gs://lab/x/b.fa.gz"]
    found = [(r.id, r.source) for r in read_records(["gs://lab/x/"])]
    assert found == [
        ("c", "gs://lab/x/a.fa"),
        ("a", "gs://lab/x/b.fa.gz"),
        ("b", "gs://lab/x/b.fa.gz"),
    ]
    assert refused(["gs://lab/y/*"]) == (
        "gs://lab/y/*: no sequence file is found there; check the address and ending"
    )
    with pytest.raises(UserError, match=r"^gs://lab/no\.fa: cannot be read \(.*\); check the addr"):
        list(read_records(["gs://lab/no.fa"]))


def test_a_failing_bucket_is_told(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    class ForbiddenError(Exception):
        pass

    def forbid(*args: object, **kwargs: object) -> None:
        raise ForbiddenError("403:\nno access")

    for name in ("find", "open"):
        monkeypatch.setattr(Bucket, name, forbid)
    assert refused(["gs://lab/x/"]) == (
        "gs://lab/x/: cannot be listed (403: no access); check access"
    )
    with pytest.raises(UserError, match=r"^gs://lab/x/a\.fa: cannot be read \(403: no access\); "):
        list(read_bytes("gs://lab/x/a.fa"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(FILESYSTEMS, "gs", raising=False)
    with pytest.raises(UserError) as caught:
        list(read_records(["gs://lab/x.fa"]))
    assert str(caught.value) == (
        "gs://lab/x.fa: reading gs:// needs the package gcsfs; install requirements-cloud.txt"
    )
