"""A kept connection to a SQLite ledger leaves and finds what a new one would."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from airlock.ledger.database import engine_for, parse_url, reading, writing
from tests.servers.kept_connections import KeptConnections
from tests.servers.ledger import new_ledger, restore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

ADD, COUNT = text("INSERT INTO words_of_test VALUES ('a')"), text("SELECT count(*) FROM words_of_test")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = engine_for(parse_url(new_ledger(tmp_path / "ledger.db")))
    assert isinstance(made.pool, KeptConnections)
    with writing(made) as connection:
        connection.execute(text("CREATE TABLE words_of_test (word TEXT)"))
    yield made
    made.dispose()


def break_off(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(ADD)
        raise ZeroDivisionError


def test_a_connection_is_used_again(engine: Engine) -> None:
    numbers = set()
    for _ in range(3):
        with reading(engine) as connection:
            numbers.add(id(connection.connection.dbapi_connection))
    assert len(numbers) == 1


def test_staged_tables_are_gone(engine: Engine) -> None:
    for _ in range(2):
        with reading(engine) as connection:
            connection.execute(text("CREATE TEMPORARY TABLE staged_1 (a TEXT)"))
            connection.execute(text("CREATE INDEX temp.ix_staged_1 ON staged_1 (a)"))
            connection.execute(text("ANALYZE temp.staged_1"))


def test_what_was_rolled_back_is_gone(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError):
        break_off(engine)
    with reading(engine) as connection:
        assert connection.scalar(COUNT) == 0


def test_the_file_holds_what_was_committed(engine: Engine, tmp_path: Path) -> None:
    """Tests copy it, and compare its bytes."""
    with writing(engine) as connection:
        connection.execute(ADD)
    (tmp_path / "copy.db").write_bytes((tmp_path / "ledger.db").read_bytes())
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute(COUNT.text).fetchone() == (1,)
    copy.close()


def test_another_file_in_its_place_is_opened(engine: Engine, tmp_path: Path) -> None:
    backup = (tmp_path / "ledger.db").read_bytes()
    with writing(engine) as connection:
        connection.execute(ADD)
    restore(tmp_path / "ledger.db", backup)
    with writing(engine) as connection:
        assert connection.scalar(COUNT) == 0
        connection.execute(ADD)
    with reading(engine) as connection:
        assert connection.scalar(COUNT) == 1
