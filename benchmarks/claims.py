"""One side of the comparison of claims: fill a ledger, then claim a listing of which nearly all is known.

It uses only what every version of the ledger has, so that `benchmarks.against` can run it with the code of another
checkout::

    PYTHONPATH=<checkout>/include python benchmarks/claims.py fill URL 10000000
    PYTHONPATH=<checkout>/include python benchmarks/claims.py claim URL 1000000 10000
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta

import polars as pl

from airlock.ledger import Ledger
from airlock.records import ARRIVALS, DISPOSITIONS

PIPELINE, RUN_ROWS = "bench", 500_000
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def listed(first: int, end: int) -> pl.DataFrame:
    """Return the numbered objects from *first* to before *end* as a listing; ids have no order, as digests have not."""
    numbers = pl.DataFrame({"number": pl.int_range(first, end, eager=True)})
    number = pl.col("number")
    halves = [number.hash(seed).cast(pl.String).str.zfill(20).str.slice(4) for seed in (1, 2)]
    rows = numbers.with_columns(
        arrival_id=pl.concat_str(halves),
        bucket=pl.lit("archive"),
        key=pl.format("in/{}/{}/{}.dcm", number // 500, number // 100, number),
        version_id=pl.lit(None, pl.String),
        etag=pl.concat_str(halves[::-1]),
        size=pl.lit(526_618, pl.Int64),
        last_modified=pl.lit(_BEGAN) + pl.duration(seconds=number),
    )
    return rows.select(ARRIVALS.names()).cast(ARRIVALS)


def settled(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the words on listed objects: all are released but each fiftieth."""
    uid = pl.col("arrival_id")
    study = pl.col("key").str.split("/").list.get(1)
    words = rows.with_columns(
        sop_instance_uid=pl.format("1.2.826.0.1.3680043.8.498.1{}", uid),
        series_instance_uid=pl.format("1.2.826.0.1.3680043.8.498.2{}", study),
        study_instance_uid=pl.format("1.2.826.0.1.3680043.8.498.3{}", study),
        disposition=pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.lit("held")).otherwise(pl.lit("released")),
        stage=pl.lit("audit"),
        reason=pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.lit("study_incomplete")),
        **{name: pl.lit(None, pl.String) for name in ("detail", "batch_id", "job_id", "image_set_id")},
    )
    return words.select(DISPOSITIONS.names()).cast(DISPOSITIONS)


def fill(ledger: Ledger, arrivals: int) -> None:
    """Let runs claim and settle this many arrivals."""
    for number, first in enumerate(range(0, arrivals, RUN_ROWS)):
        rows = listed(first, min(first + RUN_ROWS, arrivals))
        ledger.open_run(f"run-{number}", PIPELINE, f"scheduled__{number}", None)
        ledger.claim(PIPELINE, f"run-{number}", rows)
        ledger.settle(PIPELINE, f"run-{number}", settled(rows))
        ledger.close_run(f"run-{number}", "audited", {})
        sys.stderr.write(f"  {first + rows.height:,} arrivals in the ledger\n")


def claim(ledger: Ledger, known: int, new: int) -> dict[str, float]:
    """Claim a listing of so many known and new objects; return the seconds that it took, and what it found."""
    beyond = 10**9  # no fill numbers so far
    listing = [listed(0, known), listed(beyond, beyond + new)]
    run = f"claims-{datetime.now(UTC) - _BEGAN + timedelta(0)}"
    ledger.open_run(run, PIPELINE, run, None)
    began = time.perf_counter()
    found = ledger.claim(PIPELINE, run, listing)
    seconds = time.perf_counter() - began
    held = ledger.held_by(PIPELINE, run).height
    if (held, found.settled) != (new, known):
        raise RuntimeError(f"claimed {held}, settled elsewhere {found.settled}: expected {new} and {known}")
    return {"seconds": round(seconds, 2), "claimed": held, "settled": found.settled}


if __name__ == "__main__":
    action, url, *numbers = sys.argv[1:]
    with Ledger.open(url) as opened:
        if action == "fill":
            fill(opened, int(numbers[0]))
        else:
            json.dump(claim(opened, int(numbers[0]), int(numbers[1])), sys.stdout)
