"""Image sets that somebody deletes are found by a reconciliation and imported again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.ledger import Ledger
from tests.explore import play as playing
from tests.explore.explorer import play
from tests.explore.history import Go, History, Lose, Rebuild, Reconcile, RunPlan, Upload
from tests.explore.play import Coverage

if TYPE_CHECKING:
    import pytest

    from tests.explore.world import World

RUNS = {"A": RunPlan("first"), "B": RunPlan("first"), "R": RunPlan("first", finds=True)}
LOST = (Upload("in/1.dcm", "ct 1.1.1"), Go("A"), Lose(0))


def test_a_redrive_imports_what_a_reconciliation_has_missed(world: World) -> None:
    played = play(world, History("test", RUNS, (*LOST, Reconcile("first"), Go("R"))), Coverage())
    assert not played.violations, "\n".join(played.timeline)
    assert [one.revision for one in played.books.newest_queued().values()] == [2]


def test_what_was_missed_is_known_after_a_rebuild(world: World) -> None:
    later = Upload("in/2.dcm", "ct 1.1.2"), Go("B")
    played = play(world, History("test", RUNS, (*LOST, Reconcile("first"), Rebuild(), *later, Go("R"))), Coverage())
    assert not played.violations, "\n".join(played.timeline)
    assert [one.revision for one in played.books.newest_queued().values()] == [3]  # B held the second


def test_a_rebuild_that_forgets_what_was_missed_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "keep_losses", lambda *_: None)
    (found,) = play(world, History("test", RUNS, (*LOST, Reconcile("first"), Rebuild())), Coverage()).violations
    assert found.invariant == 15


def test_what_nobody_looks_for_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "find_at_rest", lambda _: None)
    (found,) = play(world, History("test", RUNS, LOST), Coverage()).violations
    assert found.invariant == 2
