"""A bucket on this machine that answers as S3 does: listings, sizes and parts of objects."""

import contextlib
import http.server
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

DATE = "2026-01-01T00:00:00.000Z"


@contextlib.contextmanager
def serving(objects: Mapping[str, bytes]) -> Iterator[str]:
    """Serves objects by "BUCKET/KEY"; yields the address. Signatures are not looked at."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            name = urllib.parse.unquote(parts.path).strip("/")
            query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
            if "list-type" in query:
                self.send(200, _listing(objects, name, query).encode(), "application/xml")
            elif name in objects:
                self.object(objects[name])
            elif any(key.startswith(f"{name}/") for key in objects) and "/" not in name:
                self.send(200, b"", "application/xml")
            else:
                told = "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
                self.send(404, told.encode(), "application/xml")

        def object(self, data: bytes) -> None:
            if span := self.headers.get("Range"):
                first, last = span.removeprefix("bytes=").split("-")
                part = data[int(first) : int(last) + 1]
                place = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
                self.send(206, part, "binary/octet-stream", {"Content-Range": place})
            else:
                self.send(200, data, "binary/octet-stream")

        def send(
            self, status: int, data: bytes, kind: str, more: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(data)), "ETag": '"x"'}
            headers["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
            for key, value in {**headers, **(more or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _listing(objects: Mapping[str, bytes], bucket: str, query: Mapping[str, str]) -> str:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    found, folders = [], set()
    for name, data in sorted(objects.items()):
        key = name.removeprefix(f"{bucket}/")
        if key == name or not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.split(delimiter)[0] + delimiter)
        else:
            found.append((key, len(data)))
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{DATE}</LastModified>"
        f"<ETag>x</ETag><Size>{size}</Size></Contents>"
        for key, size in found
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders
    )
    return (
        f"<?xml version='1.0'?><ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}"
        f"</Prefix><KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        f"{contents}{common}</ListBucketResult>"
    )
