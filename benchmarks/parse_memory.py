"""The memory of a parse task: ``parse_shard`` over 10 thousand and a million objects, each in a process of its own.

The server costs next to nothing (`benchmarks.header_s3`); every object is one request of 16 KiB. What is compared is
the peak RSS of the process that parses, imports included.
``python -m benchmarks.parse_memory`` prints a table; ``python -m benchmarks.parse_memory 10000 100000`` is shorter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3
import polars as pl
from tests.unit.airlock.world import pipeline

from airlock.imaging.parse import parse_shard
from airlock.records import ARRIVALS
from airlock.run import Run
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import PART_ROWS
from benchmarks.header_s3 import ARCHIVE, ETAG, SIZE, header_s3, key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.ledger import Ledger

SIZES = (10_000, 1_000_000)
PEAK_MIB, SPREAD = 300, 1.2  # the bars: at most so much, and the larger so many times the smaller at most
_SHARD = "0000"


def measure(sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Parse shards of these sizes.

    Returns
    -------
    dict
        ``runs``, one per size: ``objects``, ``seconds``, ``start_mib`` (RSS before the first request), ``peak_mib``
        and the task's own counts; ``peak_mib``, the highest, and ``spread``, it over the lowest; ``met``.
    """
    with header_s3() as endpoint:
        runs = [_in_a_process(endpoint, objects) for objects in sizes]
    peaks = [run["peak_mib"] for run in runs]
    spread = max(peaks) / min(peaks)
    met = max(peaks) <= PEAK_MIB and spread <= SPREAD
    return {"runs": runs, "peak_mib": max(peaks), "spread": round(spread, 3), "met": met}


def _in_a_process(endpoint: str, objects: int) -> dict[str, Any]:
    run = _run(endpoint, str(objects))
    with run.workspace.writer(f"arrivals/{_SHARD}", ARRIVALS) as writer:
        for arrivals in _arrivals(objects):
            writer.add(arrivals)
    command = [sys.executable, "-m", "benchmarks.parse_memory", endpoint, str(objects)]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
    found: dict[str, Any] = json.loads(reply.stdout)
    if (found["arrivals"], found["unread"]) != (objects, 0):
        raise RuntimeError(
            f"{found['arrivals']} of {objects} objects were parsed, but {found['unread']} of them could not be read"
        )
    return found


def _arrivals(objects: int) -> Iterator[pl.DataFrame]:
    listed = {"version_id": None, "etag": ETAG, "size": SIZE, "last_modified": datetime(2026, 11, 24, 2, tzinfo=UTC)}
    for start in range(0, objects, PART_ROWS):
        numbers = range(start, min(start + PART_ROWS, objects))
        own = {"arrival_id": [f"{number:032x}" for number in numbers], "key": [key(number) for number in numbers]}
        rows = pl.DataFrame(own).with_columns(bucket=pl.lit(ARCHIVE), **{n: pl.lit(v) for n, v in listed.items()})
        yield rows.select(ARRIVALS.names()).cast(ARRIVALS)


def _run(endpoint: str, name: str) -> Run:
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    s3 = S3(session, session.client("s3", endpoint_url=endpoint))
    line = pipeline(source={"uri": f"s3://{ARCHIVE}/in/"})
    return Run(line, name, None, S3Uri.parse(line.source.uri), s3, cast("Ledger", None))


def _parse(endpoint: str, objects: str) -> dict[str, Any]:
    run, at_start, began = _run(endpoint, objects), _memory("VmRSS"), time.perf_counter()
    counts = parse_shard(run, _SHARD).counts()
    figures = {"objects": int(objects), "seconds": round(time.perf_counter() - began, 1)}
    return figures | {"start_mib": at_start, "peak_mib": _memory("VmHWM")} | counts


def _memory(field: str) -> int:
    """Return a figure of this process in MiB, by Linux; getrusage would count its parent's as well."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) // 1024


def main(sizes: Sequence[int]) -> None:
    """Print a table."""
    found = measure(sizes)
    sys.stdout.write(f"parse, one task, on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    for run in found["runs"]:
        rate = run["objects"] / run["seconds"]
        memory = f"peak {run['peak_mib']} MiB, before the first request {run['start_mib']} MiB"
        sys.stdout.write(f"  {run['objects']:>9} objects {run['seconds']:7.1f} s {rate:6.0f}/s   {memory}\n")
    verdict = "met" if found["met"] else "MISSED"
    sys.stdout.write(f"  at most {PEAK_MIB} MiB, highest over lowest at most {SPREAD}: {verdict} ({found['spread']})\n")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("http"):
        sys.stdout.write(json.dumps(_parse(*sys.argv[1:])) + "\n")
        sys.stdout.flush()
        os._exit(0)  # as Airflow ends a task: obstore's threads may abort the interpreter's own end
    else:
        main([int(size) for size in sys.argv[1:]] or SIZES)
