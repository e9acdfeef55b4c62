"""Each run writes how many differences are open, once something was compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Ledger
from airlock.ledger.columns import ComparisonKind
from airlock_tasks.findings import AGE, FINDINGS, PUBLISHED_AGE, PUBLISHED_FINDINGS, note_findings
from tests.chain import DATASTORE, HEALTHLAKE, RECORDS, pipeline
from tests.servers.ledger import new_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as opened:
        yield opened


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str | None], float]:
    written: dict[tuple[str, str | None], float] = {}

    def gauge(name: str, value: float, *, tags: dict[str, Any]) -> None:
        assert tags["pipeline"] == "nightly"
        written[name, tags.get("kind")] = value

    monkeypatch.setattr("airlock_tasks.findings.Stats.gauge", gauge)
    return written


def test_nothing_is_written_before_the_first_comparison(
    ledger: Ledger, gauges: dict[tuple[str, str | None], float]
) -> None:
    note_findings(pipeline(), ledger)
    assert gauges == {}


def compare(ledger: Ledger, datastore_id: str, kind: str) -> None:
    """Record a comparison that has found two differences of a kind."""
    named = {"pipeline": "nightly", "datastore_id": datastore_id}
    begun = ledger.begin_comparison(ComparisonKind.RECONCILE, {}, is_dry=False, asked_by="an operator", **named)
    ledger.end_comparison(begun, {}, pl.DataFrame({"kind": [kind] * 2, "subject": ["one", "two"]}))


def test_open_findings_are_counted_by_kind(ledger: Ledger, gauges: dict[tuple[str, str | None], float]) -> None:
    compare(ledger, DATASTORE, "foreign_in_store")
    note_findings(pipeline(), ledger)
    assert gauges[FINDINGS, "foreign_in_store"] == 2
    assert gauges[FINDINGS, "missing_in_store"] == 0
    assert 0 <= gauges[AGE, None] < 1


def test_findings_about_published_studies_are_counted_apart(
    ledger: Ledger, gauges: dict[tuple[str, str | None], float]
) -> None:
    compare(ledger, RECORDS, "missing_in_store")
    note_findings(pipeline(), ledger)
    assert gauges == {}  # it publishes nothing
    note_findings(pipeline(healthlake=HEALTHLAKE), ledger)
    assert gauges[PUBLISHED_FINDINGS, "missing_in_store"] == 2
    assert 0 <= gauges[PUBLISHED_AGE, None] < 1
    assert (FINDINGS, "missing_in_store") not in gauges
