"""A very light S3 for reading millions of headers: every key of one bucket is a CT image, made as it is asked for.

GET with ranges in that bucket; PUT and GET of whole objects, kept in memory, in all others, for a workspace. It checks
no signature and lists nothing. ``python -m benchmarks.header_s3`` prints its address and serves until it is ended.
With a folder that ``write_variants`` has filled, it serves the series of ``benchmarks.corpus`` as well.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import uvloop
from tests.unit.airlock.dicom.objects import ct

from benchmarks.corpus import SHARES, VARIANTS, instance

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHIVE, SERIES = "images", "series"  # buckets
ETAG = "e" * 32
_NUMBER = b"000000000000"
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d+)", re.IGNORECASE)
_IMAGE = ct(
    {
        0x00080018: ("UI", b"1.2.826.0.10.1" + _NUMBER),
        0x00081030: ("LO", b"Thorax with contrast"),
        0x00091010: ("OB", bytes(3_000)),
        0x7FE00010: ("OW", bytes(1 << 19)),
    }
)
SIZE = len(_IMAGE)  # bytes of each; its header ends behind 4 KB


def key(number: int) -> str:
    """Return the key of an image; its SOPInstanceUID ends in the number."""
    return f"in/{number // 400:06}/{number:012}.dcm"


class Variant(NamedTuple):
    """One of the objects that a kind's series repeat."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, body: bytes) -> Variant:
        """Return the object with these bytes."""
        return cls(body, md5(body, usedforsecurity=False).hexdigest())


def write_variants(folder: Path) -> dict[tuple[str, int], Variant]:
    """Write the objects of all series into a folder, and return them by kind and number."""
    folder.mkdir(parents=True, exist_ok=True)
    variants = {(kind, number): Variant.of(instance(kind, number)) for kind in SHARES for number in range(VARIANTS)}
    for (kind, number), variant in variants.items():
        (folder / f"{kind}-{number}").write_bytes(variant.body)
    return variants


def _read_variants(folder: Path) -> dict[bytes, list[Variant]]:
    return {
        kind.encode(): [Variant.of((folder / f"{kind}-{number}").read_bytes()) for number in range(VARIANTS)]
        for kind in SHARES
    }


class _Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, kept: dict[bytes, bytes], series: dict[bytes, list[Variant]]) -> None:
        self._kept = kept
        self._series = series
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(_HEAD_END)) >= 0:
            head, start = self._unread[:end], end + len(_HEAD_END)
            length = _LENGTH.search(head)
            stop = start + (int(length[1]) if length else 0)
            if len(self._unread) < stop:
                if b"100-continue" in head and len(self._unread) == start:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body, self._unread = self._unread[start:stop], self._unread[stop:]
            self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        verb, path = head.partition(b"\r\n")[0].split(b" ")[:2]
        if verb == b"PUT":
            self._kept[path] = body
            return _whole(b"")
        span = _RANGE.search(head)
        if span is None:
            return _whole(self._kept[path]) if path in self._kept else _MISSING
        if path.startswith(_SERIES_PATH):
            return self._part_of_series(path, int(span[1]), int(span[2]))
        return _part(path, int(span[1]), min(int(span[2]), SIZE - 1))

    def _part_of_series(self, path: bytes, first: int, last: int) -> bytes:
        _, folder, name = path.rsplit(b"/", 2)
        variant = self._series[folder.partition(b"-")[2]][int(name.removesuffix(b".dcm")) % VARIANTS]
        return _partial(variant.etag, variant.body[first : last + 1], first, len(variant.body))


_SERIES_PATH = f"/{SERIES}/".encode()
_MODIFIED = "Last-Modified: Tue, 24 Nov 2026 02:00:00 GMT\r\n"
_MISSING_BODY = b"<Error><Code>NoSuchKey</Code></Error>"
_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(_MISSING_BODY), _MISSING_BODY)


def _whole(body: bytes) -> bytes:
    head = f'{_MODIFIED}ETag: "{ETAG}"\r\nContent-Length: {len(body)}\r\n\r\n'
    return f"HTTP/1.1 200 OK\r\n{head}".encode() + body


def _part(path: bytes, first: int, last: int) -> bytes:
    number = path.rpartition(b"/")[2].removesuffix(b".dcm")
    body = _IMAGE[first : last + 1].replace(_NUMBER, number, 1)
    return _partial(ETAG, body, first, SIZE)


def _partial(etag: str, body: bytes, first: int, size: int) -> bytes:
    head = f'{_MODIFIED}ETag: "{etag}"\r\nContent-Range: bytes {first}-{first + len(body) - 1}/{size}\r\n'
    return f"HTTP/1.1 206 Partial Content\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def header_s3(variants: Path | None = None) -> Iterator[str]:
    """Serve from a process of its own; yield the endpoint.

    Parameters
    ----------
    variants
        The folder of ``write_variants``; without it, no series are served.
    """
    command = [sys.executable, "-m", "benchmarks.header_s3", *([str(variants)] if variants else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # ourselves
        try:
            assert server.stdout is not None  # noqa: S101  # for mypy: it is a pipe
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def main(variants: Path | None) -> None:
    """Serve until ended."""
    kept: dict[bytes, bytes] = {}
    series = _read_variants(variants) if variants else {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(kept, series), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]) if sys.argv[1:] else None))
