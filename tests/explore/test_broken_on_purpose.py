"""The search finds what it is for: each test breaks one rule of the library, and some history shows it.

The locks of PostgreSQL are broken in `test_on_postgres.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text

from airlock.clinical import validate
from airlock.imaging import audit, settle
from airlock.ledger import Ledger
from airlock.ledger.database import writing
from airlock.ledger.tables import runs
from tests.explore.explorer import explore

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from airlock.run import Run
    from tests.explore.world import World

SECONDS = 900.0
SEED = 3

pytestmark = [pytest.mark.proof, pytest.mark.timeout(SECONDS + 120)]  # the search ends by itself


def find(world: World, *wanted: int) -> int:
    """Search until one of these invariants is broken, and return how many histories that took."""
    others = frozenset(range(1, 16)) - set(wanted)
    search = explore(world, SEED, SECONDS, shrink_seconds=0, without=others)
    assert search.findings, f"{search.histories} histories in {search.seconds:.0f} s break nothing"
    return search.histories


def test_a_run_that_does_not_look_again_under_the_locks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle.Elsewhere, "equals", lambda *_: True)
    assert find(world, 3, 11, 13, 14)


def test_ownership_that_is_given_up_before_the_study_is_settled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    record = audit._record_imports

    def give_up_early(run: Run, *args: Any) -> pl.Series:
        found = record(run, *args)
        with writing(world.ledger.engine, "in flight") as connection:
            connection.execute(text("DELETE FROM in_flight WHERE run_key = :run"), {"run": run.key})
        return found

    monkeypatch.setattr(audit, "_record_imports", give_up_early)
    assert find(world, 3, 11, 14)


def test_releases_that_are_queued_after_settling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "record_releases", lambda *_, **__: None)
    assert find(world, 13)


def test_newest_wins_in_redrives_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    late, refuse = validate.find_late, validate.refuse_late

    def find_late(run: Run[Any], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
        found = late(run, datastore_id, claims)
        return found if run.redrive else found.clear()

    def refuse_late(run: Run[Any], contested: pl.DataFrame) -> pl.DataFrame:
        found = refuse(run, contested)
        return found if run.redrive else found.clear()

    monkeypatch.setattr(validate, "find_late", find_late)
    monkeypatch.setattr(validate, "refuse_late", refuse_late)
    assert find(world, 12)


def test_a_night_that_failed_counts_as_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def scheduled_until(ledger: Ledger, pipeline: str, before: datetime) -> datetime | None:
        ended = select(func.max(runs.c.window_end)).where(runs.c.pipeline == pipeline, runs.c.window_end <= before)
        with ledger._reading() as connection:
            until: datetime | None = connection.scalar(ended)
            return until

    monkeypatch.setattr(Ledger, "scheduled_until", scheduled_until)
    assert find(world, 10)


def test_siblings_in_other_runs_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "unresolved_files", lambda *_, **__: [])
    assert find(world, 3, 11, 14)
