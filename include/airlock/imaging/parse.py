"""Parse: read the wanted attributes of each arrival from as few bytes as possible, and never its pixels.

A range may end behind the header; bytes of the pixels in it are dropped undecoded.

Every arrival gets exactly one row. A fault of one object is the reason in its row; a fault of S3 as a whole ends the
task, which can be retried. Rows are written as they come, so that a task's memory does not grow with its shard.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from airlock.dicom.errors import HeaderError
from airlock.dicom.fetch import Arrival, RangeReader, S3UnavailableError
from airlock.dicom.header import MIB, header_plan, quiet_pydicom
from airlock.dicom.sop_classes import is_image
from airlock.imaging.first_ranges import FirstRanges
from airlock.imaging.reading import Reading, keep_reading
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS
from airlock.stages.sidecars import sidecar_pattern
from airlock.storage.event_loop import run_on_uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping

    from airlock.dicom.errors import Doubt
    from airlock.dicom.header import Header
    from airlock.dicom.ranged import Range
    from airlock.pipelines import ParseSettings
    from airlock.run import Run
    from airlock.storage.s3 import S3

    Progress = Callable[[int], None]
    Row = tuple[Any, ...]  # of records.HEADERS

FRAME_ROWS = 1_000  # rows held as Python objects of about 2 KB; few, since no answer is taken while a frame is made
PART_ROWS = 10_000
_PROGRESS_EVERY = 1_000  # arrivals
_NO_DICOM = frozenset({Reason.EMPTY_OBJECT, Reason.NOT_DICOM, Reason.GZIP_ENCODED})
_AHEAD = 4  # two answers one after the other, as the first long header of a folder needs, and slow ones
_ARRIVAL = ("arrival_id", *Arrival._fields)
_key_of = itemgetter(_ARRIVAL.index("key"))


def parse_shard(run: Run, shard: str, progress: Progress | None = None) -> Reading:
    """Read the headers of ``arrivals/<shard>`` into ``headers/<shard>``, and keep the counts of requests and bytes.

    Parameters
    ----------
    run
        The run.
    shard
        The shard's name.
    progress
        Called every now and then with the number of arrivals done.

    Raises
    ------
    S3UnavailableError
        If S3 cannot be read at all: no connection, refused credentials, no such bucket.
    """
    arrivals = run.workspace.parts(f"arrivals/{shard}", ARRIVALS)
    with run.workspace.writer(f"headers/{shard}", HEADERS, PART_ROWS) as writer:
        receive = run.pipeline.receive
        manifest = receive.manifest if receive.mode == "folder_manifests" else None
        reading = read_headers(arrivals, run.s3, run.pipeline.parse, writer.add, progress, manifest=manifest)
    keep_reading(run.workspace, shard, reading)
    return reading


def parse(arrivals: pl.DataFrame, s3: S3, settings: ParseSettings, progress: Progress | None = None) -> pl.DataFrame:
    """Return the headers of a few arrivals in their order; parameters as for `read_headers`."""
    frames = [HEADERS.to_frame()]
    read_headers([arrivals], s3, settings, frames.append, progress)
    return arrivals.select("arrival_id").join(pl.concat(frames), on="arrival_id", how="left", maintain_order="left")


def read_headers(
    arrivals: Iterable[pl.DataFrame],
    s3: S3,
    settings: ParseSettings,
    write: Callable[[pl.DataFrame], None],
    progress: Progress | None = None,
    *,
    manifest: str | None = None,
) -> Reading:
    """Read the headers of arrivals and return the counts.

    Parameters
    ----------
    arrivals
        Rows of ``records.ARRIVALS``, frame by frame.
    s3
        The objects' server.
    settings
        Requests in flight, sizes of ranges, names of sidecars.
    write
        Takes rows of ``records.HEADERS``, one per arrival, about in the order of the arrivals.
    progress
        Called every now and then with the number of arrivals done.
    manifest
        The name of the manifests in the folders, which senders write again; None if folders have none.

    Raises
    ------
    S3UnavailableError
        If S3 cannot be read at all.
    """
    shard = _Shard(arrivals, RangeReader(s3, settings), settings, write, progress, manifest=manifest)
    with quiet_pydicom():
        run_on_uvloop(shard.read())
    return shard.reading


class _Object:
    """One arrival whose header is being read."""

    __slots__ = ("answer", "arrival", "arrival_id", "bytes_read", "plan", "requests", "span")

    answer: Awaitable[bytes]  # of the range requested last
    span: Range

    def __init__(self, arrival_id: str, arrival: Arrival, plan: Generator[Range, bytes, Header]) -> None:
        self.arrival_id = arrival_id
        self.arrival = arrival
        self.plan = plan
        self.requests = 0
        self.bytes_read = 0


class _Result(NamedTuple):
    """The outcome of reading one header."""

    reason: Reason | None = None
    detail: str | None = None
    warning: Reason | None = None
    values: Mapping[str, str] = MappingProxyType({})
    doubt: Doubt | None = None


class _Shard:
    """The headers of a shard while they are read.

    A worker requests the next range before it parses the range that came: so the number of requests in flight stays the
    same all the time. An object that needs a second range gets it before a new object is begun. A folder is begun
    `_AHEAD` times as many objects before its turn as are in flight, so that its first headers have come by then.
    """

    def __init__(
        self,
        arrivals: Iterable[pl.DataFrame],
        reader: RangeReader,
        settings: ParseSettings,
        write: Callable[[pl.DataFrame], None],
        progress: Progress | None,
        *,
        manifest: str | None,
    ) -> None:
        self.reading = Reading()
        self._first_ranges = FirstRanges(settings)
        rows = chain.from_iterable(frame.select(_ARRIVAL).iter_rows() for frame in arrivals)
        self._todo: Iterator[Row] = self._first_ranges.ask_first(rows, _key_of, _AHEAD * settings.in_flight)
        self._further: deque[_Object] = deque()  # objects that need another range
        self._rows: list[Row] = []
        self._reader = reader
        self._in_flight = settings.in_flight
        self._max_bytes = settings.max_header_mib * MIB
        self._sidecar = sidecar_pattern(settings.sidecars)
        self._manifest = manifest
        self._write = write
        self._progress = progress

    async def read(self) -> None:
        """Read every arrival."""
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._in_flight):
                    workers.create_task(self._work())
        except BaseExceptionGroup as failures:  # Airflow's timeout is not an Exception; the first one is the cause
            raise failures.exceptions[0] from None
        self._flush()
        if self._progress and self.reading.arrivals % _PROGRESS_EVERY:
            self._progress(self.reading.arrivals)

    async def _work(self) -> None:
        current = self._request_next()
        while current is not None:
            data, trouble = b"", None
            try:
                data = await current.answer
            except S3UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001  (nothing about one object ends the task)
                trouble = error
            following = self._request_next()
            if trouble is None:
                self._advance(current, data)
            else:
                self._fail(current, trouble)
            current = following or self._request_next()

    def _request_next(self) -> _Object | None:
        """Send the next request; return its object, or None if all are read."""
        current = self._further.popleft() if self._further else self._begin_object()
        if current is not None:
            current.requests += 1
            current.answer = self._reader.read(current.arrival, current.span)
        return current

    def _begin_object(self) -> _Object | None:
        for arrival_id, *fields in self._todo:
            arrival = Arrival(*fields)
            first, prefetch = self._first_ranges.find(arrival.key)
            plan = header_plan(arrival.size, first_range=first, prefetch=prefetch, max_bytes=self._max_bytes)
            current = _Object(arrival_id, arrival, plan)
            try:
                current.span = next(plan)
            except HeaderError as error:  # an empty object needs no request
                self._fail(current, error)
            else:
                return current
        return None

    def _advance(self, current: _Object, data: bytes) -> None:
        """Parse the bytes that came: the result is the header, or the range that is needed next."""
        current.bytes_read += len(data)
        try:
            current.span = current.plan.send(data)
        except StopIteration as end:
            self._first_ranges.learn(current.arrival.key, end.value.reach)
            self._add_row(current, _describe_header(end.value))
        except Exception as error:  # noqa: BLE001  (nothing about one object ends the task)
            self._fail(current, error)
        else:
            self._further.append(current)

    def _fail(self, current: _Object, error: Exception) -> None:
        if isinstance(error, HeaderError):
            self._add_row(current, self._describe_failure(error, current.arrival.key))
        else:
            self._add_row(current, _Result(Reason.UNREADABLE, type(error).__name__))

    def _describe_failure(self, error: HeaderError, key: str) -> _Result:
        name = key.rstrip("/").rpartition("/")[2]
        sidecar = error.reason in _NO_DICOM and self._sidecar.fullmatch(name.lower())
        # Validate reads the newer manifest. The older one would hold its study, and no run would look for it again.
        rewritten = error.reason is Reason.OBJECT_CHANGED and name == self._manifest
        reason = Reason.SIDECAR if sidecar or rewritten else error.reason
        return _Result(reason, error.detail or None, values=error.values, doubt=error.doubt)

    def _add_row(self, current: _Object, found: _Result) -> None:
        reason, detail, warning, values, doubt = found
        cost = (current.bytes_read, current.requests)
        self._rows.append((current.arrival_id, reason, detail, warning, *map(values.get, ATTRIBUTES), doubt, *cost))
        self._count_cost(current, found)
        if len(self._rows) == FRAME_ROWS:
            self._flush()
        if self._progress and self.reading.arrivals % _PROGRESS_EVERY == 0:
            self._progress(self.reading.arrivals)

    def _count_cost(self, current: _Object, found: _Result) -> None:
        reading = self.reading
        reading.arrivals += 1
        reading.unread += found.reason is not None
        reading.requests += current.requests
        reading.bytes_read += current.bytes_read
        if found.doubt is not None:
            reading.left_to_pydicom(found.doubt.value)

    def _flush(self) -> None:
        if self._rows:
            self._write(pl.DataFrame(dict(zip(HEADERS, zip(*self._rows, strict=True), strict=True)), schema=HEADERS))
            self._rows.clear()


def _describe_header(header: Header) -> _Result:
    if header.undecodable:
        return _Result(None, ", ".join(header.undecodable), Reason.UNDECODABLE_TEXT, header.values, header.doubt)
    lacks_pixels = header.ends_without_pixels and is_image(header.values.get("SOPClassUID", ""))
    return _Result(warning=Reason.NO_PIXEL_DATA if lacks_pixels else None, values=header.values, doubt=header.doubt)
