"""How does a file come from the web, whole? Downloads that go on where the connection dropped."""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import BinaryIO

from data_pipeline.errors import UserError

TRIES = 5
"""Attempts in a row that bring nothing new before a download is given up."""
PAUSE = 0.5
"""Seconds before the second attempt; doubled for each one after it."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as dropped."""

_CHECKSUM = re.compile(r"(sha256)=([0-9a-fA-F]{64})|(md5)=([0-9a-fA-F]{32})")


def split_checksum(url: str) -> tuple[str, str, str]:
    """(address, 'sha256' | 'md5' | '', hexadecimal digits) of a URL like https://x/y.fa.gz#md5=..."""
    address, _, fragment = url.partition("#")
    try:
        parts = urllib.parse.urlsplit(address)
        valid = bool(parts.hostname) and parts.port != 0 and " " not in address
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{url}: not a web address; check its spelling")
    if not fragment:
        return address, "", ""
    match = _CHECKSUM.fullmatch(fragment)
    if match is None:
        raise UserError(
            f"{url}: what follows '#' is not a checksum; write #sha256= and 64 hexadecimal digits, "
            "or #md5= and 32"
        )
    return address, match[1] or match[3], (match[2] or match[4]).lower()


def download(url: str, path: str) -> None:
    """Write what `url` (http or https) gives to the file `path`, replacing it.

    A dropped connection is taken up again where it broke (HTTP Range, guarded by the entity tag, so
    that two versions are never joined); servers that cannot do so start over. After TRIES attempts
    in a row without progress, for an answer like 404, for a full disk, or when the checksum in the
    URL's fragment differs, raises UserError; the file at `path` is then not whole. Of a server that
    tells no size only a checksum can say whether the file is.
    """
    address, method, digest = split_checksum(url)
    transfer = _Transfer(address)
    with open(path, "wb") as file:
        furthest, fruitless = 0, 0
        while not transfer.attempt(file):
            fruitless = 0 if transfer.have > furthest else fruitless + 1
            furthest = max(furthest, transfer.have)
            if fruitless >= TRIES:
                raise UserError(
                    f"{address}: the download stopped after {furthest} bytes "
                    f"({transfer.problem}); try again later"
                )
            time.sleep(PAUSE * 2**fruitless)
    if method:
        with open(path, "rb") as file:
            found = hashlib.file_digest(
                file, lambda: hashlib.new(method, usedforsecurity=False)
            ).hexdigest()
        if found != digest:
            raise UserError(
                f"{address}: the download has {method} {found}, not {digest} as the URL says; "
                "the file was changed or damaged: ask its source which is right"
            )


class _Transfer:
    """One download over several connections: how much of it is there, and of which version."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.have = 0  # bytes in the file
        self.size = 0  # bytes of the whole, 0 if the server does not say
        self.version = ""  # the server's entity tag or date for these bytes
        self.problem = ""  # why the last attempt ended early

    def attempt(self, file: BinaryIO) -> bool:
        """Add what one connection brings. True when the file is whole."""
        request = urllib.request.Request(self.address, headers={"User-Agent": "dnallm-jax"})
        if self.have:
            request.add_header("Range", f"bytes={self.have}-")
            if self.version:
                request.add_header("If-Range", self.version)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return self._receive(answer, file)
        except urllib.error.HTTPError as problem:
            self.problem = f"the server answers {problem.code} {problem.reason}"
            if problem.code == 416:  # nothing lies behind what is here: it is another version
                self.have = 0
            elif problem.code < 500 and problem.code not in (408, 429):
                raise UserError(f"{self.address}: {self.problem}; check the address") from problem
        except (OSError, http.client.HTTPException) as problem:
            reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
            self.problem = " ".join(str(reason).split()) or type(reason).__name__
        return False

    def _receive(self, answer: http.client.HTTPResponse, file: BinaryIO) -> bool:
        headers = answer.headers
        if answer.status == 206:
            start, size = _range(headers["Content-Range"] or "")
            if start != self.have or size != self.size:
                self.have, self.problem = 0, "the server sent another part than the one asked for"
                return False
        else:
            length = headers["Content-Length"] or ""
            self.have, self.size = 0, int(length) if length.isdigit() else 0
            tag = headers["ETag"] or ""
            # A weak tag promises the same meaning, not the same bytes.
            self.version = (
                headers["Last-Modified"] or "" if tag.startswith("W/") or not tag else tag
            )
        _cut(file, self.have)
        while block := answer.read(1 << 16):
            _write(file, block)
            self.have += len(block)
        if self.size and self.have != self.size:
            self.problem = f"the connection dropped at {self.have} of {self.size} bytes"
        return not self.size or self.have == self.size


def _range(text: str) -> tuple[int, int]:
    """(start, size of the whole) of a Content-Range header; size 0 when it is not told."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    return (int(match[1]), int(match[2].replace("*", "0"))) if match else (-1, 0)


def _cut(file: BinaryIO, size: int) -> None:
    file.seek(size)
    file.truncate()


def _write(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as problem:
        raise UserError(
            f"{file.name}: cannot be written ({problem.strerror}); "
            "free some space, or point TMPDIR to a larger disk"
        ) from problem
