"""Rules of the library, each broken on purpose: some history must show it. Each process of a search breaks its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select, text

from airlock.clinical import validate
from airlock.imaging import audit, settle
from airlock.imaging import validate as imaging_validate
from airlock.ledger import Ledger
from airlock.ledger.database import writing
from airlock.ledger.tables import runs
from airlock.stages import buffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import polars as pl
    import pytest

    from airlock.run import Run


class Broken(NamedTuple):
    """A broken rule."""

    apply: Callable[[pytest.MonkeyPatch], None]
    shown_by: frozenset[int]  # the invariants that histories break then


def _look_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settle.Elsewhere, "equals", lambda *_: True)


def _give_up_early(patch: pytest.MonkeyPatch) -> None:
    record = audit._record_imports

    def give_up_early(run: Run, *args: Any) -> pl.Series:
        found = record(run, *args)
        with writing(run.ledger.engine, "in flight") as connection:
            connection.execute(text("DELETE FROM in_flight WHERE run_key = :run"), {"run": run.key})
        return found

    patch.setattr(audit, "_record_imports", give_up_early)


def _queue_later(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "record_releases", lambda *_, **__: None)


def _order_redrives_only(patch: pytest.MonkeyPatch) -> None:
    late, refuse = validate.find_late, validate.refuse_late

    def find_late(run: Run[Any], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
        found = late(run, datastore_id, claims)
        return found if run.redrive else found.clear()

    def refuse_late(run: Run[Any], contested: pl.DataFrame) -> pl.DataFrame:
        found = refuse(run, contested)
        return found if run.redrive else found.clear()

    patch.setattr(validate, "find_late", find_late)
    patch.setattr(validate, "refuse_late", refuse_late)


def _take_failed_nights(patch: pytest.MonkeyPatch) -> None:
    def scheduled_until(ledger: Ledger, pipeline: str, before: datetime) -> datetime | None:
        ended = select(func.max(runs.c.window_end)).where(runs.c.pipeline == pipeline, runs.c.window_end <= before)
        with ledger._reading() as connection:
            until: datetime | None = connection.scalar(ended)
            return until

    patch.setattr(Ledger, "scheduled_until", scheduled_until)


def _forget_siblings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "unresolved_files", lambda *_, **__: [])


def _begin_at_own_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(buffer, "find_start", lambda run, _now: run.window and run.window.start)


def _await_no_wave(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(imaging_validate, "find_sharing", lambda _: {})


BROKEN = {
    "a run does not look again under the locks": Broken(_look_once, frozenset({3, 11, 13, 14})),
    "ownership is given up before the study is settled": Broken(_give_up_early, frozenset({3, 11, 14})),
    "releases are queued after settling": Broken(_queue_later, frozenset({13})),
    "newest wins in redrives only": Broken(_order_redrives_only, frozenset({12})),
    "a night that failed counts as taken": Broken(_take_failed_nights, frozenset({10})),
    "siblings in other runs are forgotten": Broken(_forget_siblings, frozenset({3, 11, 14})),
    "a night in waves counts from its own window": Broken(_begin_at_own_window, frozenset({10})),
    "a study waits for no wave": Broken(_await_no_wave, frozenset({11})),
}
