"""Answers to the brake, and the totals of the last nights."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from airlock.ledger import BrakeAnswer, Ledger, LedgerError
from airlock.ledger.brakes import NIGHT_TOTALS
from airlock.records import ARRIVALS, DISPOSITIONS
from tests.unit.airlock.ledger.samples import begin

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
YES = BrakeAnswer("import", True, "unread", 0.3, "ada", "an old scanner", NOW, {"affected": 3})
LONG_AGO = NOW - timedelta(days=10_000)


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a", "b")
    return ledger


def test_the_last_answer_about_a_measure_counts(opened: Ledger) -> None:
    assert opened.last_brake_answer("a", "import", "unread") is None
    opened.answer_brake("nightly", "a", YES)
    assert opened.last_brake_answer("a", "import", "unread") == YES
    no = BrakeAnswer("import", False, "unread", 0.3, "ada", "a lost key", NOW, {})
    opened.answer_brake("nightly", "a", no)
    assert opened.last_brake_answer("a", "import", "unread") == no


def test_an_answer_is_about_one_run_gate_and_measure(opened: Ledger) -> None:
    opened.answer_brake("nightly", "a", YES)
    assert opened.last_brake_answer("b", "import", "unread") is None
    assert opened.last_brake_answer("a", "route", "unread") is None
    assert opened.last_brake_answer("a", "import", "held") is None


def test_an_answer_about_no_run_is_refused(opened: Ledger) -> None:
    with pytest.raises(LedgerError, match="has no run"):
        opened.answer_brake("nightly", "c", YES)


def settled(ledger: Ledger, run: str, site: str, *words: tuple[str, str | None]) -> None:
    ids = [f"{run}{site}{number}" for number in range(len(words))]
    facts = {"bucket": "x", "version_id": None, "etag": "e", "size": 1, "last_modified": NOW}
    rows = pl.DataFrame({"arrival_id": ids, "key": ids}).with_columns(**{k: pl.lit(v) for k, v in facts.items()})
    arrivals = rows.select(ARRIVALS.names()).cast(ARRIVALS)
    ledger.claim("nightly", run, arrivals.with_columns(site=pl.lit(site)))
    given = pl.DataFrame([(key, *word) for key, word in zip(ids, words, strict=True)],
                         schema=["arrival_id", "disposition", "reason"], orient="row")  # fmt: skip
    absent = [pl.lit(None, kind).alias(name) for name, kind in DISPOSITIONS.items() if name not in given.columns]
    ledger.settle("nightly", run, given.with_columns(absent).select(DISPOSITIONS.names()).cast(DISPOSITIONS))


def test_nights_are_counted_by_site_disposition_and_reason(opened: Ledger) -> None:
    settled(opened, "a", "north", ("released", None), ("released", None), ("quarantined", "truncated"))
    settled(opened, "a", "south", ("held", "study_held"))
    settled(opened, "b", "north", ("released", None))
    found = opened.night_totals("nightly", LONG_AGO, except_run="b")
    assert found.schema == NIGHT_TOTALS
    assert set(found.drop("started_at").rows()) == {
        ("north", "released", None, 2),
        ("north", "quarantined", "truncated", 1),
        ("south", "held", "study_held", 1),
    }
    assert opened.night_totals("nightly", LONG_AGO, except_run="")["started_at"].n_unique() == 2
    assert opened.night_totals("other", LONG_AGO, except_run="").is_empty()
    assert opened.night_totals("nightly", datetime.now(UTC) + timedelta(hours=1), except_run="").is_empty()
