"""How is a file on the web read from front to end and not kept, over connections that drop?"""

import http.client
import io
import re
import time
import urllib.error
import urllib.request
from typing import Any

from data_pipeline import download
from data_pipeline.errors import UserError


class WebStream(io.RawIOBase):
    """The bytes at an http(s) address, in order, once; to be wrapped in io.BufferedReader.

    A dropped connection is taken up again where it broke (HTTP Range, guarded by the entity tag or
    date). A server that begins anew is followed to the same place only if it says that the version
    is the same. Patience is that of `download`: TRIES attempts in a row that bring nothing.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.passed = 0  # bytes handed on
        self._size = 0  # of the whole, 0 if the server does not say
        self._version = ""
        self._answer: http.client.HTTPResponse | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, at least one but at the end of a whole file; UserError if it gives up."""
        block = self._next(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _next(self, size: int) -> bytes:
        fruitless = 0
        while True:
            try:
                if self._answer is None:
                    self._answer = self._connect()
                if block := self._answer.read1(size):
                    self.passed += len(block)
                    return block
                if not self._size or self.passed == self._size:
                    return b""
                problem = f"the connection dropped at {self.passed} of {self._size} bytes"
            except urllib.error.HTTPError as error:
                problem = f"the server answers {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 429):
                    raise UserError(f"{self.url}: {problem}; check the address") from error
            except (OSError, http.client.HTTPException) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                problem = " ".join(str(reason).split()) or type(reason).__name__
            self._disconnect()
            fruitless += 1
            if fruitless > download.TRIES:
                raise UserError(
                    f"{self.url}: the download stopped after {self.passed} bytes ({problem}); "
                    "try again later"
                )
            time.sleep(download.PAUSE * 2**fruitless)

    def _disconnect(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _connect(self) -> http.client.HTTPResponse:
        """A connection whose next byte is the next one to hand on."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "dnallm-jax"})
        if self.passed:
            request.add_header("Range", f"bytes={self.passed}-")
            if self._version:
                request.add_header("If-Range", self._version)
        answer = urllib.request.urlopen(request, timeout=download.TIMEOUT)
        headers = answer.headers
        if answer.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers["Content-Range"] or "")
            sizes = ("*", str(self._size)) if self._size else (match and match[2],)
            if match is None or int(match[1]) != self.passed or match[2] not in sizes:
                answer.close()
                raise http.client.HTTPException(
                    "the server sent another part than the one asked for"
                )
            return answer
        tag = headers["ETag"] or ""
        version = headers["Last-Modified"] or "" if tag.startswith("W/") or not tag else tag
        length = headers["Content-Length"] or ""
        if self.passed and (not version or version != self._version):
            answer.close()
            raise UserError(
                f"{self.url}: after {self.passed} bytes the file changed, or the server cannot go "
                "on in the middle of a file; run the same command again"
            )
        self._size, self._version = int(length) if length.isdigit() else 0, version
        left = self.passed
        while left:
            left -= len(skipped := answer.read(min(left, 1 << 20)))
            if not skipped:
                answer.close()
                raise http.client.HTTPException(f"the connection dropped before byte {self.passed}")
        return answer
