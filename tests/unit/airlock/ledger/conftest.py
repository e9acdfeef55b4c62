"""Every test of the ledger runs twice: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from airlock.ledger import Ledger, upgrade
from airlock.ledger.columns import metadata
from tests.servers.ledger import new_ledger
from tests.servers.postgres import Postgres, postgres_server, postgres_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from pathlib import Path

__all__ = ["postgres_server", "postgres_url"]


class Clock:
    """The database's clock, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 2, tzinfo=UTC)

    def forward(self, by: timedelta) -> None:
        self.now += by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the ledger in this process."""
    clock = Clock()
    monkeypatch.setattr("airlock.ledger.clock.database_time", lambda _: clock.now)
    return clock


@pytest.fixture(scope="session")
def shared_postgres_ledger(postgres_server: Postgres) -> str:
    """The database of a ledger that many tests use, one after the other."""
    name = postgres_server.create_database()
    upgrade(postgres_server.url(name))
    return name


@pytest.fixture
def postgres_ledger(postgres_server: Postgres, shared_postgres_ledger: str) -> Iterator[str]:
    yield postgres_server.url(shared_postgres_ledger)
    tables = reversed(metadata.sorted_tables)
    postgres_server.execute("; ".join(f"DELETE FROM {table.name}" for table in tables), shared_postgres_ledger)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a place for a ledger where none is yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty ledger."""
    if request.param == "sqlite":
        return new_ledger(tmp_path / "ledger.db")
    emptied: str = request.getfixturevalue("postgres_ledger")
    return emptied


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        yield opened
