"""Parked resources for the ledger's tests: each is named as in FHIR, and comes in line 1 of a file of that name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.parked import PARKED
from airlock.ledger.resources import IMPORTS
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.ledger import Ledger

NOW = datetime(2026, 11, 24, 2, tzinfo=UTC)
END = NOW + timedelta(days=30)
P1 = "Patient/p1"


def hold(ledger: Ledger, run: str, *files: str, pipeline: str = NIGHTLY) -> None:
    """Let a new run hold files."""
    begin(ledger, run, pipeline=pipeline)
    ledger.claim(pipeline, run, arrivals(*files))


def rows(name: str, *targets: str, file: str = "", held_as: str = "", until: datetime = END, **more: Any) -> list[Any]:
    """Return the rows of a resource, which its file brought in line 1."""
    (kind, number), origin = name.split("/"), id_of(file or name)
    facts = {"content_digest": f"digest of {name}", "clock": "place=a last_modified=1", "patient": P1, "site": None}
    facts |= {"body_uri": f"s3://workspace/runs/nightly/parked/{origin}-1.json", "parked_at": NOW} | more
    found = []
    for target in targets:
        known = dict(zip(("waits_for_type", "waits_for_id"), target.split("/"), strict=True))
        known |= {"arrival_id": origin, "line": 1, "held_as": id_of(held_as or file or name), "parked_until": until}
        found.append(known | {"resource_type": kind, "resource_id": number} | facts)
    return found


def park(ledger: Ledger, run: str, *resources: list[Any], read: Iterable[str] = (), unread: Iterable[str] = ()) -> None:
    frame = pl.DataFrame([row for one in resources for row in one], schema=PARKED)
    known, others = (pl.Series([id_of(name) for name in names], dtype=pl.String) for names in (read, unread))
    ledger.settle_parked(STORE, NIGHTLY, run, [frame], read=known, unread=others)


def wait(ledger: Ledger, run: str, **waiting: tuple[str, ...]) -> None:
    """Let a run park resources, each from a file of its own: ``Observation_o1=("Patient/p1",)``."""
    names = {name.replace("_", "/"): targets for name, targets in waiting.items()}
    hold(ledger, run, *names)
    park(ledger, run, *(rows(name, *targets) for name, targets in names.items()))


def bring(ledger: Ledger, run: str, *names: str, pipeline: str = NIGHTLY) -> None:
    """Let a new run import resources."""
    hold(ledger, run, *names, pipeline=pipeline)
    imported = [(id_of(name), *name.split("/"), f"digest of {name}", "batch") for name in names]
    ledger.record_imported_resources(STORE, run, pl.DataFrame(imported, schema=IMPORTS, orient="row"))
