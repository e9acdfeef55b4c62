"""A small S3 on loopback, its objects plain files: PUT (in parts too), GET with ranges, HEAD, DELETE, ListObjectsV2.

It needs almost no time, so that a stage's seconds are the stage's own. It checks no signatures, keeps no versions and
pages no listings; the figures of S3 itself come from a real server, in the contest of the header readers.
``python -m benchmarks.loopback_s3 FOLDER`` prints its address and serves until it is ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

UPLOAD = ".upload-"  # how the folder of an upload in parts begins
_CHANGED = "Tue, 24 Nov 2026 02:00:00 GMT"
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a small answer waits 40 ms for the client's acknowledgement
    wbufsize = 1 << 16
    folder: Path

    def handle_expect_100(self) -> bool:
        """Send the answer at once: in the buffer it would make botocore wait a second."""
        asked = super().handle_expect_100()
        self.wfile.flush()
        return asked

    def do_PUT(self) -> None:  # http.server's name
        query = self._query()
        path = self._part(query["uploadId"][0], int(query["partNumber"][0])) if "uploadId" in query else self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(self._body())
        Path(file.name).replace(path)
        self._answer(200, ETag=_etag(path))

    def do_GET(self) -> None:
        query = self._query()
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            return self._list_folders(prefix) if "delimiter" in query else self._list(prefix)
        path = self._path()
        if not path.is_file():
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        size = path.stat().st_size
        first, last = self._range(size)
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        headers = {"ETag": _etag(path), "Last-Modified": _CHANGED}
        if "Range" not in self.headers:
            return self._answer(200, body, **headers)
        return self._answer(206, body, **headers, **{"Content-Range": f"bytes {first}-{last}/{size}"})

    def do_HEAD(self) -> None:
        path = self._path()
        if not path.is_file():
            return self._answer(404)
        return self._answer(200, ETag=_etag(path), length=path.stat().st_size)

    def do_DELETE(self) -> None:
        self._path().unlink(missing_ok=True)
        self._answer(204)

    def do_POST(self) -> None:
        query = self._query()
        if "uploads" in query:
            return self._begin_upload()
        if "uploadId" in query:
            return self._complete_upload(query["uploadId"][0])
        return self._delete_objects()

    def _begin_upload(self) -> None:
        upload = tempfile.mkdtemp(prefix=UPLOAD, dir=self.folder)
        name = Path(upload).name
        self._answer(
            200, f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode()
        )

    def _complete_upload(self, upload: str) -> None:
        body = ElementTree.fromstring(self._body())  # noqa: S314  # our own process wrote it
        parts = [self._part(upload, int(number.text or "")) for number in body.iter(f"{_NAMESPACE}PartNumber")]
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with parts[0].open("ab") as whole:
            for part in parts[1:]:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
        parts[0].replace(path)
        shutil.rmtree(self.folder / upload)
        etag = escape(_etag(path))
        self._answer(
            200, f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>".encode()
        )

    def _delete_objects(self) -> None:
        for key in ElementTree.fromstring(self._body()).iter(f"{_NAMESPACE}Key"):  # noqa: S314  # our own process wrote it
            (self._path() / (key.text or "")).unlink(missing_ok=True)
        self._answer(200, b"<DeleteResult/>")

    def _list(self, prefix: str) -> None:
        bucket = self._path()
        below = bucket / prefix.rpartition("/")[0]
        files = [file for file in below.rglob("*") if file.is_file()]
        keys = sorted(str(file.relative_to(bucket)) for file in files)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><ETag>{_etag(bucket / key)}</ETag><Size>{(bucket / key).stat().st_size}"
            f"</Size><LastModified>2026-11-24T02:00:00.000Z</LastModified></Contents>"  # as _CHANGED
            for key in keys
            if key.startswith(prefix)
        )
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode())

    def _list_folders(self, prefix: str) -> None:
        below = self._path() / prefix
        names = sorted(one.name for one in below.iterdir() if one.is_dir()) if below.is_dir() else []
        found = "".join(f"<CommonPrefixes><Prefix>{escape(prefix + name)}/</Prefix></CommonPrefixes>" for name in names)
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _part(self, upload: str, number: int) -> Path:
        return self.folder / upload / str(number)

    def _path(self) -> Path:
        return self.folder / unquote(urlsplit(self.path).path).strip("/")

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Content-Encoding", "") + self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("this S3 only accepts bodies with a Content-Length")
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _range(self, size: int) -> tuple[int, int]:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), min(int(last), size - 1) if last else size - 1

    def _answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep no access log."""


def _etag(path: Path) -> str:
    found = path.stat()
    return f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'


@contextmanager
def loopback_s3(folder: Path) -> Iterator[str]:
    """Serve a folder, whose folders are the buckets, from a process of its own; yield the endpoint."""
    command = [sys.executable, "-m", "benchmarks.loopback_s3", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # ourselves
        try:
            assert server.stdout is not None  # noqa: S101  # for mypy: it is a pipe
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def main(folder: str) -> None:
    """Serve until ended."""
    handler = type("Handler", (_Handler,), {"folder": Path(folder)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    os.umask(0o077)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
