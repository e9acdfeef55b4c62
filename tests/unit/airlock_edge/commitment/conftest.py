"""A book, requests beside it, and a machine whose clock a test moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from airlock_edge.book import Book
from airlock_edge.commitment.clock import Clock
from airlock_edge.commitment.store import CommitmentStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Machine:
    """What the clock of waiting asks."""

    boot: str = "first"
    seconds: float = 1_000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.boot, lambda: self.seconds)

    def restart(self) -> None:
        self.boot, self.seconds = f"{self.boot}+", self.seconds + 100_000  # it was up for longer before it was seen


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    one = Book(tmp_path)
    yield one
    one.close()


@pytest.fixture
def store(book: Book, tmp_path: Path, machine: Machine) -> Iterator[CommitmentStore]:
    one = CommitmentStore(tmp_path, machine.clock())
    yield one
    one.close()
