"""What a million parked resources cost a run that releases a thousand of what they wait for.

Run it::

    python -m benchmarks.parked                     # 1,000,000 resources, 1,000 of whose Patients come
    python -m benchmarks.parked --parked 100000

The ledger's part is measured, on PostgreSQL: to record the Patients as imported, to find what is due, to claim it, and
to settle it; then one Patient comes for whom a million wait. ``read_as_a_whole`` are the rows of the table that
statements have read from its beginning to its end.
"""

from __future__ import annotations

import argparse
import resource
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import text

from airlock.ledger import Ledger, upgrade
from airlock.ledger.arrivals import scope as arrivals_scope
from airlock.ledger.open_resources import scope
from airlock.ledger.parked import TAKEN
from airlock.ledger.resources import IMPORTS
from airlock.records import ARRIVALS
from benchmarks.settling import analyze, measure_on_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE, PIPELINE, RELEASED, OF_FILE = "b" * 32, "records", 1_000, 1_000
NOW = datetime(2026, 11, 30, tzinfo=UTC)
_FILL = """
INSERT INTO parked (arrival_id, line, waits_for_type, waits_for_id, pipeline, datastore_id, resource_type, resource_id,
    content_digest, clock, patient, site, run_key, body_uri, parked_at, parked_until)
SELECT lpad((n / :of_file)::text, 32, '0'), n % :of_file + 1, 'Patient', CASE WHEN :one THEN 'one' ELSE 'p' || n END,
    :pipeline, :store, 'Observation', :prefix || n, md5(n::text) || md5(n::text), 'place=0 last_modified=1',
    'Patient/p' || n, '', 'parks', 's3://workspace/runs/records/parked/' || lpad((n / :of_file)::text, 32, '0') || '-'
    || n % :of_file + 1 || '.json', now(), now() + interval '30 days'
FROM generate_series(:first, :last) AS n
"""
_READ = "SELECT coalesce(seq_tup_read, 0) FROM pg_stat_user_tables WHERE relname = 'parked'"


def make_arrivals(names: list[str]) -> pl.DataFrame:
    """Return arrivals of these ids."""
    rows = [(name, "archive", f"in/{name}.ndjson", None, name, 1, NOW) for name in names]
    return pl.DataFrame(rows, schema=ARRIVALS, orient="row")


def fill(ledger: Ledger, first: int, last: int, *, one: bool) -> None:
    """Park so many resources: each waits for a Patient of its own, or all of them for one."""
    names = [str(number).zfill(32) for number in range(first // OF_FILE, last // OF_FILE + 1)]
    ledger.claim(PIPELINE, "parks", make_arrivals(names))
    values = {"of_file": OF_FILE, "one": one, "pipeline": PIPELINE, "store": STORE, "prefix": "q" if one else "o"}
    with ledger._engine.begin() as connection:  # noqa: SLF001  # the table is filled past its methods
        connection.execute(text(_FILL), values | {"first": first, "last": last})


def bring(ledger: Ledger, run: str, patients: list[str]) -> None:
    """Let a run import Patients."""
    begin(ledger, run)
    ledger.claim(PIPELINE, run, make_arrivals([run.zfill(32)]))
    rows = [(run.zfill(32), "Patient", name, "d" * 64, "batch") for name in patients]
    ledger.record_imported_resources(STORE, run, pl.DataFrame(rows, schema=IMPORTS, orient="row"))


def begin(ledger: Ledger, run: str) -> None:
    """Open a run."""
    ledger.open_run(run, PIPELINE, f"manual__{run}", None)


def take(ledger: Ledger, due: pl.DataFrame) -> None:
    """Let a run claim what is due, as one object."""
    begin(ledger, "takes")
    name = "f" * 32
    with ledger.at_once(arrivals_scope(PIPELINE), scope(STORE)) as inner:
        inner.claim(PIPELINE, "takes", make_arrivals([name]))
        units = due.select("arrival_id", "line", taken_as=pl.lit(name)).select(TAKEN.names())
        inner.take_parked(STORE, PIPELINE, "takes", units)


def measure(ledger_url: str, parked: int) -> dict[str, Any]:
    """Return seconds, rows and memory."""
    upgrade(ledger_url)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = perf_counter()
        yield
        seconds[name] = round(perf_counter() - began, 2)

    with Ledger.open(ledger_url) as ledger:
        begin(ledger, "parks")
        fill(ledger, 0, parked - 1, one=False)
        analyze(ledger_url)
        before = _count_read(ledger)
        with timed("record 1,000 Patients"):
            bring(ledger, "brings", [f"p{number * (parked // RELEASED)}" for number in range(RELEASED)])
        with timed("find what is due"):
            due = ledger.find_due(STORE, PIPELINE, 50_000, NOW - timedelta(days=1))
        assert due.height == RELEASED, due.height  # noqa: S101  # the measurement is of this
        with timed("claim it"):
            take(ledger, due)
        none = pl.Series([], dtype=pl.String)
        with timed("settle it"):
            ledger.settle_parked(STORE, PIPELINE, "takes", [], read=pl.Series(["f" * 32]), unread=none)
        with timed("find that nothing is due"):
            assert ledger.find_due(STORE, PIPELINE, 50_000, NOW - timedelta(days=1)).is_empty()  # noqa: S101
        read = _count_read(ledger) - before
        fill(ledger, parked, 2 * parked - 1, one=True)
        analyze(ledger_url)
        with timed("record one Patient for whom all wait"):
            bring(ledger, "one", ["one"])
        with timed("find 50,000 of what is due"):
            assert ledger.find_due(STORE, PIPELINE, 50_000, NOW - timedelta(days=1)).height == 50_000  # noqa: S101
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"parked": parked, "seconds": seconds, "read_as_a_whole": read, "peak_mib": peak}


def _count_read(ledger: Ledger) -> int:
    """Return how many rows of the table statements have read by reading it as a whole."""
    with ledger._engine.begin() as connection:  # noqa: SLF001  # PostgreSQL's own numbers
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        return int(connection.execute(text(_READ)).scalar_one())


def main() -> None:
    """Measure on a PostgreSQL of its own, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parked", type=int, default=1_000_000)
    measure_on_postgres(measure, parser.parse_args().parked)


if __name__ == "__main__":
    main()
