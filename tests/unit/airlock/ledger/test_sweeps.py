"""A listed object is an arrival, is owed, or is a stray; a stray that is taken in is claimed by the next run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import select

from airlock.ledger.arrivals import LISTED
from airlock.ledger.columns import ComparisonKind
from airlock.ledger.decision_tables import decisions
from airlock.ledger.sweeps import KEYS, SweepAnswer
from tests.unit.airlock.ledger.samples import NIGHTLY, arrivals, begin, dispositions, held_after, id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.ledger import Ledger

NOW = datetime.now(UTC)
SOON = NOW + timedelta(hours=1)


def listed(*names: str, **changes: object) -> pl.DataFrame:
    given = {name: pl.lit(value) for name, value in changes.items()}
    return arrivals(*names).with_columns(site=pl.lit("")).with_columns(**given).select(LISTED.names())


def strays(ledger: Ledger, listing: pl.DataFrame, pipeline: str = NIGHTLY) -> tuple[list[str], int]:
    found = ledger.find_strays(pipeline, listing)
    assert found.objects.schema == LISTED
    return sorted(key.removeprefix("in/") for key in found.objects["key"]), found.owed


def keys(frames: Iterable[pl.DataFrame]) -> list[str]:
    return sorted(key.removeprefix("in/") for frame in frames for key in frame["key"])


@pytest.fixture
def claimed(ledger: Ledger) -> Ledger:
    """A ledger in which run a holds x and y."""
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("x", "y"))
    return ledger


def test_a_listed_object_that_no_run_has_claimed_is_a_stray(claimed: Ledger) -> None:
    assert strays(claimed, listed("x", "y", "z")) == (["z"], 0)
    assert strays(claimed, listed("x"), "other") == (["x"], 0)
    assert strays(claimed, listed()) == ([], 0)


def test_a_changed_content_is_a_stray_and_one_that_returns_is_one_again(claimed: Ledger) -> None:
    changed = listed("x", arrival_id="b" * 32, etag="other", last_modified=NOW)
    assert strays(claimed, changed) == (["x"], 0)
    begin(claimed, "b")
    claimed.claim(NIGHTLY, "b", changed)
    assert strays(claimed, changed) == ([], 0)
    back = listed("x", last_modified=SOON)
    assert strays(claimed, back) == (["x"], 0)
    assert claimed.owe_strays(NIGHTLY, "sweep", back) == 1
    begin(claimed, "c")
    assert keys([held_after(claimed, "c", back)]) == ["x"]
    assert strays(claimed, back) == ([], 0)


def test_what_is_given_back_is_owed_and_no_stray(claimed: Ledger) -> None:
    claimed.release_claims(NIGHTLY, "a")
    assert strays(claimed, listed("x", "z")) == (["z"], 1)


def test_what_runs_have_given_up_is_a_stray_again(claimed: Ledger) -> None:
    claimed.release_claims(NIGHTLY, "a")
    claimed.end_owed(NIGHTLY, SOON)
    assert strays(claimed, listed("x")) == (["x"], 0)
    assert claimed.owe_strays(NIGHTLY, "sweep", listed("x")) == 1
    assert claimed.count_owed(NIGHTLY).select("reason", "waiting", "overdue").rows() == [
        ("found_by_sweep", 1, 0),
        ("given_back", 0, 1),
    ]


def test_a_stray_that_is_taken_in_is_due_at_once_and_claimed_by_the_next_run(claimed: Ledger) -> None:
    assert claimed.owe_strays(NIGHTLY, "sweep", listed("x", "z")) == 1
    assert keys(claimed.owed_keys(NIGHTLY, "archive", SOON)) == ["z"]
    assert strays(claimed, listed("z")) == ([], 1)
    assert claimed.owe_strays(NIGHTLY, "sweep", listed("z")) == 0
    begin(claimed, "b")
    assert keys([held_after(claimed, "b", arrivals("x", "z"))]) == ["z"]
    assert strays(claimed, listed("z")) == ([], 0)
    claimed.settle(NIGHTLY, "b", dispositions("z"))
    assert claimed.count_owed(NIGHTLY).is_empty()


def test_what_a_run_has_claimed_since_is_not_owed(claimed: Ledger) -> None:
    assert strays(claimed, listed("z")) == (["z"], 0)
    claimed.claim(NIGHTLY, "a", arrivals("z"))
    assert claimed.owe_strays(NIGHTLY, "sweep", listed("z")) == 0


def test_the_arrivals_of_a_bucket_are_read_in_pieces(claimed: Ledger) -> None:
    claimed.claim(NIGHTLY, "a", arrivals(*(f"n{number}" for number in range(300))))
    frames = list(claimed.arrival_keys(NIGHTLY, "archive", SOON))
    assert all(frame.schema == KEYS for frame in frames)
    assert len(keys(frames)) == len(set(keys(frames))) == 302
    assert keys(claimed.arrival_keys(NIGHTLY, "elsewhere", SOON)) == []
    assert keys(claimed.arrival_keys("other", "archive", SOON)) == []
    assert keys(claimed.arrival_keys(NIGHTLY, "archive", NOW - timedelta(days=1))) == []


def test_arrivals_are_counted_by_pipeline(claimed: Ledger) -> None:
    assert (claimed.count_arrivals(NIGHTLY), claimed.count_arrivals("other")) == (2, 0)


def test_a_vanished_arrival_is_described(claimed: Ledger) -> None:
    claimed.settle(NIGHTLY, "a", dispositions("x"))
    found = claimed.describe_vanished(NIGHTLY, pl.Series([id_of("x"), id_of("y"), id_of("z")]))
    assert found.select("key", "disposition").rows() == [("in/x", "released"), ("in/y", None)]


def test_ids_that_no_arrival_has_are_counted(claimed: Ledger) -> None:
    assert claimed.count_unknown(NIGHTLY, [id_of("x"), id_of("z"), id_of("z")]) == 1
    assert claimed.count_unknown("other", [id_of("x")]) == 1
    assert claimed.count_unknown(NIGHTLY, []) == 0


def test_runs_and_sweeps_are_known_by_their_pipeline(claimed: Ledger) -> None:
    kind = ComparisonKind.SWEEP
    begun = claimed.begin_comparison(kind, {}, pipeline=NIGHTLY, is_dry=True, asked_by="ada")
    claimed.begin_comparison(kind, {}, pipeline="other", is_dry=True, asked_by="ada")
    claimed.begin_comparison(ComparisonKind.RECONCILE, {}, pipeline=NIGHTLY, is_dry=True, asked_by="ada")
    assert claimed.run_keys(NIGHTLY) == {"a"}
    assert claimed.run_keys("other") == set()
    assert claimed.sweep_times(NIGHTLY) == {begun.number: begun.began_at}


def test_an_answer_is_in_the_decision_log(ledger: Ledger) -> None:
    ledger.answer_sweep(NIGHTLY, SweepAnswer("s-1", 12, True, "ada", "a late replica", NOW))
    columns = (decisions.c[name] for name in ("kind", "pipeline", "subject", "answer", "decided_by", "why", "details"))
    with ledger._engine.connect() as connection:
        (row,) = connection.execute(select(*columns)).all()
    assert tuple(row) == ("sweep", NIGHTLY, "s-1", "take_in", "ada", "a late replica", '{"named": 12}')
