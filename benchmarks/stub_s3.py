"""A stub of S3 for loads that no disk could hold: archives that are computed, copies without bytes, rates and delays.

An archive is a bucket of CT images. Their keys, sizes and headers are computed from their numbers when they are asked
for; its pixels are zeros. CopyObject from an archive notes that the copy is there, and keeps no byte of it. All other
buckets keep whole objects in memory, for workspaces and results. ListObjectsV2 knows all of them.

A request beyond a rate waits for its turn, as long as S3 would still take it, and gets 503 SlowDown beyond that. It
checks no signature. ``python -m benchmarks.stub_s3 --help`` lists the options; it prints its address, and serves until
it is ended. ``GET /_stub/counts`` tells what was asked of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, cast, overload
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import uvloop
from tests.unit.airlock.dicom.objects import ct

from benchmarks.listing_s3 import list_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ETAG = "e" * 32
MODIFIED = "2026-11-24T02:00:00.000Z"
LONGEST_WAIT = 1.0  # seconds for a turn, before S3 asks to slow down
COUNTS = "/_stub/counts"
_SIGMA = 0.25  # of the delays, which are lognormal
_PAGE = 1000
_SERIES, _INSTANCES = 5, 100  # of a study, and of a series: waves are cut at studies, and 5,000 objects are ten of them
STUDY_OBJECTS = _SERIES * _INSTANCES
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_SOURCE = re.compile(rb"\r\nx-amz-copy-source: *([^\r]+)", re.IGNORECASE)
_IF_MATCH = re.compile(rb'\r\nx-amz-copy-source-if-match: *"?([^"\r]+)', re.IGNORECASE)
_KEY = re.compile(r"<Key>([^<]*)</Key>")
_NUMBERED = re.compile(r"in/(\d{7})/(\d)/(\d{4})\.dcm")
_MODIFIED_HEADER = "Last-Modified: Tue, 24 Nov 2026 02:00:00 GMT\r\n"
_STUDY, _IN_STUDY, _IN_SERIES = b"SSSSSSSS", b"RR", b"IIIII"  # where a header has the numbers


def _header(archive: int) -> bytes:
    """Return the header of an archive's images, with marks in place of their numbers."""
    study = b"1.2.826.0.1.3680043.10.%d.%b" % (archive, _STUDY)
    series = b"%b.%b" % (study, _IN_STUDY)
    whole = ct(
        {
            0x00080018: ("UI", b"%b.%b" % (series, _IN_SERIES)),
            0x00080050: ("SH", b"A%b " % _STUDY),
            0x00091010: ("OB", bytes(3_000)),
            0x00100020: ("LO", b"P%b " % _STUDY),
            0x0020000D: ("UI", study + b"\0"),
            0x0020000E: ("UI", series),
            0x00200011: ("IS", _IN_STUDY),
            0x00200013: ("IS", _IN_SERIES + b" "),
            0x7FE00010: ("OW", bytes(_PIXELS)),
        }
    )
    return whole[:-_PIXELS]


_PIXELS = 1 << 19  # bytes
SIZE = len(_header(1)) + _PIXELS  # of each image


class Archive(Sequence[str]):
    """The keys of an archive, in order, and the bytes of its images.

    Parameters
    ----------
    number
        Of the archive, from 1 to 9: instances of two archives are not the same.
    objects
        How many images it has.
    """

    def __init__(self, number: int, objects: int) -> None:
        self._header = _header(number)
        self._objects = objects

    def __len__(self) -> int:
        return self._objects

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [_key(number) for number in range(*index.indices(self._objects))]
        if not 0 <= index < self._objects:
            raise IndexError(index)
        return _key(index)

    def find(self, key: str) -> Stored | None:
        """Return an image without its bytes; None if the key is not one of the archive's."""
        found = _NUMBERED.fullmatch(key)
        if found is None:
            return None
        study, series, instance = map(int, found.groups())
        is_there = series < _SERIES and instance < _INSTANCES
        number = (study * _SERIES + series) * _INSTANCES + instance
        return _IMAGE if is_there and number < self._objects else None

    def read(self, key: str, first: int, last: int) -> bytes:
        """Return a range of an image's bytes, both ends included."""
        study, series, instance = key.removeprefix("in/").removesuffix(".dcm").split("/")
        head = self._header.replace(_STUDY, b"1%b" % study.encode()).replace(_IN_STUDY, b"1%b" % series.encode())
        part = head.replace(_IN_SERIES, b"1%b" % instance.encode())[first : last + 1]
        return part + bytes(last + 1 - first - len(part))


def _key(number: int) -> str:
    study, within = divmod(number, STUDY_OBJECTS)
    series, instance = divmod(within, _INSTANCES)
    return f"in/{study:07}/{series}/{instance:04}.dcm"


class Stored(NamedTuple):
    """An object; a computed image and the copy of one have no bytes here."""

    size: int
    body: bytes | None = None


_IMAGE = Stored(SIZE)


class Kept:
    """The objects of a bucket that clients write, by their folders: a listing looks at one folder of thousands."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, Stored]] = {}

    def put(self, key: str, item: Stored) -> None:
        """Add an object, or replace it."""
        folder, name = _split(key)
        self._folders.setdefault(folder, {})[sys.intern(name)] = item

    def find(self, key: str) -> Stored | None:
        """Return an object; None if there is none."""
        folder, name = _split(key)
        return self._folders.get(folder, {}).get(name)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        folder, name = _split(key)
        self._folders.get(folder, {}).pop(name, None)

    def below(self, prefix: str) -> list[str]:
        """Return the keys below a prefix, in order."""
        near = [folder for folder in self._folders if folder.startswith(prefix) or prefix.startswith(folder)]
        return sorted(key for folder in near for name in self._folders[folder] if (key := folder + name) >= prefix)


def _split(key: str) -> tuple[str, str]:
    folder, cut, name = key.rpartition("/")
    return folder + cut, name


class Rate:
    """A number of requests a second: those beyond it wait for their turn.

    Parameters
    ----------
    per_second
        The rate.
    """

    def __init__(self, per_second: float) -> None:
        self._step = 1 / per_second
        self._next = 0.0

    def take_turn(self, now: float) -> float | None:
        """Return the seconds until a request's turn; None if they are too many."""
        turn = max(now, self._next)
        if turn - now > LONGEST_WAIT:
            return None
        self._next = turn + self._step
        return turn - now


@dataclass
class Stub:
    """The state of a server.

    Parameters
    ----------
    archives
        By bucket.
    rates
        Of ``copy``, and of ``get``, which is for the archives alone.
    delays
        The median delay of each kind of request, in seconds; without it there is none.
    """

    archives: dict[str, Archive]
    rates: dict[str, Rate]
    delays: dict[str, float]
    kept: dict[str, Kept] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)  # by kind and bucket
    refused: Counter[str] = field(default_factory=Counter)  # by kind
    copied: Counter[int] = field(default_factory=Counter)  # copies in each second since the epoch
    spans: dict[str, list[float]] = field(default_factory=dict)  # first and last request of a kind, since the epoch
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311  # the same delays each time

    def wait_for(self, kind: str, bucket: str) -> float | None:
        """Count a request, and return the seconds until its answer; None if S3 refuses it."""
        now = time.time()
        self.requests[f"{kind} {bucket}"] += 1
        rate = None if kind == "get" and bucket not in self.archives else self.rates.get(kind)
        turn = 0.0 if rate is None else rate.take_turn(now)
        if turn is None:
            self.refused[kind] += 1
            return None
        span = self.spans.setdefault(f"{kind} {bucket}", [now, now])
        delay = self.delays.get(kind, 0.0)
        wait = turn + (delay * math.exp(self.chance.gauss(0, _SIGMA)) if delay else 0.0)
        span[1] = max(span[1], now + wait)
        if kind == "copy":
            self.copied[int(now + wait)] += 1
        return wait

    def find(self, bucket: str, key: str) -> Stored | None:
        """Return an object; None if there is none."""
        where = self.archives.get(bucket) or self.kept.get(bucket)
        return where.find(key) if where is not None else None

    def keep(self, bucket: str, key: str, item: Stored) -> None:
        """Write an object."""
        self.kept.setdefault(bucket, Kept()).put(key, item)

    def keys_below(self, bucket: str, prefix: str) -> Sequence[str]:
        """Return keys in order, all of those below a prefix among them."""
        return self.archives.get(bucket) or self.kept.get(bucket, Kept()).below(prefix)

    def counts(self) -> dict[str, object]:
        """Return what was asked."""
        return {"requests": self.requests, "refused": self.refused, "copied": self.copied, "spans": self.spans}


class Request(NamedTuple):
    """A request."""

    verb: str
    bucket: str
    key: str
    query: dict[str, str]
    head: bytes
    body: bytes

    @classmethod
    def of(cls, head: bytes, body: bytes) -> Request:
        """Parse a request."""
        verb, target = head.partition(b"\r\n")[0].split(b" ")[:2]
        url = urlsplit(target.decode())
        bucket, _, key = unquote(url.path)[1:].partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        return cls(verb.decode(), bucket, key, query, head, body)

    @property
    def kind(self) -> str:
        """What it asks for."""
        if self.verb == "GET":
            return "list" if "list-type" in self.query else "get"
        if self.verb == "POST":
            return "delete many" if "delete" in self.query else "post"
        return "copy" if self.verb == "PUT" and _SOURCE.search(self.head) else self.verb.lower()


def answer(stub: Stub, request: Request) -> bytes:
    """Carry out a request and return its answer."""
    if not request.key and request.kind not in {"list", "delete many", "post"}:
        return _whole(b"")  # buckets are there when they are used
    carry_out = _HANDLERS.get(request.kind)
    return carry_out(stub, request) if carry_out else _refuse(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented")


def _put(stub: Stub, request: Request) -> bytes:
    stub.keep(request.bucket, request.key, Stored(len(request.body), request.body))
    return _whole(b"")


def _read(stub: Stub, request: Request) -> bytes:
    item = stub.find(request.bucket, request.key)
    if item is None:
        return _refuse(HTTPStatus.NOT_FOUND, "NoSuchKey", with_body=request.verb != "HEAD")
    if request.verb == "HEAD":
        return _head(HTTPStatus.OK, item.size)
    span = _RANGE.search(request.head)
    first, last = (int(span[1]), int(span[2] or item.size - 1)) if span else (0, item.size - 1)
    last = min(last, item.size - 1)
    archive = stub.archives.get(request.bucket)
    if archive is not None:
        body = archive.read(request.key, first, last)
    elif item.body is not None:
        body = item.body[first : last + 1]
    else:
        return _refuse(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented")  # a copy has no bytes
    if span is None:
        return _whole(body)
    return _head(HTTPStatus.PARTIAL_CONTENT, len(body), f"Content-Range: bytes {first}-{last}/{item.size}\r\n") + body


def _copy(stub: Stub, request: Request) -> bytes:
    source, condition = _SOURCE.search(request.head), _IF_MATCH.search(request.head)
    bucket, _, key = unquote(source[1].decode() if source else "").strip("/").partition("/")
    item = stub.find(bucket, key)
    if item is None:
        return _refuse(HTTPStatus.NOT_FOUND, "NoSuchKey")
    if condition is not None and condition[1] != ETAG.encode():
        return _refuse(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
    stub.keep(request.bucket, request.key, item)
    return _COPIED


def _delete(stub: Stub, request: Request) -> bytes:
    """Delete the object that a DELETE names, or those in the body of a POST."""
    named = [request.key] if request.key else map(unescape, _KEY.findall(request.body.decode()))
    for key in named:
        stub.kept.setdefault(request.bucket, Kept()).delete(key)
    return _whole(b"<DeleteResult/>")


def _list(stub: Stub, request: Request) -> bytes:
    query = request.query
    prefix, most = query.get("prefix", ""), min(_PAGE, int(query.get("max-keys", _PAGE)))
    keys = stub.keys_below(request.bucket, prefix)
    after = query.get("continuation-token") or query.get("start-after", "")
    first = max(bisect_right(keys, after), bisect_left(keys, prefix))
    if "delimiter" in query:
        return _listed(stub, request.bucket, [], list_folders(keys, first, prefix))
    page = [key for key in keys[first : first + most] if key.startswith(prefix)]
    more = len(page) == most and first + most < len(keys) and keys[first + most].startswith(prefix)
    return _listed(stub, request.bucket, page, [], page[-1] if more else "")


def _listed(stub: Stub, bucket: str, keys: Sequence[str], folders: Sequence[str], token: str = "") -> bytes:
    archive = stub.archives.get(bucket)
    sizes = [SIZE] * len(keys) if archive is not None else [_size(stub, bucket, key) for key in keys]
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{MODIFIED}</LastModified>"
        f"<ETag>&quot;{ETAG}&quot;</ETag><Size>{size}</Size></Contents>"
        for key, size in zip(keys, sizes, strict=True)
    )
    prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    return _whole(
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>{'true' if token else 'false'}</IsTruncated>"
        f"{more}{rows}{prefixes}</ListBucketResult>".encode()
    )


def _size(stub: Stub, bucket: str, key: str) -> int:
    item = stub.find(bucket, key)
    return 0 if item is None else item.size


def _head(status: HTTPStatus, length: int, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nx-amz-request-id: 318BC8BC148832E5\r\n{_MODIFIED_HEADER}"
        f'ETag: "{ETAG}"\r\n{more}Content-Length: {length}\r\n\r\n'
    ).encode()


def _whole(body: bytes) -> bytes:
    return _head(HTTPStatus.OK, len(body)) + body


def _refuse(status: HTTPStatus, code: str, *, with_body: bool = True) -> bytes:
    body = f"<Error><Code>{code}</Code></Error>".encode() if with_body else b""
    return _head(status, len(body)) + body


_COPIED = _whole(
    b'<?xml version="1.0" encoding="UTF-8"?>\n<CopyObjectResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<LastModified>%b</LastModified><ETag>&quot;%b&quot;</ETag></CopyObjectResult>"
    % (MODIFIED.encode(), ETAG.encode())
)


_HANDLERS: dict[str, Callable[[Stub, Request], bytes]] = {
    "list": _list,
    "get": _read,
    "head": _read,
    "copy": _copy,
    "put": _put,
    "delete": _delete,
    "delete many": _delete,
}


class _Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
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
            self._take(Request.of(head, body))

    def _take(self, request: Request) -> None:
        """Answer a request when its time has come: clients send the next one only then."""
        if request.bucket == COUNTS.split("/")[1]:
            return self._send(_whole(json.dumps(self._stub.counts()).encode()))
        wait = self._stub.wait_for(request.kind, request.bucket)
        if wait is None:
            return self._send(_refuse(HTTPStatus.SERVICE_UNAVAILABLE, "SlowDown"))
        if not wait:
            return self._send(answer(self._stub, request))
        asyncio.get_running_loop().call_later(wait, lambda: self._send(answer(self._stub, request)))
        return None

    def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


def command(
    archives: dict[str, int],
    rates: dict[str, float] | None = None,
    delays: dict[str, float] | None = None,
    *,
    port: int = 0,
) -> list[str]:
    """Return the command that serves archives of so many objects, with rates and delays by kind of request."""
    flags = [f"--archive={bucket}={objects}" for bucket, objects in archives.items()]
    flags += [f"--rate={kind}={value}" for kind, value in (rates or {}).items()]
    flags += [f"--delay={kind}={value}" for kind, value in (delays or {}).items()]
    return [sys.executable, "-m", "benchmarks.stub_s3", f"--port={port}", *flags]


@contextmanager
def stub_s3(
    archives: dict[str, int], rates: dict[str, float] | None = None, delays: dict[str, float] | None = None
) -> Iterator[str]:
    """Serve from a process of its own, as `command` says, and yield the endpoint."""
    with subprocess.Popen(command(archives, rates, delays), stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            assert server.stdout is not None  # noqa: S101  # for mypy: it is a pipe
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def _pairs(texts: Sequence[str]) -> dict[str, float]:
    return {name: float(value) for name, _, value in (text.partition("=") for text in texts)}


async def serve(stub: Stub, port: int) -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(stub), "127.0.0.1", port, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main(arguments: Sequence[str]) -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stub_s3", description="A stub of S3 for loads.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--archive", action="append", default=[], metavar="BUCKET=OBJECTS")
    parser.add_argument("--rate", action="append", default=[], metavar="KIND=PER_SECOND", help="of get and copy")
    parser.add_argument("--delay", action="append", default=[], metavar="KIND=SECONDS", help="the median")
    given = parser.parse_args(arguments)
    archives = {
        bucket: Archive(number, int(objects))
        for number, (bucket, objects) in enumerate(_pairs(given.archive).items(), start=1)
    }
    rates = {kind: Rate(per_second) for kind, per_second in _pairs(given.rate).items()}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Stub(archives, rates, _pairs(given.delay)), given.port))


if __name__ == "__main__":
    main(sys.argv[1:])
