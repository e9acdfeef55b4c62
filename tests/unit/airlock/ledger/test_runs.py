from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from airlock.ledger import Ledger, LedgerError
from airlock.records import Window

NIGHT = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))


def test_a_run_begins_and_ends(ledger: Ledger) -> None:
    begun = ledger.open_run("a", "nightly", "scheduled__1", NIGHT)
    assert (begun.state, begun.window, begun.ended_at, begun.report) == ("running", NIGHT, None, None)
    ledger.close_run("a", "success", {"arrivals": 3, "balanced": True})
    ended = ledger.run("a")
    assert ended is not None
    assert (ended.state, ended.report) == ("success", {"arrivals": 3, "balanced": True})
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.started_at == begun.started_at


def test_times_are_instants_in_whatever_zone_they_are_given(ledger: Ledger) -> None:
    tokyo = timezone(timedelta(hours=9))
    window = Window(NIGHT.start.astimezone(tokyo), NIGHT.end.astimezone(tokyo))
    found = ledger.open_run("a", "nightly", "scheduled__1", window).window
    assert found == NIGHT
    assert found is not None
    assert found.start.utcoffset() == timedelta()


def test_a_cleared_run_is_running_again_and_keeps_its_beginning_and_window(ledger: Ledger) -> None:
    begun = ledger.open_run("a", "nightly", "scheduled__1", NIGHT)
    ledger.close_run("a", "failed", {})
    again = ledger.open_run("a", "nightly", "scheduled__1", None)
    assert (again.state, again.ended_at) == ("running", None)
    assert (again.window, again.started_at) == (NIGHT, begun.started_at)


def test_a_run_key_belongs_to_one_run(ledger: Ledger) -> None:
    ledger.open_run("a", "nightly", "scheduled__1", None)
    with pytest.raises(LedgerError, match="run key 'a' is taken by run 'scheduled__1' of pipeline 'nightly'"):
        ledger.open_run("a", "nightly", "scheduled__2", None)


def test_up_to_when_scheduled_runs_have_taken_in(ledger: Ledger) -> None:
    later = Window(NIGHT.end, NIGHT.end + timedelta(days=1))
    for number, window in enumerate((NIGHT, later, None)):
        ledger.open_run(f"s{number}", "nightly", f"scheduled__{number}", window)
    ledger.open_run("b", "nightly", "backfill__1", Window(later.end, later.end + timedelta(days=1)))
    ledger.open_run("o", "other", "scheduled__1", Window(later.end, later.end + timedelta(days=1)))
    assert ledger.scheduled_until("nightly", later.end + timedelta(days=9)) == later.end
    assert ledger.scheduled_until("nightly", later.end - timedelta(hours=1)) == NIGHT.end
    assert ledger.scheduled_until("nightly", NIGHT.start) is None


def test_an_unknown_run_is_none_and_cannot_be_closed(ledger: Ledger) -> None:
    assert ledger.run("a") is None
    with pytest.raises(LedgerError, match="has no run 'a'"):
        ledger.close_run("a", "success", {})
