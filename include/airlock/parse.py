"""The parse stage: the wanted attributes of each arrival, from as few bytes of it as possible; never its pixels.

Every arrival gives exactly one row. What is wrong with one object is its row's reason; what is wrong with S3 as a whole
ends the task, so that it can be retried.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.dicom.errors import HeaderError
from airlock.dicom.fetch import Arrival, RangeReader, S3UnavailableError
from airlock.dicom.header import KIB, MIB, Header, header_plan, quiet_pydicom
from airlock.reasons import Reason
from airlock.records import HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.pipelines import ParseSettings
    from airlock.s3 import S3

    Progress = Callable[[int, int], None]

_PROGRESS_EVERY = 100  # arrivals
_NO_DICOM = frozenset({Reason.EMPTY_OBJECT, Reason.NOT_DICOM, Reason.GZIP_ENCODED})


def parse(arrivals: pl.DataFrame, s3: S3, settings: ParseSettings, progress: Progress | None = None) -> pl.DataFrame:
    """Read the headers of a shard's arrivals.

    Parameters
    ----------
    arrivals
        Rows of ``records.ARRIVALS``.
    s3
        Where they lie.
    settings
        Requests in flight, sizes of ranges, names of sidecars.
    progress
        Is told now and then how many of how many arrivals are done.

    Returns
    -------
    pl.DataFrame
        Of ``records.HEADERS``: one row per arrival, in their order.

    Raises
    ------
    S3UnavailableError
        If S3 cannot be read at all: no connection, refused credentials, no such bucket.
    """
    shard = _Shard(arrivals, RangeReader(s3, settings), settings, progress)
    with quiet_pydicom():
        asyncio.run(shard.read())
    return pl.DataFrame(shard.columns, schema=HEADERS)


@dataclass
class _Cost:
    """What one arrival has cost so far."""

    requests: int = 0
    bytes_read: int = 0


class _Shard:
    """The rows of a shard as they fill, column by column."""

    def __init__(
        self, arrivals: pl.DataFrame, reader: RangeReader, settings: ParseSettings, progress: Progress | None
    ) -> None:
        self.columns: dict[str, list[Any]] = {name: [None] * arrivals.height for name in HEADERS}
        self._todo: Iterator[tuple[int, dict[str, Any]]] = enumerate(arrivals.iter_rows(named=True))
        self._total = arrivals.height
        self._reader = reader
        self._settings = settings
        self._progress = progress
        self._done = 0
        self._sidecar = sidecar_pattern(settings.sidecars)

    async def read(self) -> None:
        """Read every arrival, as many at a time as the settings allow."""
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._settings.in_flight, self._total)):
                    workers.create_task(self._work())
        except ExceptionGroup as failures:  # the others were cancelled: the first says why
            raise failures.exceptions[0] from None

    async def _work(self) -> None:
        for index, arrival in self._todo:
            row = await self._row(Arrival(*(arrival[name] for name in Arrival._fields)))
            for name, value in (row | {"arrival_id": arrival["arrival_id"]}).items():
                self.columns[name][index] = value
            self._done += 1
            if self._progress and (self._done % _PROGRESS_EVERY == 0 or self._done == self._total):
                self._progress(self._done, self._total)

    async def _row(self, arrival: Arrival) -> dict[str, Any]:
        cost = _Cost()
        try:
            found = _found(await self._header(arrival, cost))
        except S3UnavailableError:
            raise
        except HeaderError as error:
            found = self._not_found(error, arrival)
        except Exception as error:  # noqa: BLE001  (nothing about one object ends the task)
            found = {"reason": Reason.UNREADABLE.value, "detail": type(error).__name__}
        return found | {"requests": cost.requests, "bytes_read": cost.bytes_read}

    async def _header(self, arrival: Arrival, cost: _Cost) -> Header:
        first, most = self._settings.first_range_kib * KIB, self._settings.max_header_mib * MIB
        plan = header_plan(arrival.size, first_range=first, max_bytes=most)
        span = next(plan)
        while True:
            cost.requests += 1
            data = await self._reader.read(arrival, span)
            cost.bytes_read += len(data)
            try:
                span = plan.send(data)
            except StopIteration as end:
                header: Header = end.value
                return header

    def _not_found(self, error: HeaderError, arrival: Arrival) -> dict[str, Any]:
        name = arrival.key.rstrip("/").rpartition("/")[2]
        sidecar = error.reason in _NO_DICOM and self._sidecar.fullmatch(name.lower())
        reason = Reason.SIDECAR if sidecar else error.reason
        return error.values | {"reason": reason.value, "detail": error.detail or None, "fallback": error.doubt}


def _found(header: Header) -> dict[str, Any]:
    found = header.values | {"fallback": header.doubt}
    if not header.undecodable:
        return found
    return found | {"warning": Reason.UNDECODABLE_TEXT.value, "detail": ", ".join(header.undecodable)}


def sidecar_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for the shell patterns of sidecars' names, to be matched in lower case."""
    return re.compile("|".join(fnmatch.translate(name.lower()) for name in names) or r"(?!)")
