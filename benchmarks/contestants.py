"""The contestants of ``make bench``: ways to read the headers of a corpus, each run in a process of its own.

Every contestant that parses reads all of ``records.ATTRIBUTES`` as text. Those with pydicom use it as an expert would:
``stop_before_pixels`` and ``specific_tags``, one client for all threads, a connection for each. Each contestant imports
its own libraries, so that the peak RSS is its own; all import boto3.
"""
# ruff: noqa: PLC0415  (each contestant imports its own libraries)

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from benchmarks.machine import cpu_seconds, peak_rss_mib
from benchmarks.proxy import Dials
from benchmarks.seaweed import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import polars as pl
    from obstore.store import S3Store

    Values = dict[str, str]
    Read = Callable[["Sequence[Object]"], Any]

BUCKET = "bench-archive"
FIRST_RANGE = 16 << 10  # bytes
IN_FLIGHT = 64  # requests of obstore, threads of boto3 and s3fs
_WARM_UP = 64  # objects read before the clock starts, so that imports and connections are not in the figures
_GROWTH = 4


class Object(NamedTuple):
    """One object of the corpus as the server lists it."""

    key: str
    etag: str  # without quotes
    size: int  # bytes
    last_modified: str  # ISO 8601


@dataclass(frozen=True)
class Task:
    """The input of one run of a contestant.

    Parameters
    ----------
    contestant
        A name of ``CONTESTANTS``.
    endpoint
        The proxy's address.
    dials
        The proxy's file of counters.
    pids
        The process ids of server and proxy, whose CPU is part of the figures.
    index
        A JSON file with the rows of ``Object``.
    rows
        The JSON file for the values that were read; the caller compares them.
    times
        How often the corpus is read in one go; fast contestants need more objects for a stable figure.
    """

    contestant: str
    endpoint: str
    dials: str
    pids: dict[str, int]
    index: str
    rows: str
    times: int = 1


@dataclass(frozen=True)
class Run:
    """The cost of one run, which its process prints as JSON."""

    objects: int
    seconds: float
    cpu_seconds: float  # user and system, of the contestant
    peak_rss_mib: float  # of the contestant since it started
    requests: int
    bytes: int
    connections: int
    server_cpu_seconds: dict[str, float]  # by the names of Task.pids


# --- the floor: requests and nothing else -----------------------------------------------------------------------------


def floor_get_range(endpoint: str) -> Read:
    """Read the first range with obstore's ``get_range_async`` and throw it away."""
    import obstore

    store = _obstore(endpoint)

    async def one(item: Object) -> None:
        await obstore.get_range_async(store, item.key, start=0, end=min(FIRST_RANGE, item.size))

    return partial(run_in_flight, one)


def floor_get_if_match(endpoint: str) -> Read:
    """Read the first range with obstore's ``get_async``, guarded by the etag, and throw it away."""
    import obstore

    store = _obstore(endpoint)

    async def one(item: Object) -> None:
        span = (0, min(FIRST_RANGE, item.size))
        reply = await obstore.get_async(store, item.key, options={"range": span, "if_match": f'"{item.etag}"'})
        await reply.bytes_async()

    return partial(run_in_flight, one)


def _obstore(endpoint: str) -> S3Store:
    from obstore.store import S3Store

    return S3Store(
        BUCKET,
        endpoint=endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def run_in_flight(one: Callable[[Any], Any], objects: Sequence[Any]) -> list[Values | None]:
    """Await a function for all objects, so many at the same time as Airlock does, and on the same event loop."""
    import uvloop

    todo = iter(objects)

    async def work() -> None:
        for item in todo:
            await one(item)

    async def together() -> None:
        async with asyncio.TaskGroup() as workers:
            for _ in range(IN_FLIGHT):
                workers.create_task(work())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as Airlock has it
        runner.run(together())
    return [None] * len(objects)


# --- Airlock ----------------------------------------------------------------------------------------------------------


def airlock(endpoint: str) -> Read:
    """Run the parse stage as a mapped task does, on a frame of arrivals."""
    import polars as pl

    from airlock.imaging.parse import parse
    from airlock.pipelines import ParseSettings
    from airlock.records import ARRIVALS
    from airlock.storage.s3 import S3
    from benchmarks.seaweed import client, session

    s3, settings = S3(session(), client(endpoint)), ParseSettings(in_flight=IN_FLIGHT)

    def read(objects: Sequence[Object]) -> pl.DataFrame:
        ids = [f"{number:032x}" for number in range(len(objects))]  # an object may be there more than once
        listed = pl.DataFrame(objects, schema=Object._fields, orient="row")
        listed = listed.with_columns(pl.col("last_modified").str.to_datetime(time_unit="us", time_zone="UTC"))
        listed = listed.with_columns(pl.lit(BUCKET).alias("bucket"), pl.lit(None, pl.String).alias("version_id"))
        arrivals = listed.with_columns(pl.Series("arrival_id", ids)).select(ARRIVALS.names()).cast(ARRIVALS)
        return parse(arrivals, s3, settings)

    return read


def rows_of(headers: pl.DataFrame) -> list[Values | None]:
    """Return rows of ``records.HEADERS`` as the other contestants have them."""
    from airlock.records import ATTRIBUTES

    rows = headers.select(ATTRIBUTES).iter_rows(named=True)
    return [{name: text for name, text in row.items() if text is not None} for row in rows]


# --- pydicom ----------------------------------------------------------------------------------------------------------


def boto3_full(endpoint: str) -> Read:
    """Get whole objects with boto3 and give them to ``dcmread``."""
    from benchmarks.seaweed import client

    s3, parse = client(endpoint, **_boto_config()), _dcmread()

    def one(item: Object) -> Values:
        return parse(BytesIO(s3.get_object(Bucket=BUCKET, Key=item.key)["Body"].read()))

    return partial(_in_threads, one)


def boto3_ranged(endpoint: str) -> Read:
    """Give ``dcmread`` a file that fetches the ranges it reads with boto3.

    A prefix is not enough: if it ends before a wanted element, ``dcmread`` omits the element without an error.
    """
    from benchmarks.seaweed import client

    s3, parse = client(endpoint, **_boto_config()), _dcmread()

    def one(item: Object) -> Values:
        def get(start: int, end: int) -> bytes:
            reply = s3.get_object(Bucket=BUCKET, Key=item.key, IfMatch=item.etag, Range=f"bytes={start}-{end - 1}")
            body: bytes = reply["Body"].read()
            return body

        return parse(RangedFile(get, item.size))

    return partial(_in_threads, one)


def s3fs_open(endpoint: str) -> Read:
    """Give ``dcmread`` a file that s3fs opens."""
    import s3fs  # type: ignore[import-untyped]

    parse = _dcmread()
    files = s3fs.S3FileSystem(
        key=ACCESS_KEY,
        secret=SECRET_KEY,
        client_kwargs={"endpoint_url": endpoint, "region_name": REGION},
        config_kwargs={"max_pool_connections": IN_FLIGHT},
    )

    def one(item: Object) -> Values:
        with files.open(f"{BUCKET}/{item.key}", "rb") as file:
            return parse(file)

    return partial(_in_threads, one)


def _boto_config() -> dict[str, Any]:
    """Return boto3's fastest configuration: a connection per thread, no optional checksums."""
    return {
        "max_pool_connections": IN_FLIGHT,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }


def _dcmread() -> Callable[[Any], Values]:
    import pydicom

    from airlock.records import ATTRIBUTES
    from benchmarks.corpus import texts

    tags = [keyword for keyword in ATTRIBUTES if keyword != "TransferSyntaxUID"] + ["RequestAttributesSequence"]

    def read(file: Any) -> Values:
        return texts(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags)))

    return read


def _in_threads(one: Callable[[Object], Values], objects: Iterable[Object]) -> list[Values | None]:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(one, objects))


class RangedFile:
    """A file that fetches ranges as it is read, each larger than the one before, and keeps the last contiguous bytes.

    Parameters
    ----------
    get
        Returns the bytes from a start to an end.
    size
        The file's size in bytes.
    """

    def __init__(self, get: Callable[[int, int], bytes], size: int) -> None:
        self._get, self._size = get, size
        self._start, self._data = 0, b""
        self._position = 0
        self._step = FIRST_RANGE

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer only at the end."""
        start = self._position
        end = self._size if size < 0 else min(start + size, self._size)
        if end <= start:
            return b""
        self._fetch(start, end)
        self._position = end
        return self._data[start - self._start : end - self._start]

    def _fetch(self, start: int, end: int) -> None:
        here = self._start + len(self._data)
        if self._start <= start and end <= here:
            return
        follows = self._start <= start <= here
        first = here if follows else start
        more = self._get(first, min(max(end, first + self._step), self._size))
        self._start, self._data = (self._start, self._data + more) if follows else (first, more)
        self._step *= _GROWTH

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position without fetching anything."""
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position


@dataclass(frozen=True)
class Contestant:
    """One way to read headers.

    Parameters
    ----------
    title
        The name in tables.
    prepare
        Makes the client and returns the function that is measured.
    parses
        Whether the function returns values.
    rows
        Converts the function's result to values, outside the measurement.
    """

    title: str
    prepare: Callable[[str], Read]
    parses: bool = True
    rows: Callable[[Any], list[Values | None]] = list


CONTESTANTS = {
    "floor": Contestant("GET only (get_range)", floor_get_range, parses=False),
    "floor_if_match": Contestant("GET only (get, If-Match)", floor_get_if_match, parses=False),
    "airlock": Contestant("Airlock", airlock, rows=rows_of),
    "boto3_full": Contestant("boto3 full GET + dcmread", boto3_full),
    "boto3_ranged": Contestant("boto3 ranges + dcmread", boto3_ranged),
    "s3fs": Contestant("s3fs + dcmread", s3fs_open),
}


def run(task: Task) -> tuple[Run, list[Values | None]]:
    """Run a contestant once in this process; return its cost and the values it read."""
    objects = [Object(*row) for row in json.loads(Path(task.index).read_text(encoding="utf-8"))] * task.times
    dials, servers = Dials(Path(task.dials)), {name: psutil.Process(pid) for name, pid in task.pids.items()}
    read = CONTESTANTS[task.contestant].prepare(task.endpoint)
    read(objects[:_WARM_UP])
    theirs = {name: cpu_seconds(process) for name, process in servers.items()}
    counted, used = dials.counts(), cpu_seconds()
    began = time.perf_counter()
    found = read(objects)
    seconds = time.perf_counter() - began
    cost = Run(
        len(objects),
        seconds,
        cpu_seconds() - used,
        peak_rss_mib(),
        *dials.counts().since(counted),
        {name: cpu_seconds(process) - theirs[name] for name, process in servers.items()},
    )
    return cost, CONTESTANTS[task.contestant].rows(found)


def main() -> None:
    """Run the task in the JSON file named by the first argument, and print its cost."""
    task = Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    cost, rows = run(task)
    Path(task.rows).write_text(json.dumps(rows), encoding="utf-8")
    sys.stdout.write(json.dumps(asdict(cost)) + "\n")


if __name__ == "__main__":
    main()
