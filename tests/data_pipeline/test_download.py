"""Do downloads go on where they broke, never join two versions, and fail in one clear sentence?"""

import gzip
import hashlib
import http.server
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from data_pipeline import download
from data_pipeline.errors import UserError
from data_pipeline.opening import read_bytes
from data_pipeline.reading import read_records

FASTA = b">a\n" + b"ACGTTGCATT" * 50_000 + b"\n>b\nACGT\n"


class Server:
    """An http server on 127.0.0.1 that misbehaves as told: `behave(request)` for each request."""

    def __init__(self, behave: Callable[[Any, int], None]) -> None:
        self.ranges: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range", ""))
                behave(self, len(outer.ranges))

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/x.fa"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(
    handler: Any,
    content: bytes,
    *,
    most: int = 1 << 40,
    ranges: bool = True,
    headers: tuple[tuple[str, str], ...] = (("ETag", '"1"'),),
) -> None:
    """Answer with `content` or the part asked for, but hang up after `most` bytes."""
    start = 0
    asked = handler.headers.get("Range", "")
    if ranges and asked and handler.headers.get("If-Range", "") in ("", *dict(headers).values()):
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        handler.send_response(200)
    for header in (*headers, ("Content-Length", str(len(content) - start))):
        handler.send_header(*header)
    handler.end_headers()
    handler.wfile.write(content[start : start + most])
    handler.close_connection = True


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ids(path: str) -> list[str]:
    return [record.id for record in read_records([path])]


def test_a_download_is_read_checked_and_removed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    packed = gzip.compress(FASTA)
    with Server(lambda handler, n: send(handler, packed)) as server:
        for checksum in (
            "",
            "#sha256=" + hashlib.sha256(packed).hexdigest().upper(),
            "#md5=" + hashlib.md5(packed).hexdigest(),
        ):
            records = list(read_records([server.url + checksum]))
            assert [(r.id, len(r.bases)) for r in records] == [("a", 500_000), ("b", 4)]
            assert records[0].source == server.url + checksum
    assert not list(tmp_path.iterdir())


def test_a_wrong_checksum_is_refused_before_a_record_is_read() -> None:
    with Server(lambda handler, n: send(handler, FASTA)) as server:
        for method, digits in (("sha256", 64), ("md5", 32)):
            found = hashlib.new(method, FASTA).hexdigest()
            with pytest.raises(UserError) as caught:
                next(read_records([f"{server.url}#{method}={'0' * digits}"]))
            assert str(caught.value) == (
                f"{server.url}: the download has {method} {found}, not {'0' * digits} as the URL "
                "says; the file was changed or damaged: ask its source which is right"
            )


def test_a_dropped_connection_is_taken_up_where_it_broke() -> None:
    checksum = "#sha256=" + hashlib.sha256(FASTA).hexdigest()
    with Server(lambda handler, n: send(handler, FASTA, most=200_000)) as server:
        assert ids(server.url + checksum) == ["a", "b"]
    assert server.ranges == ["", "bytes=200000-", "bytes=400000-"]


@pytest.mark.parametrize(
    "headers",
    [(), (("ETag", 'W/"1"'),), (("Last-Modified", "Mon, 01 Jan 2026 00:00:00 GMT"),)],
    ids=["none", "weak tag", "date"],
)
def test_taking_up_needs_no_entity_tag(headers: tuple) -> None:
    def behave(handler: Any, n: int) -> None:
        send(handler, FASTA, most=300_000, headers=headers)

    with Server(behave) as server:
        assert ids(server.url) == ["a", "b"]
    assert server.ranges == ["", "bytes=300000-"]


def test_a_server_that_cannot_take_up_starts_over() -> None:
    def behave(handler: Any, n: int) -> None:
        send(handler, FASTA, most=300_000 if n < 3 else 1 << 40, ranges=False)

    with Server(behave) as server:
        assert ids(server.url) == ["a", "b"]
    assert server.ranges == ["", "bytes=300000-", "bytes=300000-"]


def test_two_versions_are_never_joined() -> None:
    new = FASTA.replace(b"T", b"C").replace(b">a", b">new")

    def behave(handler: Any, n: int) -> None:
        if n == 1:
            send(handler, FASTA, most=300_000, headers=(("ETag", '"old"'),))
        else:
            send(handler, new, headers=(("ETag", '"new"'),))

    with Server(behave) as server:
        assert b"".join(read_bytes(server.url)) == new


def test_a_changed_size_is_noticed_without_an_entity_tag() -> None:
    new = FASTA + b">c\nACGT\n"

    def behave(handler: Any, n: int) -> None:
        send(handler, FASTA if n == 1 else new, most=300_000 if n == 1 else 1 << 40, headers=())

    with Server(behave) as server:
        assert b"".join(read_bytes(server.url)) == new
    assert server.ranges == ["", "bytes=300000-", ""]


def test_a_planted_fault_joins_two_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_range", lambda text: (300_000, len(FASTA)))
    with pytest.raises(AssertionError):
        test_a_changed_size_is_noticed_without_an_entity_tag()


def test_a_busy_server_is_asked_again() -> None:
    def behave(handler: Any, n: int) -> None:
        if n < 4:
            handler.send_error((503, 429, 408)[n - 1])
        else:
            send(handler, FASTA)

    with Server(behave) as server:
        assert ids(server.url) == ["a", "b"]


def test_a_download_is_given_up_at_last() -> None:
    def stuck(handler: Any, n: int) -> None:
        send(handler, FASTA, most=300_000 if n == 1 else 0)

    def failing(handler: Any, n: int) -> None:
        handler.send_error(500)

    def missing(handler: Any, n: int) -> None:
        handler.send_error(404)

    with Server(stuck) as server, pytest.raises(UserError) as caught:
        ids(server.url)
    assert len(server.ranges) == 1 + download.TRIES
    assert str(caught.value) == (
        f"{server.url}: the download stopped after 300000 bytes (the connection dropped at 300000 "
        f"of {len(FASTA)} bytes); try again later"
    )
    with Server(failing) as server, pytest.raises(UserError) as caught:
        ids(server.url)
    assert str(caught.value) == (
        f"{server.url}: the download stopped after 0 bytes (the server answers 500 Internal Server "
        "Error); try again later"
    )
    with Server(missing) as server, pytest.raises(UserError) as caught:
        ids(server.url)
    assert len(server.ranges) == 1
    assert str(caught.value) == f"{server.url}: the server answers 404 Not Found; check the address"
    with pytest.raises(UserError, match=r"the download stopped after 0 bytes \(.*refused.*\)"):
        ids(server.url)
