"""Settled arrivals, and redrives of them, for tests of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.generations import next_generation
from airlock.ledger.redrives import SUCCESSORS
from airlock.records import arrival_id
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    SEEN_AT,
    STORE,
    arrivals,
    begin,
    dispositions,
    id_of,
    imports,
)

if TYPE_CHECKING:
    from airlock.ledger import Ledger

ASKED = {"asked_by": "ada", "why": "cured", "choice": {"run": "a"}}


def settled(ledger: Ledger, *names: str, word: str = "quarantined", reason: str | None = "truncated") -> None:
    """Let run "a" have decided on these, and have ended."""
    if ledger.run("a") is None:
        begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals(*names))
    words = dispositions(*names, word=word).with_columns(
        reason=pl.lit(reason), sop_instance_uid=pl.lit(None, pl.String)
    )
    named = words.with_columns(sop_instance_uid="1." + pl.col("key").str.strip_prefix("in/"))
    ledger.settle(NIGHTLY, "a", named)
    ledger.close_run("a", "audited", {})


def to_come(*names: str, carried: bool = False, etag: str | None = None) -> pl.DataFrame:
    """Say that these are to come again as they are, or under another etag."""
    rows = []
    for name in names:
        own = id_of(name)
        tag = etag or f"etag-{name}"
        now = own if etag is None else arrival_id("archive", f"in/{name}", None, tag, 100)
        now = next_generation(own) if carried else now
        rows.append((now, "archive", f"in/{name}", None, tag, 100, SEEN_AT, own, own if carried else None, 2))
    return pl.DataFrame(rows, schema=SUCCESSORS, orient="row")


def redrive(ledger: Ledger, run: str, successors: pl.DataFrame) -> dict[str, Any] | None:
    if ledger.run(run) is None:
        begin(ledger, run)
    return ledger.redrive(NIGHTLY, run, successors, ASKED)


def held_in_store(ledger: Ledger, state: str = "imported", reason: str = "service_warning") -> None:
    settled(ledger, "1", word="held", reason=reason)
    ledger.record_imported(STORE, "a", imports(("1", "1.1"), state=state), NO_STUDIES, NO_SERIES)
