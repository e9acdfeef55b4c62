"""An S3 server on loopback that takes objects of any size, checks and adds up their bytes, and keeps none of them."""

from __future__ import annotations

import base64
import hashlib
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

from tests.servers.serving import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 20
_UPLOAD = "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
_DONE = (
    '<CompleteMultipartUploadResult><ETag>"e"</ETag><ChecksumSHA256>{}</ChecksumSHA256></CompleteMultipartUploadResult>'
)


class DiscardingS3(ThreadingHTTPServer):
    """The server, and what was put on it.

    Attributes
    ----------
    whole
        Hash of all bytes of the last object, in the order of its parts.
    size
        Bytes of the last object.
    keys
        Of complete objects.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.whole = hashlib.sha256()
        self.size = 0
        self.parts: list[bytes] = []
        self.keys: list[str] = []


class _Handler(QuietHandler):
    @property
    def _s3(self) -> DiscardingS3:
        return cast("DiscardingS3", self.server)

    def do_PUT(self) -> None:
        question = parse_qs(urlsplit(self.path).query)
        part, left = hashlib.sha256(), int(self.headers["Content-Length"])
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            part.update(piece)
            self._s3.whole.update(piece)
            self._s3.size += len(piece)
            left -= len(piece)
        checksum = base64.b64encode(part.digest()).decode()
        if checksum != self.headers["x-amz-checksum-sha256"]:
            self.answer(400, "<Error><Code>BadDigest</Code></Error>")
            return
        self._s3.parts.append(part.digest())
        if "partNumber" not in question:
            self._s3.keys.append(urlsplit(self.path).path)
        self.answer(200, "", {"ETag": '"e"', "x-amz-checksum-sha256": checksum})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if urlsplit(self.path).query.startswith("uploads"):
            self._s3.whole, self._s3.size, self._s3.parts = hashlib.sha256(), 0, []
            self.answer(200, _UPLOAD)
            return
        self._s3.keys.append(urlsplit(self.path).path)
        composite = base64.b64encode(hashlib.sha256(b"".join(self._s3.parts)).digest()).decode()
        self.answer(200, _DONE.format(f"{composite}-{len(self._s3.parts)}"))


@contextmanager
def discarding_s3() -> Iterator[DiscardingS3]:
    """Yield a server on a free port."""
    with running(DiscardingS3()) as server:
        yield server
