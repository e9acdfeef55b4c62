"""What pages count: from the totals that settling writes, without reading arrivals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import update

from airlock.ledger.console import Console
from airlock.ledger.gates import GATES
from airlock.ledger.tables import runs
from airlock.records import Window, study_key
from tests.ledger_rows import count_current_arrivals
from tests.unit.airlock.ledger.parking import NOW, P1, wait
from tests.unit.airlock.ledger.redriven import redrive, to_come
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, uids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
OTHER = "other"
NAMES = ("waits", "cut", "cut too")


@pytest.fixture
def console(url: str) -> Iterator[Console]:
    opened = Console.connect(url)
    yield opened
    opened.dispose()


def settle(ledger: Ledger, run: str, *names: str, word: str, reason: str | None = None) -> None:
    ledger.settle(NIGHTLY, run, dispositions(*names, word=word).with_columns(reason=pl.lit(reason, pl.String)))


def hold(ledger: Ledger, run: str, uid: str, gate: str = "hold", reason: str | None = "study_incomplete") -> None:
    row = (uid, study_key(uid), gate, reason if gate == "hold" else None)
    ledger.record_gates(STORE, run, pl.DataFrame([row], schema=GATES, orient="row"))


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    """Run a has released one file, holds one and has rejected two; run b has not been audited."""
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("in", "waits", "cut", "cut too"))
    settle(ledger, "a", "in", word="released")
    settle(ledger, "a", "waits", word="held", reason="study_incomplete")
    settle(ledger, "a", "cut", "cut too", word="quarantined", reason="truncated")
    ledger.close_run("a", "audited", {"balanced": True})
    return ledger


class TestLatestRuns:
    def test_the_run_that_began_last_comes_with_the_last_report(self, told: Ledger, console: Console) -> None:
        with console.page() as ledger:
            found = ledger.latest_runs({NIGHTLY, "none"})
        assert [(run.run_key, run.report) for run in found] == [("b", None), ("a", {"balanced": True})]

    def test_a_wave_that_has_not_begun_is_no_run(self, told: Ledger, console: Console, url: str) -> None:
        with told._writing("runs") as connection:
            connection.execute(update(runs).where(runs.c.run_key == "b").values(state="expected"))
        with console.page() as ledger:
            assert [run.run_key for run in ledger.latest_runs({NIGHTLY})] == ["a"]

    def test_a_redrive_is_not_the_night(self, told: Ledger, console: Console) -> None:
        redrive(told, "again", to_come(*NAMES, etag="mended"))
        with console.page() as ledger:
            assert [run.run_key for run in ledger.latest_runs({NIGHTLY})] == ["b", "a"]

    def test_runs_of_other_pipelines_stay_out(self, told: Ledger, console: Console) -> None:
        begin(told, "c", pipeline=OTHER)
        with console.page() as ledger:
            assert [run.pipeline for run in ledger.latest_runs({OTHER})] == [OTHER]


class TestPresentTotals:
    def test_each_word_counts_with_its_reason(self, told: Ledger, console: Console) -> None:
        with console.page() as ledger:
            totals = ledger.present_totals({NIGHTLY})
        assert {(one.disposition, one.reason): (one.arrivals, one.bytes) for one in totals} == {
            ("released", None): (1, 100),
            ("held", "study_incomplete"): (1, 100),
            ("quarantined", "truncated"): (2, 200),
        }

    def test_a_later_word_takes_the_place_of_the_first(self, told: Ledger, console: Console) -> None:
        settle(told, "a", "waits", word="released")
        with console.page() as ledger:
            totals = {one.disposition: one.arrivals for one in ledger.present_totals({NIGHTLY})}
        assert totals == {"released": 2, "quarantined": 2}

    def test_what_a_redrive_has_replaced_counts_no_longer(self, told: Ledger, console: Console) -> None:
        redrive(told, "again", to_come(*NAMES, etag="mended"))
        with console.page() as ledger:
            totals = {one.disposition: one.arrivals for one in ledger.present_totals({NIGHTLY})}
        settled = {name: number for name, number in count_current_arrivals(told, NIGHTLY).items() if name != "claimed"}
        assert totals == settled


class TestNightlyTotals:
    def test_each_run_counts_apart(self, told: Ledger, console: Console) -> None:
        told.claim(NIGHTLY, "b", arrivals("late"))
        settle(told, "b", "late", word="quarantined", reason="truncated")
        with console.page() as ledger:
            found = ledger.nightly_totals({NIGHTLY}, LONG_AGO)
        assert [(one.run_key, one.arrivals) for one in found if one.reason == "truncated"] == [("a", 2), ("b", 1)]

    def test_older_runs_and_redrives_stay_out(self, told: Ledger, console: Console) -> None:
        redrive(told, "again", to_come(*NAMES, etag="mended"))
        with console.page() as ledger:
            assert {one.run_key for one in ledger.nightly_totals({NIGHTLY}, LONG_AGO)} == {"a"}
            assert ledger.nightly_totals({NIGHTLY}, datetime.now(UTC) + timedelta(days=1)) == []


def test_totals_by_window_need_a_window(ledger: Ledger, console: Console) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    ledger.open_run("march", NIGHTLY, "backfill__march", Window(start, start + timedelta(days=1)))
    begin(ledger, "by hand")
    for run, name in (("march", "dated"), ("by hand", "undated")):
        ledger.claim(NIGHTLY, run, arrivals(name))
        settle(ledger, run, name, word="released")
    with console.page() as page:
        found = page.totals_by_window({NIGHTLY})
    assert [(one.window_start, one.disposition, one.arrivals) for one in found] == [(start, "released", 1)]


def test_parked_resources_count_once_whatever_they_wait_for(ledger: Ledger, console: Console) -> None:
    wait(ledger, "p", Observation_o1=(P1, "Encounter/e1"), Observation_o2=(P1,), Condition_c1=(P1,))
    with console.page() as page:
        found = page.parked_now({NIGHTLY})
        assert page.parked_now({OTHER}) == []
    assert [(one.pipeline, one.resource_type, one.resources) for one in found] == [
        (NIGHTLY, "Condition", 1),
        (NIGHTLY, "Observation", 2),
    ]
    assert {one.since for one in found} == {NOW}


class TestUndecidedNow:
    def test_a_run_with_arrivals_is_one_until_it_is_audited_as_a_whole(self, told: Ledger, console: Console) -> None:
        with console.page() as page:
            assert page.undecided_now([NIGHTLY]) == set(), "run b has not taken anything"
        told.claim(NIGHTLY, "b", arrivals("taken", "decided"))
        settle(told, "b", "decided", word="released")
        with console.page() as page:
            assert page.undecided_now([NIGHTLY]) == {NIGHTLY}
            assert page.undecided_now(["other"]) == set()
        settle(told, "b", "taken", word="released")
        told.close_run("b", "audited", {"balanced": True})
        with console.page() as page:
            assert page.undecided_now([NIGHTLY]) == set()


class TestHeldNow:
    def test_a_study_counts_once_and_from_its_first_hold(self, told: Ledger, console: Console) -> None:
        hold(told, "a", "1.study")
        hold(told, "b", "1.study")
        hold(told, "b", "2.study")
        with console.page() as ledger:
            (found,) = ledger.held_now({NIGHTLY})
        assert (found.pipeline, found.subjects) == (NIGHTLY, 2)
        assert found.since == told.held(NIGHTLY)["since"].min()

    def test_what_was_released_since_counts_no_longer(self, told: Ledger, console: Console) -> None:
        hold(told, "a", "1.study")
        hold(told, "b", "2.study")
        hold(told, "b", "1.study", "release")
        told.override_holds(STORE, "b", uids("2.study"), "Kim", "seen on the source")
        with console.page() as ledger:
            assert ledger.held_now({NIGHTLY}) == []
