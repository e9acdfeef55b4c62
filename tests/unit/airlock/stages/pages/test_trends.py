"""The charts of a pipeline's nights: what is in which bar, and which sites share a scale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airlock.ledger.nights import NightTotal
from airlock.stages.pages.charts import COLOURS
from airlock.stages.pages.trends import MOST_SITES, draw

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)


def total(back: int, word: str, arrivals: int, reason: str | None = None, site: str = "north") -> NightTotal:
    return NightTotal("nightly", str(back), NOW - timedelta(days=back), None, site, word, reason, arrivals, 2**30)


def test_each_word_is_a_series_with_its_sum() -> None:
    drawn = draw([total(1, "released", 90), total(2, "released", 5), total(1, "quarantined", 3, "truncated")], 30, NOW)
    assert [(one.name, one.number) for one in drawn.dispositions] == [("released", 95), ("rejected", 3)]
    assert "11-29: released: 90" in drawn.by_disposition
    assert [(one.name, one.number) for one in drawn.reasons] == [("truncated", 3)]


def test_the_smallest_reasons_share_a_colour() -> None:
    drawn = draw([total(1, "quarantined", 20 - place, f"reason {place:02}") for place in range(12)], 30, NOW)
    assert len(drawn.reasons) == COLOURS
    assert (drawn.reasons[-1].name, drawn.reasons[-1].number) == ("other reasons", sum(range(9, 14)))


def test_sites_have_one_scale_and_days_without_arrivals_no_dot() -> None:
    rows = [total(1, "released", 90), total(1, "quarantined", 10, "truncated"), total(3, "released", 10)]
    drawn = draw([*rows, total(1, "released", 100, site="south")], 30, NOW)
    assert [(one.site, one.arrivals, one.rejected) for one in drawn.sites] == [("north", 110, 10), ("south", 100, 0)]
    north, south = (one.chart for one in drawn.sites)
    assert "11-29: 10 %" in north
    assert north.count("<circle") == 2
    assert all(">10 %</text>" in chart for chart in (north, south))


def test_the_smallest_sites_are_only_counted() -> None:
    drawn = draw([total(1, "released", 1 + place, site=f"site {place}") for place in range(MOST_SITES + 3)], 30, NOW)
    assert (len(drawn.sites), drawn.more_sites) == (MOST_SITES, 3)


def test_no_arrivals_make_no_chart_fail() -> None:
    assert draw([], 90, NOW).arrivals == 0
