"""What is left of a census, by site and month, and when it may be done."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airlock.ledger.censuses import CensusRow
from airlock.ledger.nights import Total, WindowTotal
from airlock.ledger.queues import LastSweep
from airlock.stages.pages.medians import Night
from airlock.stages.pages.migration import conclude, measure

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)
SWEEP = LastSweep(NOW - timedelta(hours=1), 0, {}, NOW - timedelta(hours=2))
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


def total(disposition: str, arrivals: int, site: str = "north", pipeline: str = "archive") -> Total:
    return Total(pipeline, site, disposition, None, arrivals, arrivals * 10, NOW)


def census(objects: int, site: str = "north", month: str = "2026-03") -> CensusRow:
    return CensusRow("archive", site, month, objects, objects * 10, "listing", NOW)


def night(back: int, arrivals: int) -> Night:
    words = Counter(released=arrivals)
    return Night("archive", str(back), NOW - timedelta(days=back), arrivals, words, Counter(), 0)


def test_what_is_left_is_what_nobody_decided_on() -> None:
    totals = [
        total("released", 60),
        total("duplicate", 5),
        total("held", 3),
        total("quarantined", 2),
        total("failed", 1),
    ]
    found = measure("archive", totals, [], [census(100)], [], now=NOW)
    share = found.whole
    assert (share.done, share.held, share.rejected, share.left) == (65, 3, 3, 29)
    assert sum(part.number for part in share.parts) == share.whole == 100
    assert conclude(found, SWEEP, is_undecided=False) == (False, "29 objects are unexplained: the archive is not done.")


def test_new_objects_of_a_site_hide_nothing_that_is_missing_of_another() -> None:
    totals = [total("released", 50), total("released", 150, "south")]
    found = measure("archive", totals, [], [census(100), census(100, "south")], [], now=NOW)
    assert (found.whole.left, found.whole.whole) == (50, 250)
    assert conclude(found, SWEEP, is_undecided=False)[0] is False


@pytest.mark.parametrize(
    ("sweep", "is_done", "words"),
    [
        (SWEEP, True, "Every object is done or rejected with a reason. The sweep that ended 2026-11-30 05:00 UTC"),
        (None, False, "may hide missing ones. Sweep the source after the last run: airlock sweep archive"),
        (replace(SWEEP, began_at=NOW - timedelta(days=2)), False, "may hide missing ones"),  # it ended after the run
        (replace(SWEEP, untaken=10), False, "The last sweep found 10 objects that no run has taken."),
    ],
)
def test_only_a_sweep_after_the_last_run_proves_that_the_archive_is_done(
    sweep: LastSweep | None, is_done: bool, words: str
) -> None:
    """Of 100 objects 10 never arrived, and 10 came since: the numbers agree."""
    found = measure("archive", [total("released", 100)], [], [census(100)], [night(1, 100)], now=NOW)
    concluded, sentence = conclude(found, sweep, is_undecided=False)
    assert concluded is is_done
    assert words in sentence


def test_an_archive_is_not_done_while_a_run_holds_objects_without_a_word() -> None:
    """Of 100 released objects 10 have expired at the source since; a run has taken 10 others, and broken off."""
    found = measure("archive", [total("released", 100)], [], [census(100)], [night(1, 100)], now=NOW)
    concluded, sentence = conclude(found, SWEEP, is_undecided=True)
    assert concluded is False
    assert sentence.startswith("A run has taken objects and not decided on them: wait for it, or clear what failed")


def test_more_than_the_census_counted_is_not_less_than_nothing() -> None:
    share = measure("archive", [total("released", 120)], [], [census(100)], [], now=NOW).whole
    assert (share.left, share.whole) == (0, 120)


def test_without_a_census_nobody_knows_what_is_left() -> None:
    found = measure("archive", [total("released", 60)], [], [], [], now=NOW)
    assert (found.whole.census, found.counted_at, found.forecast) == (None, None, None)


def test_each_site_and_month_is_counted_and_other_pipelines_are_not() -> None:
    totals = [total("released", 10), total("released", 4, "south"), total("released", 99, pipeline="nightly")]
    windows = [WindowTotal("archive", MARCH, "north", "released", 10, 100)]
    counted = [census(10), census(8, "south", "2026-02"), census(1, "east", "")]
    found = measure("archive", totals, windows, counted, [], now=NOW)
    assert [(one.name, one.done, one.left) for one in found.sites] == [
        ("east", 0, 1),
        ("north", 10, 0),
        ("south", 4, 4),
    ]
    assert [(one.name, one.done, one.left) for one in found.months] == [
        ("", 0, 1),
        ("2026-02", 0, 8),
        ("2026-03", 10, 0),
    ]


def test_the_forecast_is_a_range_of_the_last_nights() -> None:
    nights = [night(back, 100 if back % 2 else 200) for back in reversed(range(14))]
    found = measure("archive", [total("released", 2100)], [], [census(4100)], nights, now=NOW)
    assert found.forecast is not None
    days = [(end - NOW).days for end in (found.forecast.earliest, found.forecast.latest)]
    assert days == [10, 20]
    assert (found.days[-1], found.done_by_day[-1]) == (13.0, 2100)


def test_few_nights_or_an_empty_rest_make_no_forecast() -> None:
    few = [night(back, 100) for back in (3, 2, 1)]
    assert measure("archive", [], [], [census(100)], few, now=NOW).forecast is None
    many = [night(back, 100) for back in reversed(range(14))]
    assert measure("archive", [total("released", 100)], [], [census(100)], many, now=NOW).forecast is None
