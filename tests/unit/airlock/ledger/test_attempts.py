"""Owed objects over time: due, deferred with growing pauses, overdue, told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger.owed import NEVER, pause_after
from airlock.records import arrival_id
from tests.unit.airlock.ledger.redriven import ASKED, to_come
from tests.unit.airlock.ledger.samples import arrivals, begin, dispositions

if TYPE_CHECKING:
    from airlock.ledger import Ledger

NIGHTLY, BUCKET = "nightly", "archive"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def owing(ledger: Ledger) -> Ledger:
    """A ledger that owes x and y: both were listed by run a, and then gone."""
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("x", "y"))
    ledger.settle(NIGHTLY, "a", unread("x", "y"))
    return ledger


def unread(*names: str, reason: str = "object_gone") -> pl.DataFrame:
    return dispositions(*names, word="quarantined", study_uid=None).with_columns(reason=pl.lit(reason))


def due(ledger: Ledger, in_hours: float = 0.01) -> list[str]:
    frames = ledger.owed_keys(NIGHTLY, BUCKET, datetime.now(UTC) + in_hours * HOUR)
    return sorted(key.removeprefix("in/") for frame in frames for key in frame["key"])


def counts(ledger: Ledger, pipeline: str | None = NIGHTLY) -> list[tuple[str, int, int, int]]:
    return ledger.count_owed(pipeline).select("reason", "waiting", "overdue", "untold").rows()


@pytest.mark.parametrize(
    ("attempts", "pause"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 4), (6, 8), (7, 16), (8, 24), (1000, 24)]
)
def test_the_pauses_grow_to_a_day(attempts: int, pause: int) -> None:
    assert pause_after(attempts) == pause * HOUR


def test_what_was_out_of_reach_is_due_at_once(owing: Ledger) -> None:
    assert due(owing) == ["x", "y"]
    assert counts(owing) == [("object_gone", 2, 0, 0)]
    assert list(owing.owed_keys("other", BUCKET, NEVER)) + list(owing.owed_keys(NIGHTLY, "elsewhere", NEVER)) == []


def test_one_that_a_run_has_claimed_again_is_not(owing: Ledger) -> None:
    begin(owing, "b")
    owing.claim(NIGHTLY, "b", arrivals("x"))
    assert due(owing) == ["y"]
    assert counts(owing) == [("object_gone", 1, 0, 0)]


def test_one_that_was_not_there_is_due_later_each_time(owing: Ledger) -> None:
    for missed, pause in enumerate((0, 0, 1, 2, 4, 8), start=1):
        now = datetime.now(UTC)
        assert owing.defer_owed(NIGHTLY, BUCKET, now + 100 * HOUR) == 2, missed
        assert due(owing, pause + 0.01) == ["x", "y"]
        assert due(owing, pause - 0.01) == []
    assert owing.defer_owed(NIGHTLY, BUCKET, datetime.now(UTC)) == 0  # not due


def test_a_claim_that_ends_in_the_same_way_counts_as_an_attempt(owing: Ledger) -> None:
    since = owing.count_owed(NIGHTLY)["since"].item()
    for number in range(3):
        begin(owing, f"b{number}")
        owing.claim(NIGHTLY, f"b{number}", arrivals("x", "y"), owed_due=NEVER)
        held = owing.held_by(NIGHTLY, f"b{number}")["arrival_id"]
        owing.settle(NIGHTLY, f"b{number}", unread("x", "y").with_columns(arrival_id=held))
    assert (due(owing), due(owing, 1.01)) == ([], ["x", "y"])
    assert owing.count_owed(NIGHTLY)["since"].item() == since


def test_one_that_was_read_is_owed_no_more(owing: Ledger) -> None:
    begin(owing, "b")
    owing.claim(NIGHTLY, "b", arrivals("x"))
    held = owing.held_by(NIGHTLY, "b")["arrival_id"]
    owing.settle(NIGHTLY, "b", dispositions("x").with_columns(arrival_id=held))
    assert counts(owing) == [("object_gone", 1, 0, 0)]


class TestOverdue:
    def test_is_what_has_been_owed_for_too_long(self, owing: Ledger) -> None:
        assert owing.end_owed(NIGHTLY, datetime.now(UTC) - DAY) == 0
        assert owing.end_owed("other", datetime.now(UTC)) == 0
        assert owing.end_owed(NIGHTLY, datetime.now(UTC)) == 2
        assert owing.end_owed(NIGHTLY, datetime.now(UTC)) == 0
        assert counts(owing) == [("object_gone", 0, 2, 2)]
        assert counts(owing, None) == counts(owing)

    def test_runs_by_themselves_do_not_try_it(self, owing: Ledger) -> None:
        owing.end_owed(NIGHTLY, datetime.now(UTC))
        assert due(owing, 24 * 366) == []
        assert owing.defer_owed(NIGHTLY, BUCKET, datetime.now(UTC) + 366 * DAY) == 0
        begin(owing, "b")
        owing.claim(NIGHTLY, "b", arrivals("x", "y"), owed_due=datetime.now(UTC))
        assert owing.held_by(NIGHTLY, "b").is_empty()

    def test_a_persons_run_does_and_it_stays_overdue_if_that_fails(self, owing: Ledger) -> None:
        owing.end_owed(NIGHTLY, datetime.now(UTC))
        owing.note_told(NIGHTLY)
        begin(owing, "b")
        owing.claim(NIGHTLY, "b", arrivals("x"), owed_due=NEVER)
        assert counts(owing) == [("object_gone", 0, 1, 0)]
        held = owing.held_by(NIGHTLY, "b")["arrival_id"]
        owing.settle(NIGHTLY, "b", unread("x", reason="access_denied").with_columns(arrival_id=held))
        assert counts(owing) == [("access_denied", 0, 1, 0), ("object_gone", 0, 1, 0)]

    def test_people_are_told_once(self, owing: Ledger) -> None:
        owing.end_owed(NIGHTLY, datetime.now(UTC))
        owing.note_told("other")
        assert counts(owing) == [("object_gone", 0, 2, 2)]
        owing.note_told(NIGHTLY)
        assert counts(owing) == [("object_gone", 0, 2, 0)]

    def test_new_content_under_its_key_is_taken_all_the_same(self, owing: Ledger) -> None:
        owing.end_owed(NIGHTLY, datetime.now(UTC))
        begin(owing, "b")
        new = arrivals("x").with_columns(arrival_id=pl.lit("new"), etag=pl.lit("new"))
        owing.claim(NIGHTLY, "b", new, owed_due=datetime.now(UTC))
        assert owing.held_by(NIGHTLY, "b")["arrival_id"].to_list() == ["new"]
        assert counts(owing) == [("object_gone", 0, 1, 1)]


def test_one_is_found_by_its_key(owing: Ledger) -> None:
    (row,) = owing.find_owed("in/x").to_dicts()
    assert (row["pipeline"], row["reason"], row["attempts"]) == (NIGHTLY, "object_gone", 0)
    assert owing.find_owed(f"s3://{BUCKET}/in/x").height == 1
    assert owing.find_owed("s3://elsewhere/in/x").is_empty()
    assert owing.find_owed("in/z").is_empty()
    owing.end_owed(NIGHTLY, datetime.now(UTC))
    assert owing.find_owed("in/x")["next_attempt_at"].to_list() == [None]


class TestGivenBack:
    def test_what_a_run_gives_back_is_owed(self, ledger: Ledger) -> None:
        begin(ledger, "a")
        ledger.claim(NIGHTLY, "a", arrivals("x", "y"))
        ledger.settle(NIGHTLY, "a", dispositions("y"))
        ledger.release_claims(NIGHTLY, "a")
        assert due(ledger) == ["x"]
        assert counts(ledger) == [("given_back", 1, 0, 0)]

    def test_a_generation_that_was_given_back_comes_again(self, owing: Ledger) -> None:
        begin(owing, "b", "c")
        owing.claim(NIGHTLY, "b", arrivals("x"))
        owing.release_claims(NIGHTLY, "b")
        assert due(owing) == ["x", "y"]
        owing.claim(NIGHTLY, "c", arrivals("x"))
        assert owing.held_by(NIGHTLY, "c")["key"].to_list() == ["in/x"]

    def test_a_redrive_that_is_given_back_leaves_owed_what_was_owed(self, owing: Ledger) -> None:
        begin(owing, "r")
        owing.redrive(NIGHTLY, "r", to_come("x"), ASKED)
        assert due(owing) == ["y"]
        owing.release_claims(NIGHTLY, "r")
        assert counts(owing) == [("object_gone", 2, 0, 0)]

    def test_a_redrive_of_what_was_not_owed_leaves_nothing_owed(self, ledger: Ledger) -> None:
        begin(ledger, "a", "r")
        ledger.claim(NIGHTLY, "a", arrivals("x"))
        ledger.settle(NIGHTLY, "a", unread("x", reason="truncated"))
        ledger.redrive(NIGHTLY, "r", to_come("x"), ASKED)
        ledger.release_claims(NIGHTLY, "r")
        assert counts(ledger) == []


class TestAuditedAgain:
    def test_a_repeated_word_is_not_another_attempt(self, owing: Ledger) -> None:
        for _ in range(9):
            owing.settle(NIGHTLY, "a", unread("x", "y"))
        assert due(owing) == ["x", "y"]

    def test_a_repeated_word_takes_nothing_from_the_run_that_has_claimed_it_since(self, owing: Ledger) -> None:
        begin(owing, "b", "c")
        owing.claim(NIGHTLY, "b", arrivals("x"))
        owing.settle(NIGHTLY, "a", unread("x", "y"))
        assert due(owing) == ["y"]
        owing.claim(NIGHTLY, "c", arrivals("x"))
        assert owing.held_by(NIGHTLY, "c").is_empty()


def content(name: str, etag: str, age: timedelta = timedelta()) -> pl.DataFrame:
    """Return another content of an object, that much older or younger."""
    row = arrival_id("archive", f"in/{name}", None, etag, 100)
    return arrivals(name).with_columns(
        arrival_id=pl.lit(row), etag=pl.lit(etag), last_modified=pl.col("last_modified") - age
    )


@pytest.mark.parametrize("age", [-DAY, DAY])  # of the later content: a replica keeps its old date
def test_older_content_that_is_settled_later_does_not_hide_what_is_owed(ledger: Ledger, age: timedelta) -> None:
    later = content("x", "another", age)
    begin(ledger, "a", "b", "c")
    ledger.claim(NIGHTLY, "a", arrivals("x"))
    ledger.claim(NIGHTLY, "b", later)
    for run, row in (("b", later), ("a", arrivals("x"))):
        word = unread("x", reason="instance_claimed").with_columns(arrival_id=pl.lit(row["arrival_id"][0]))
        ledger.settle(NIGHTLY, run, word)
    ledger.claim(NIGHTLY, "c", later)
    assert ledger.held_by(NIGHTLY, "c")["etag"].to_list() == ["another"]


def test_content_that_was_replaced_is_not_owed(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("x"))
    ledger.claim(NIGHTLY, "b", content("x", "another", -DAY))
    ledger.settle(NIGHTLY, "a", unread("x", reason="instance_claimed"))
    assert due(ledger) == []
