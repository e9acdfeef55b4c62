"""Locks of the ledger's writers, on a real PostgreSQL: SQLite has one writer anyway."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, text

from airlock.ledger import Ledger, LedgerError, contracts, gates, open_resources
from airlock.ledger.database import PartScope, writing
from airlock.ledger.errors import LedgerLockedError
from airlock.records import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger.database import Scope

ONE, OTHER = PartScope("gates", "1" * 32), PartScope("gates", "2" * 32)
EARLIER = "SELECT pg_try_advisory_xact_lock(:key)"  # of earlier versions, without a wait


@pytest.fixture
def opened(postgres_ledger: str) -> Iterator[Ledger]:
    """A ledger whose writers do not wait: they fail if they would have to."""
    with Ledger.open(f"{postgres_ledger}&options=-c%20lock_timeout%3D50ms") as ledger:
        yield ledger


@contextmanager
def earlier_version(ledger: Ledger, *names: str) -> Iterator[bool]:
    """Lock whole scopes as versions before `PartScope` do; yield whether that took no wait."""
    with ledger._engine.connect() as connection, connection.begin():
        yield all(_is_locked_at_once(connection, name) for name in names)


def _is_locked_at_once(connection: Connection, name: str) -> bool:
    key = int(digest("airlock ledger", name, length=15), 16)
    return bool(connection.scalar(text(EARLIER), {"key": key}))


def waits(ledger: Ledger, *scopes: Scope) -> bool:
    try:
        with writing(ledger._engine, *scopes):
            return False
    except LedgerLockedError:
        return True


def test_writers_of_two_parts_do_not_wait_for_each_other(opened: Ledger) -> None:
    with opened.at_once(ONE):
        assert not waits(opened, OTHER)


def test_writers_of_one_part_wait(opened: Ledger) -> None:
    with opened.at_once(ONE):
        assert waits(opened, ONE)
        assert waits(opened, OTHER, ONE)
    assert not waits(opened, ONE)


def test_writers_of_parts_and_of_the_whole_wait_for_each_other(opened: Ledger) -> None:
    with opened.at_once("gates"):
        assert waits(opened, ONE)
    with opened.at_once(ONE):
        assert waits(opened, "gates")


def test_who_locks_the_whole_and_a_part_has_the_whole_alone(opened: Ledger) -> None:
    with opened.at_once(ONE, "gates"):
        assert waits(opened, OTHER)


@pytest.mark.parametrize("kind", [gates, contracts, open_resources])
def test_an_earlier_version_excludes_every_data_store_and_is_excluded(opened: Ledger, kind: object) -> None:
    scope: PartScope = kind.scope("1" * 32)  # type: ignore[attr-defined]
    with earlier_version(opened, scope.whole) as is_alone:
        assert is_alone
        assert waits(opened, scope)
    with opened.at_once(scope), earlier_version(opened, scope.whole) as is_alone:
        assert not is_alone


@pytest.mark.parametrize("locked", [(ONE,), ("gates",)])
def test_methods_need_their_part_or_the_whole(ledger: Ledger, locked: tuple[Scope, ...]) -> None:
    with ledger.at_once(*locked) as inner, inner._writing(ONE):
        pass
    with ledger.at_once(OTHER) as inner, pytest.raises(ValueError, match=f"has not locked gates of {'1' * 32}"):
        inner._writing(ONE).__enter__()
    with ledger.at_once(covered=["gates"]) as inner, inner._writing(ONE):
        pass


def test_writers_that_name_data_stores_in_opposite_order_end(postgres_ledger: str) -> None:
    failed: list[LedgerError] = []

    def lock(*scopes: Scope) -> None:
        try:
            with writing(ledger._engine, *scopes):
                pass
        except LedgerError as error:
            failed.append(error)

    with Ledger.open(postgres_ledger) as ledger:
        writers = [threading.Thread(target=lock, args=order) for order in ((ONE, OTHER), (OTHER, ONE))]
        with ledger.at_once(ONE):
            for number, writer in enumerate(writers, 1):
                writer.start()
                wait_for_waiting(ledger, number)
        for writer in writers:
            writer.join()
    assert not failed


def wait_for_waiting(ledger: Ledger, number: int) -> None:
    """Return once so many writers wait for a lock of the ledger's database."""
    own = text(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )
    with ledger._engine.connect() as connection:
        while connection.scalar(own) != number:
            connection.rollback()
