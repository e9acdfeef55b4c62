"""A very light S3 whose archive is a list of keys in memory: ListObjectsV2 with StartAfter, tokens and folders, HEAD.

PUT and GET of whole objects, kept in memory, in all other buckets, for a workspace. It checks no signature.
``python -m benchmarks.listing_s3 OBJECTS PER_FOLDER DELAY`` takes the objects of a folder and the seconds before it
answers a listing; it prints its address and serves until it is ended.
"""

from __future__ import annotations

import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ARCHIVE = "images"
SIZE = 526_618  # bytes of each
MODIFIED = "2026-01-02T02:00:00.000Z"
_PAGE = 1000
PER_FOLDER = 4_000  # objects


def key(number: int, per_folder: int = PER_FOLDER) -> str:
    """Return the key of an object."""
    return f"in/{number // per_folder:06}/{number:012}.dcm"


def etag(number: int) -> str:
    """Return the etag of an object."""
    return f"{number:032}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 20
    keys: list[str]
    kept: dict[str, bytes]
    delay: float

    def do_GET(self) -> None:  # http.server's name, as below
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if "list-type" in query:
            time.sleep(self.delay)
            return self._answer(200, self._list(parts.path.strip("/"), query).encode())
        body = self.kept.get(parts.path)
        return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>") if body is None else self._answer(200, body)

    def do_PUT(self) -> None:
        self.kept[urlsplit(self.path).path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path)
        bucket, _, name = path.strip("/").partition("/")
        at = bisect_left(self.keys, name)
        there = self.keys[at : at + 1] == [name] if bucket == ARCHIVE else path in self.kept
        self._answer(200 if there else 404, b"")

    def _list(self, bucket: str, query: dict[str, str]) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys = (
            self.keys if bucket == ARCHIVE else sorted(unquote(name).partition(f"/{bucket}/")[2] for name in self.kept)
        )
        after = query.get("continuation-token") or query.get("start-after", "")
        first = max(bisect_right(keys, after), bisect_left(keys, prefix))
        if delimiter:
            return _whole([], list_folders(keys, first, prefix))
        page = [name for name in keys[first : first + _PAGE] if name.startswith(prefix)]
        more = first + _PAGE < len(keys) and len(page) == _PAGE
        return _whole(page, [], page[-1] if more else "")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{etag(0)}"')
        self.send_header("Last-Modified", "Fri, 02 Jan 2026 02:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def list_folders(keys: Sequence[str], at: int, prefix: str) -> list[str]:
    """Return the folders right below a prefix; *at* is the position of the first of the sorted keys below it."""
    found = []
    while at < len(keys) and keys[at].startswith(prefix):
        folder, cut, _ = keys[at][len(prefix) :].partition("/")
        if cut:
            found.append(f"{prefix}{folder}/")
        at = bisect_left(keys, f"{prefix}{folder}0") if cut else at + 1  # "0" follows "/"
    return found


def _whole(keys: list[str], folders: list[str], token: str = "") -> str:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    rows = "".join(
        f"<Contents><Key>{name}</Key><LastModified>{MODIFIED}</LastModified>"
        f"<ETag>&quot;{name[-16:-4]:0>32}&quot;</ETag><Size>{SIZE}</Size></Contents>"
        for name in keys
    )
    prefixes = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in folders)
    return (
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{more}{rows}{prefixes}</ListBucketResult>'
    )


@contextmanager
def listing_s3(objects: int, per_folder: int = PER_FOLDER, delay: float = 0) -> Iterator[str]:
    """Serve so many objects, in a process of its own, and yield the address; *delay* in seconds."""
    command = [sys.executable, "-m", "benchmarks.listing_s3", *map(str, (objects, per_folder, delay))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # ourselves
        try:
            yield cast("IO[str]", server.stdout).readline().strip()
        finally:
            server.terminate()


def main(objects: int, per_folder: int, delay: float) -> None:
    """Print the address, and serve."""
    _Handler.keys, _Handler.kept = [key(number, per_folder) for number in range(objects)], {}
    _Handler.delay = delay
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
