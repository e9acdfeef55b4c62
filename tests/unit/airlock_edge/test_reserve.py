"""The reserve: bytes that are given up when the book says that the disk is full, so that the spool drains."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from airlock_edge import spool as spooling
from airlock_edge.book import Book
from airlock_edge.commitment.information import Reference, Request
from airlock_edge.commitment.store import CommitmentStore
from airlock_edge.metrics import Metrics
from airlock_edge.monitor import Monitor
from airlock_edge.reserve import Reserve
from airlock_edge.settings import Spool as SpoolSettings
from airlock_edge.spool import Spool
from tests.unit.airlock_edge.test_book import ONE

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = Request("1.2.3", tuple(Reference("1.2.4", f"1.2.{number}" + 40 * "9") for number in range(999)))


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    found = Reserve(tmp_path)
    assert found.make()
    return found


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path)
    yield found
    found.close()


def limit(connection: sqlite3.Connection, pages: int) -> None:
    """Let SQLite say that the disk is full when a file would have more pages; it never cuts one."""
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_its_bytes_are_allocated(reserve: Reserve, tmp_path: Path) -> None:
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= reserve.size > 0


def test_a_book_that_finds_the_disk_full_gives_it_up_and_takes_the_rows_later(reserve: Reserve, book: Book) -> None:
    rows = [ONE.__class__(**(vars(ONE) | {"s3_key": f"a/{number}"})) for number in range(500)]
    limit(book._connection, 1)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        book.add(rows)
    assert not reserve.is_there
    assert book.count() == 0
    limit(book._connection, 100_000)
    book.add(rows)
    assert book.count() == 500


def test_a_disk_that_does_not_give_it_up_refuses_the_rows_all_the_same(
    reserve: Reserve, book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another error than SQLite's would end the thread that writes rows."""

    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    rows = [ONE.__class__(**(vars(ONE) | {"s3_key": f"a/{number}"})) for number in range(500)]
    limit(book._connection, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            book.add(rows)
    assert reserve.is_there
    assert "the reserve cannot be given up (Read-only file system)" in caplog.text
    limit(book._connection, 100_000)
    book.add([ONE])


def test_so_does_a_commitment_request(reserve: Reserve, book: Book, tmp_path: Path) -> None:
    store = CommitmentStore(tmp_path)
    limit(store._writer, 1)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.add("CT1", MANY)
    assert not reserve.is_there
    assert book.count() == 0
    limit(store._writer, 100_000)
    assert store.add("CT1", MANY) == "new"
    store.close()


def test_another_error_keeps_it(reserve: Reserve, book: Book) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), book.transaction() as connection:
        connection.execute("INSERT INTO nowhere VALUES (1)")
    assert reserve.is_there
    book.add([ONE])


def test_a_commit_that_fails_leaves_no_open_transaction(reserve: Reserve) -> None:
    """SQLite keeps a transaction open after some failed commits; the next one could not begin."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE a (x PRIMARY KEY)")
    connection.execute("CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), reserve.transaction(connection):
        connection.execute("INSERT INTO b VALUES (1)")
    with reserve.transaction(connection):
        connection.execute("INSERT INTO a VALUES (1)")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk of 1,600 MiB in blocks of 1 MiB, of which 85 % are used."""
    found = SimpleNamespace(f_blocks=1600, f_bfree=240, f_bavail=240, f_frsize=1024 * 1024)
    monkeypatch.setattr(spooling.os, "statvfs", lambda _: found)
    return found


def test_it_counts_as_used_from_the_moment_that_it_is_given_up(reserve, tmp_path, disk) -> None:
    spool = Spool(tmp_path)
    disk.f_bfree = disk.f_bavail = 0
    assert spool.used_percent() == 100
    reserve.give_up()
    disk.f_bfree = disk.f_bavail = 8
    assert spool.used_percent() == 100
    disk.f_bfree = disk.f_bavail = 168
    spool._used = (-1.0, 0.0, False)
    assert spool.used_percent() == 90


@pytest.mark.parametrize(("free", "made"), [(240, True), (165, False)])
def test_it_is_made_again_when_the_disk_has_room_for_it_below_the_refusal(tmp_path, disk, free, made) -> None:
    disk.f_bfree = disk.f_bavail = free
    spool = Spool(tmp_path)
    spool.damaged.mkdir()
    spool.ready.mkdir()
    Monitor(SpoolSettings(), spool, Metrics()).look()
    assert spool.reserve.is_there is made


@pytest.mark.parametrize(("free", "kept"), [(1, False), (2, True)])
def test_a_start_on_a_full_disk_gives_it_up_before_the_book_is_opened(reserve, disk, free, kept) -> None:
    disk.f_bfree = disk.f_bavail = free
    reserve.begin()
    assert reserve.is_there is kept
