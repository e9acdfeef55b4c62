"""Waiting is measured by the time since the machine's boot; the wall clock is never asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock_edge.book import Book
from airlock_edge.commitment.clock import Clock, read_boot_id, read_boot_time
from airlock_edge.commitment.store import CommitmentStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.airlock_edge.commitment.conftest import Machine


def test_the_time_in_which_no_edge_ran_counts(store: CommitmentStore, machine: Machine, tmp_path: Path) -> None:
    before = store.clock.now()
    store.keep_clock()
    machine.seconds += 3_600
    again = CommitmentStore(tmp_path, machine.clock())
    assert again.clock.now() - before == pytest.approx(3_600)
    again.close()


def test_the_time_in_which_the_machine_was_off_does_not_count(
    store: CommitmentStore, machine: Machine, tmp_path: Path
) -> None:
    machine.seconds += 60
    store.keep_clock()
    before = store.clock.now()
    machine.restart()
    again = CommitmentStore(tmp_path, machine.clock())
    assert again.clock.now() == pytest.approx(before)
    machine.seconds += 30
    assert again.clock.now() - before == pytest.approx(30)
    again.close()


def test_a_clock_that_was_not_kept_is_late_and_never_early(
    store: CommitmentStore, machine: Machine, tmp_path: Path
) -> None:
    store.keep_clock()
    kept = store.clock.now()
    machine.seconds += 50  # a power cut before it was kept again
    machine.restart()
    again = CommitmentStore(tmp_path, machine.clock())
    assert again.clock.now() == pytest.approx(kept)
    again.close()


def test_the_machine_says_which_boot_it_is_and_since_when() -> None:
    assert len(read_boot_id()) == 36
    assert 0 < read_boot_time() <= read_boot_time()


def test_the_boot_is_asked_for_once_so_that_later_no_file_is_opened(machine: Machine, tmp_path: Path) -> None:
    Book(tmp_path).close()
    asked: list[str] = []
    clock = Clock(lambda: asked.append("boot") or machine.boot, lambda: machine.seconds)  # type: ignore[func-returns-value]
    store = CommitmentStore(tmp_path, clock)
    store.keep_clock()
    store.keep_clock()
    store.close()
    assert len(asked) == 1
