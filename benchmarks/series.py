"""Header reading against GET only of the same ranges, by the same client, on series of one kind each.

The series of ``benchmarks.corpus`` come from a light server behind the proxy, so that the client is what is measured.
In a first turn Airlock notes the ranges that it asks for. Then Airlock and GET only of these ranges take turns, each in
a process of its own; the ratio is the median of the neighbouring pairs' ratios.
``python -m benchmarks.series`` prints the figures; numbers behind it are those of pairs and of series.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import obstore
import polars as pl

from airlock.dicom.fetch import Arrival, RangeReader, open_store
from airlock.imaging import parse
from airlock.pipelines import ParseSettings
from airlock.records import ARRIVALS
from airlock.storage.s3 import S3
from benchmarks.contestants import IN_FLIGHT, rows_of, run_in_flight
from benchmarks.corpus import series, truth
from benchmarks.header_s3 import SERIES, header_s3, write_variants
from benchmarks.headers import present
from benchmarks.machine import cpu_seconds
from benchmarks.proxy import Dials, proxy
from benchmarks.seaweed import REGION, client, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from obstore import GetOptions

    from airlock.dicom.ranged import Range

    Read = Callable[[int | None], list[pl.DataFrame]]  # of so many objects, or of all; the rows of records.HEADERS

COUNT = 100  # series; so many have every kind in its share
PAIRS = 5
FIRST_BYTE = 0.025  # median seconds
_WARM_UP = 64  # objects read before the clock starts
_SETTINGS = ParseSettings(in_flight=IN_FLIGHT)
_MODIFIED = datetime(2026, 11, 24, 2, tzinfo=UTC)


class Asked(NamedTuple):
    """One request that Airlock made."""

    key: str
    etag: str
    start: int
    end: int


@dataclass(frozen=True)
class Task:
    """The input of one turn.

    Parameters
    ----------
    reader
        ``airlock``, ``noting`` (the same, with its requests noted) or ``get_only``.
    endpoint
        The proxy's address.
    dials
        The proxy's file of counters.
    folder
        The folder with the arrivals, what pydicom reads from them, and the noted requests.
    """

    reader: str
    endpoint: str
    dials: str
    folder: str


@dataclass(frozen=True)
class Turn:
    """The figures of one turn, which its process prints as JSON."""

    objects_per_second: float
    cpu_ms_per_object: float
    requests_per_object: float
    kib_per_object: float
    differing: int  # objects whose values are not pydicom's; 0 where none are read


def measure(folder: Path, pairs: int = PAIRS, count: int = COUNT) -> dict[str, Any]:
    """Let Airlock and GET only read series in turns.

    Parameters
    ----------
    folder
        The folder for the input of the turns.
    pairs
        The turns of each.
    count
        The number of series.

    Returns
    -------
    dict
        ``series``, ``objects``, ``pairs``; ``airlock`` and ``get_only``, the medians of the figures of `Turn`, but the
        sum of ``differing``; ``ratio``, Airlock's objects per second over those of GET only.
    """
    objects = _prepare(folder, count)
    with header_s3(folder / "variants") as server, proxy(server, folder / "proxy") as before:
        Dials(before.dials).first_byte = FIRST_BYTE
        turn = partial(_turn, endpoint=before.endpoint, dials=str(before.dials), folder=str(folder))
        turn("noting")
        turns: dict[str, list[Turn]] = {"airlock": [], "get_only": []}
        for number in range(pairs):
            for reader in sorted(turns, reverse=bool(number % 2)):
                turns[reader].append(turn(reader))
    both = zip(turns["airlock"], turns["get_only"], strict=True)
    ratio = median(airlock.objects_per_second / floor.objects_per_second for airlock, floor in both)
    facts = {"series": count, "objects": objects, "pairs": pairs, "ratio": round(ratio, 3)}
    return facts | {reader: _summary(own) for reader, own in turns.items()}


def _prepare(folder: Path, count: int) -> int:
    """Write the variants, the arrivals and what pydicom reads from them; return the number of arrivals."""
    variants = write_variants(folder / "variants")
    members = list(series(count))
    rows = [
        (f"{number:032x}", SERIES, member.key, None, variant.etag, len(variant.body), _MODIFIED)
        for number, member in enumerate(members)
        for variant in [variants[member.kind, member.variant]]
    ]
    pl.DataFrame(rows, schema=ARRIVALS, orient="row").write_parquet(folder / "arrivals.parquet")
    known = {variant.etag: present(truth(variant.body)) for variant in variants.values()}
    (folder / "known.json").write_text(json.dumps(known), encoding="utf-8")
    return len(rows)


def _turn(reader: str, **given: str) -> Turn:
    command = [sys.executable, "-m", "benchmarks.series", json.dumps(asdict(Task(reader, **given)))]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  (ourselves)
    turn = Turn(**json.loads(reply.stdout))
    sys.stdout.write(
        f"  {reader:9} {turn.objects_per_second:7,.0f} objects/s, {turn.cpu_ms_per_object:.2f} ms of CPU each\n"
    )
    sys.stdout.flush()
    return turn


def _summary(turns: Sequence[Turn]) -> dict[str, float]:
    rows = [asdict(turn) for turn in turns]
    middle = {name: round(median(row[name] for row in rows), 3) for name in rows[0]}
    return middle | {"differing": sum(turn.differing for turn in turns)}


# --- in a turn's own process ------------------------------------------------------------------------------------------


def run(task: Task) -> Turn:
    """Run one turn in this process."""
    folder, dials = Path(task.folder), Dials(Path(task.dials))
    arrivals = pl.read_parquet(folder / "arrivals.parquet")
    read = _READERS[task.reader](S3(session(), client(task.endpoint)), folder, arrivals)
    read(_WARM_UP)
    counted, used, began = dials.counts(), cpu_seconds(), time.perf_counter()
    frames = read(None)
    seconds, cpu, counts = time.perf_counter() - began, cpu_seconds() - used, dials.counts().since(counted)
    each = arrivals.height
    return Turn(
        each / seconds,
        1000 * cpu / each,
        counts.requests / each,
        counts.bytes / 1024 / each,
        count_differing(frames, arrivals, folder) if frames else 0,
    )


def _read_headers(s3: S3, _folder: Path, arrivals: pl.DataFrame) -> Read:
    def read(limit: int | None) -> list[pl.DataFrame]:
        frames: list[pl.DataFrame] = []
        parse.read_headers([arrivals.slice(0, limit)], s3, _SETTINGS, frames.append)
        return frames

    return read


def _note_requests(s3: S3, folder: Path, arrivals: pl.DataFrame) -> Read:
    def read(limit: int | None) -> list[pl.DataFrame]:
        asked: list[Asked] = []

        class Noting(RangeReader):
            def read(self, arrival: Arrival, span: Range) -> Awaitable[bytes]:
                asked.append(Asked(arrival.key, arrival.etag, *span))
                return super().read(arrival, span)

        with mock.patch.object(parse, "RangeReader", Noting):
            frames = _read_headers(s3, folder, arrivals)(limit)
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        return frames

    return read


def _get_only(s3: S3, folder: Path, _arrivals: pl.DataFrame) -> Read:
    requests = [Asked(*row) for row in json.loads((folder / "asked.json").read_text(encoding="utf-8"))]

    def read(limit: int | None) -> list[pl.DataFrame]:
        store = open_store(s3, SERIES, REGION, _SETTINGS)

        async def get(asked: Asked) -> None:
            options: GetOptions = {"range": (asked.start, asked.end), "if_match": f'"{asked.etag}"'}
            await (await obstore.get_async(store, asked.key, options=options)).bytes_async()

        run_in_flight(get, requests[:limit])
        return []

    return read


_READERS = {"airlock": _read_headers, "noting": _note_requests, "get_only": _get_only}


def count_differing(frames: Sequence[pl.DataFrame], arrivals: pl.DataFrame, folder: Path) -> int:
    """Return the number of arrivals whose headers do not have the values that pydicom reads."""
    known = json.loads((folder / "known.json").read_text(encoding="utf-8"))
    rows = rows_of(pl.concat(frames).sort("arrival_id"))
    return sum(present(row or {}) != known[etag] for row, etag in zip(rows, arrivals["etag"], strict=True))


def main(arguments: Sequence[str]) -> None:
    """Run one turn, described by JSON, or print all figures."""
    if arguments and arguments[0].startswith("{"):
        sys.stdout.write(json.dumps(asdict(run(Task(**json.loads(arguments[0]))))) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), *map(int, arguments))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
