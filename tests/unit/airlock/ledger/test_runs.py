from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError
from airlock.records import ARRIVALS, Window

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
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


def claim(ledger: Ledger, number: int, run_id: str, pipeline: str = "nightly") -> None:
    """Let the run of so many nights later claim nothing, and all the same claim."""
    window = Window(NIGHT.start + number * DAY, NIGHT.end + number * DAY)
    ledger.open_run(f"{pipeline} {run_id}", pipeline, run_id, window)
    ledger.claim(pipeline, f"{pipeline} {run_id}", ARRIVALS.to_frame(), window.end)


def test_up_to_when_scheduled_runs_have_taken_what_was_listed(ledger: Ledger) -> None:
    for number in (0, 1):
        claim(ledger, number, f"scheduled__{number}")
    claim(ledger, 2, "backfill__2")
    claim(ledger, 2, "scheduled__2", "other")
    ledger.open_run("swept", "nightly", "scheduled__swept", None)
    late = NIGHT.end + 9 * DAY
    assert ledger.scheduled_until("nightly", late) == NIGHT.end + DAY
    assert ledger.scheduled_until("nightly", NIGHT.end + DAY - HOUR) == NIGHT.end
    assert ledger.scheduled_until("nightly", NIGHT.start) is None


def test_a_window_counts_as_taken_when_its_claim_has_committed(ledger: Ledger) -> None:
    for number in (0, 1):
        window = Window(NIGHT.start + number * DAY, NIGHT.end + number * DAY)
        begun = ledger.open_run(f"s{number}", "nightly", f"scheduled__{number}", window)
        assert begun.listed_until is None
    assert ledger.scheduled_until("nightly", NIGHT.end + 9 * DAY) == NIGHT.start  # nothing has been taken yet
    ledger.claim("nightly", "s0", ARRIVALS.to_frame(), NIGHT.end)
    with pytest.raises(LedgerError):
        ledger.claim("nightly", "s1", pl.DataFrame({"key": ["a"]}), NIGHT.end + DAY)
    assert ledger.scheduled_until("nightly", NIGHT.end + 9 * DAY) == NIGHT.end
    again = ledger.open_run("s0", "nightly", "scheduled__0", NIGHT)
    assert again.listed_until == NIGHT.end


class TestMarkers:
    def test_one_opens_one_delivery_once_it_is_claimed(self, ledger: Ledger) -> None:
        ledger.open_run("a", "nightly", "scheduled__1", NIGHT)
        ledger.note_marker("a", "m", NIGHT.end)
        assert ledger.used_marker("nightly", "b", "m") is None
        ledger.claim("nightly", "a", ARRIVALS.to_frame(), NIGHT.end)
        assert ledger.used_marker("nightly", "b", "m") == NIGHT.end
        assert ledger.used_marker("nightly", "a", "m") is None
        assert ledger.used_marker("nightly", "b", "another prefix's") is None
        assert ledger.used_marker("other", "b", "m") is None

    def test_the_newest_counts(self, ledger: Ledger) -> None:
        for number, at in enumerate((NIGHT.end, NIGHT.start)):
            ledger.open_run(f"s{number}", "nightly", f"scheduled__{number}", None)
            ledger.note_marker(f"s{number}", "m", at)
            ledger.claim("nightly", f"s{number}", ARRIVALS.to_frame(), NIGHT.end)
        assert ledger.used_marker("nightly", "b", "m") == NIGHT.end

    def test_of_an_unknown_run_cannot_be_noted(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError, match="has no run 'a'"):
            ledger.note_marker("a", "m", NIGHT.end)


def test_an_unknown_run_is_none_and_cannot_be_closed(ledger: Ledger) -> None:
    assert ledger.run("a") is None
    with pytest.raises(LedgerError, match="has no run 'a'"):
        ledger.close_run("a", "success", {})
