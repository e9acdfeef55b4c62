"""The parse stage: the wanted attributes of each arrival, from as few bytes of it as possible; never its pixels.

Every arrival gives exactly one row. What is wrong with one object is its row's reason; what is wrong with S3 as a whole
ends the task, so that it can be retried. Rows are written as they come, so that a task's memory does not grow with its
shard.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import uvloop

from airlock.dicom.errors import HeaderError
from airlock.dicom.fetch import Arrival, RangeReader, S3UnavailableError
from airlock.dicom.header import KIB, MIB, header_plan, quiet_pydicom
from airlock.dicom.sop_classes import is_image
from airlock.imaging.reading import Reading, keep
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS
from airlock.stages.sidecars import sidecar_pattern

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping

    from airlock.dicom.errors import Doubt
    from airlock.dicom.header import Header
    from airlock.dicom.ranged import Range
    from airlock.pipelines import ParseSettings
    from airlock.run import Run
    from airlock.storage.s3 import S3

    Progress = Callable[[int], None]
    Row = tuple[Any, ...]  # of records.HEADERS

FRAME_ROWS = 1_000  # rows kept as Python objects, about 2 KB each: few, since no answer is taken while a frame is made
PART_ROWS = 10_000
_PROGRESS_EVERY = 1_000  # arrivals
_NO_DICOM = frozenset({Reason.EMPTY_OBJECT, Reason.NOT_DICOM, Reason.GZIP_ENCODED})
_ARRIVAL = ("arrival_id", *Arrival._fields)


def parse_shard(run: Run, shard: str, progress: Progress | None = None) -> Reading:
    """Read the headers of a shard's arrivals: ``arrivals/<shard>`` to ``headers/<shard>``; keep what it has cost.

    Parameters
    ----------
    run
        The run.
    shard
        The shard's name.
    progress
        Is told now and then how many arrivals are done.

    Raises
    ------
    S3UnavailableError
        If S3 cannot be read at all: no connection, refused credentials, no such bucket.
    """
    arrivals = run.workspace.parts(f"arrivals/{shard}", ARRIVALS)
    with run.workspace.writer(f"headers/{shard}", HEADERS, PART_ROWS) as writer:
        reading = read_headers(arrivals, run.s3, run.pipeline.parse, writer.add, progress)
    keep(run.workspace, shard, reading)
    return reading


def parse(arrivals: pl.DataFrame, s3: S3, settings: ParseSettings, progress: Progress | None = None) -> pl.DataFrame:
    """Return the headers of a few arrivals, in their order; the other parameters are those of `read_headers`."""
    frames = [HEADERS.to_frame()]
    read_headers([arrivals], s3, settings, frames.append, progress)
    return arrivals.select("arrival_id").join(pl.concat(frames), on="arrival_id", how="left", maintain_order="left")


def read_headers(
    arrivals: Iterable[pl.DataFrame],
    s3: S3,
    settings: ParseSettings,
    write: Callable[[pl.DataFrame], None],
    progress: Progress | None = None,
) -> Reading:
    """Read the headers of arrivals.

    Parameters
    ----------
    arrivals
        Rows of ``records.ARRIVALS``, frame by frame.
    s3
        Where they lie.
    settings
        Requests in flight, sizes of ranges, names of sidecars.
    write
        Takes rows of ``records.HEADERS``, one per arrival, about in the order of the arrivals.
    progress
        Is told now and then how many arrivals are done.

    Raises
    ------
    S3UnavailableError
        If S3 cannot be read at all.
    """
    shard = _Shard(arrivals, RangeReader(s3, settings), settings, write, progress)
    with quiet_pydicom():
        _run(shard.read())
    return shard.reading


def _run(reading: Coroutine[Any, Any, None]) -> None:
    """Run to the end on uvloop, which hands over what obstore's threads have read with a fifth less CPU.

    What the handler of a signal raises is raised here: so Airflow ends a task that takes too long. uvloop alone would
    log it and go on.
    """
    raised: list[BaseException] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:  # no word of other contexts: an error that nobody waits for any more may name a key
            raised.append(context["exception"])
            loop.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(note)
        try:
            runner.run(reading)
        except RuntimeError:  # the loop was stopped
            if raised:
                raise raised[0] from None
            raise


class _Object:
    """One arrival whose header is being read."""

    __slots__ = ("answer", "arrival", "arrival_id", "bytes_read", "plan", "requests", "span")

    answer: Awaitable[bytes]  # of the range that was asked for last
    span: Range

    def __init__(self, arrival_id: str, arrival: Arrival, plan: Generator[Range, bytes, Header]) -> None:
        self.arrival_id = arrival_id
        self.arrival = arrival
        self.plan = plan
        self.requests = 0
        self.bytes_read = 0


class _Found(NamedTuple):
    """What became of one arrival."""

    reason: Reason | None = None
    detail: str | None = None
    warning: Reason | None = None
    values: Mapping[str, str] = MappingProxyType({})
    doubt: Doubt | None = None


class _Shard:
    """The headers of a shard as they come in.

    The workers ask for the next range before they parse the one that came: so many requests are in the air all the
    time, and never more. An object that needs a second range gets it before a new object is begun.
    """

    def __init__(
        self,
        arrivals: Iterable[pl.DataFrame],
        reader: RangeReader,
        settings: ParseSettings,
        write: Callable[[pl.DataFrame], None],
        progress: Progress | None,
    ) -> None:
        self.reading = Reading()
        self._todo: Iterator[Row] = chain.from_iterable(frame.select(_ARRIVAL).iter_rows() for frame in arrivals)
        self._further: deque[_Object] = deque()  # that need another range
        self._rows: list[Row] = []
        self._reader = reader
        self._in_flight = settings.in_flight
        self._first_range = first_range_by_key(settings)
        self._max_bytes = settings.max_header_mib * MIB
        self._sidecar = sidecar_pattern(settings.sidecars)
        self._write = write
        self._progress = progress

    async def read(self) -> None:
        """Read every arrival."""
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._in_flight):
                    workers.create_task(self._work())
        except BaseExceptionGroup as failures:  # Airflow's timeout is no Exception; the first says why
            raise failures.exceptions[0] from None
        self._flush()
        if self._progress and self.reading.arrivals % _PROGRESS_EVERY:
            self._progress(self.reading.arrivals)

    async def _work(self) -> None:
        current = self._ask()
        while current is not None:
            data, trouble = b"", None
            try:
                data = await current.answer
            except S3UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001  (nothing about one object ends the task)
                trouble = error
            following = self._ask()
            if trouble is None:
                self._advance(current, data)
            else:
                self._fail(current, trouble)
            current = following or self._ask()

    def _ask(self) -> _Object | None:
        """Send the next request, if there is one to send."""
        current = self._further.popleft() if self._further else self._begin()
        if current is not None:
            current.requests += 1
            current.answer = self._reader.read(current.arrival, current.span)
        return current

    def _begin(self) -> _Object | None:
        for arrival_id, *fields in self._todo:
            arrival = Arrival(*fields)
            first = self._first_range(arrival.key)
            plan = header_plan(arrival.size, first_range=first, max_bytes=self._max_bytes)
            current = _Object(arrival_id, arrival, plan)
            try:
                current.span = next(plan)
            except HeaderError as error:  # an empty object: there is nothing to ask for
                self._fail(current, error)
            else:
                return current
        return None

    def _advance(self, current: _Object, data: bytes) -> None:
        """Parse what has come: the header, or the range that is needed next."""
        current.bytes_read += len(data)
        try:
            current.span = current.plan.send(data)
        except StopIteration as end:
            self._add(current, _found(end.value))
        except Exception as error:  # noqa: BLE001  (nothing about one object ends the task)
            self._fail(current, error)
        else:
            self._further.append(current)

    def _fail(self, current: _Object, error: Exception) -> None:
        if isinstance(error, HeaderError):
            self._add(current, self._not_found(error, current.arrival.key))
        else:
            self._add(current, _Found(Reason.UNREADABLE, type(error).__name__))

    def _not_found(self, error: HeaderError, key: str) -> _Found:
        name = key.rstrip("/").rpartition("/")[2]
        sidecar = error.reason in _NO_DICOM and self._sidecar.fullmatch(name.lower())
        reason = Reason.SIDECAR if sidecar else error.reason
        return _Found(reason, error.detail or None, values=error.values, doubt=error.doubt)

    def _add(self, current: _Object, found: _Found) -> None:
        reason, detail, warning, values, doubt = found
        cost = (current.bytes_read, current.requests)
        self._rows.append((current.arrival_id, reason, detail, warning, *map(values.get, ATTRIBUTES), doubt, *cost))
        self._count(current, found)
        if len(self._rows) == FRAME_ROWS:
            self._flush()
        if self._progress and self.reading.arrivals % _PROGRESS_EVERY == 0:
            self._progress(self.reading.arrivals)

    def _count(self, current: _Object, found: _Found) -> None:
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


def _found(header: Header) -> _Found:
    if header.undecodable:
        return _Found(None, ", ".join(header.undecodable), Reason.UNDECODABLE_TEXT, header.values, header.doubt)
    lacks_pixels = header.ends_without_pixels and is_image(header.values.get("SOPClassUID", ""))
    return _Found(warning=Reason.NO_PIXEL_DATA if lacks_pixels else None, values=header.values, doubt=header.doubt)


def first_range_by_key(settings: ParseSettings) -> Callable[[str], int]:
    """Return what gives the bytes of an object's first range, by its key: those of the longest prefix that it has."""
    default = settings.first_range_kib * KIB
    by_prefix = sorted(settings.first_ranges, key=lambda first: len(first.prefix), reverse=True)
    sizes = [(first.prefix, first.kib * KIB) for first in by_prefix]
    if not sizes:
        return lambda _key: default
    return lambda key: next((size for prefix, size in sizes if key.startswith(prefix)), default)
