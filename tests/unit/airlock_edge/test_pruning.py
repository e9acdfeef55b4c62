"""The book deletes rows that are old and that nothing needs; a request about them gets a failure."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airlock_edge.book import Book, State, now_text
from airlock_edge.commitment.clock import Clock
from airlock_edge.commitment.information import Reference, Request
from airlock_edge.commitment.store import CommitmentStore, Told
from airlock_edge.pruning import Pruning
from tests.unit.airlock_edge.commitment.test_orders import edge_settings
from tests.unit.airlock_edge.test_book import DURABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock_edge.book import Received

CT = DURABLE.sop_class_uid
OLD, NEW = 401, 399  # days ago; the default keeps 400
IMPORTED, FAILED = "imported", "failed"


def row(uid: str, days: float = OLD, peer: str = "PACS", content: str = "a", **changes: Any) -> Received:
    """Return a durable object that was received so many days ago."""
    at = now_text(days_ago=days)
    key = f"in/north/{at[:10]}/{'s' * 16}/{uid}{content}.dcm"
    values = {"s3_key": key, "sop_instance_uid": uid, "calling_ae_title": peer, "sha256": content, "received_at": at}
    return replace(DURABLE, **values | changes)


def keep(book: Book, *rows: Received, closed: bool = True) -> None:
    for one in rows:
        book.add([one])
    for folder, changes in book.open_deliveries().items() if closed else ():
        book.close_delivery(folder, changes)


def tell(store: CommitmentStore, row: Received, state: str) -> None:
    store.note_told([Told(row.s3_key, state, state, None, (1, 1))])


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with closing(Book(tmp_path)) as one:
        yield one


@pytest.fixture
def store(book: Book, tmp_path: Path) -> Iterator[CommitmentStore]:
    with closing(CommitmentStore(tmp_path, Clock())) as one:
        yield one


@pytest.fixture
def pruning(book: Book, tmp_path: Path) -> Pruning:
    return Pruning(edge_settings(tmp_path), book, None)


@pytest.fixture
def careful(book: Book, store: CommitmentStore, tmp_path: Path) -> Pruning:
    """Prune an edge that offers commitment."""
    return Pruning(edge_settings(tmp_path), book, store)


def uids(folder: Path) -> list[str]:
    with closing(Book(folder)) as book:
        return sorted(one.sop_instance_uid for one in book.list_between("", "z", -1))


def tables(folder: Path) -> dict[str, int]:
    with closing(Book(folder)) as book, book.transaction() as rows:
        names = "received", "newest", "deliveries"
        return {name: rows.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


def test_old_rows_go_with_all_that_belongs_to_them(book: Book, pruning: Pruning, tmp_path: Path) -> None:
    keep(book, row("1.1"), row("1.2"), row("1.3", NEW))
    assert pruning.prune() == 2
    assert uids(tmp_path) == ["1.3"]
    assert tables(tmp_path) == {"received": 1, "newest": 1, "deliveries": 1}


def test_an_object_that_waits_for_s3_stays(book: Book, pruning: Pruning) -> None:
    keep(book, row("1.1", state=State.SPOOLED, durable_at=""))
    assert pruning.prune() == 0


def test_a_folder_without_its_manifest_stays(book: Book, pruning: Pruning) -> None:
    keep(book, row("1.1"), closed=False)
    assert pruning.prune() == 0
    keep(book)
    assert pruning.prune() == 1


def test_a_row_that_came_later_than_the_day_of_its_key_stays(book: Book, pruning: Pruning) -> None:
    keep(book, row("1.1", received_at=now_text(days_ago=NEW)))
    assert pruning.prune() == 0


def test_an_instance_stays_while_one_of_its_contents_is_young(book: Book, pruning: Pruning, tmp_path: Path) -> None:
    """Else the young content of another peer would count for the peer whose own content is forgotten."""
    keep(book, row("1.1"), row("1.1", NEW, "CT", "b"))
    assert pruning.prune() == 0
    keep(book, row("1.2"), row("1.2", 500, "CT", "b"))
    assert pruning.prune() == 2
    assert uids(tmp_path) == ["1.1", "1.1"]


def test_objects_without_an_instance_go_one_by_one(book: Book, pruning: Pruning, tmp_path: Path) -> None:
    keep(book, row("", content="a"), row("", content="b"), row("", NEW, content="c"))
    assert pruning.prune() == 2
    assert uids(tmp_path) == [""]


@pytest.mark.parametrize(
    ("case", "deleted"),
    [(("PACS", IMPORTED), 1), (("PACS", FAILED), 0), (("OLDPACS", IMPORTED), 0), (("MODALITY", FAILED), 1)],
)
def test_what_would_not_be_committed_stays(book, store, careful, case: tuple[str, str], deleted: int) -> None:
    peer, told = case  # PACS waits for imported, OLDPACS for released, MODALITY for durable
    keep(book, one := row("1.1", peer=peer))
    tell(store, one, told)
    assert careful.prune() == deleted


def test_what_airlock_has_not_spoken_about_stays(book: Book, careful: Pruning) -> None:
    keep(book, row("1.1"))
    assert careful.prune() == 0


def test_an_open_request_keeps_its_instances(book: Book, store: CommitmentStore, careful: Pruning) -> None:
    keep(book, one := row("1.1"))
    tell(store, one, IMPORTED)
    store.add("PACS", Request("1.9", (Reference(CT, "1.1"),)))
    assert careful.prune() == 0
    store.decide(1, [None])
    assert careful.prune() == 0
    store.note_reported(1)
    assert careful.prune() == 1
    store.add("PACS", Request("1.10", (Reference(CT, "1.1"),)))
    assert store.look(2)[0].contents == (), "it is unknown, and gets a failure"


def test_what_airlock_said_goes_too_also_if_it_said_it_later(
    book: Book, store: CommitmentStore, careful: Pruning
) -> None:
    keep(book, old := row("1.1"), new := row("1.2", NEW))
    tell(store, old, IMPORTED)
    tell(store, new, IMPORTED)
    assert careful.prune() == 1
    tell(store, old, "released")
    assert careful.prune() == 0
    assert store._read("SELECT s3_key FROM told") == [(new.s3_key,)]


CHILD = """
import os, signal, sys
from pathlib import Path
from airlock_edge import pruning
from airlock_edge.book import Book
from tests.unit.airlock_edge.commitment.test_orders import edge_settings

delete, left = pruning._delete_rows, int(sys.argv[2])

def delete_until(connection, instance, keys):
    global left
    delete(connection, instance, keys)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

pruning._delete_rows = delete_until
folder = Path(sys.argv[1])
pruning.Pruning(edge_settings(folder), Book(folder), None).prune()
"""


def test_a_kill_in_the_middle_leaves_whole_instances(book: Book, pruning: Pruning, tmp_path: Path) -> None:
    book.add([row(f"1.{number}", 401 + number % 7) for number in range(3000)])
    keep(book)
    killed = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), "1500"], check=False, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    left = tables(tmp_path)
    assert 1500 < left["received"] < 3000, "some transactions are over, and that of the kill has left nothing"
    assert left["newest"] == left["received"]
    assert pruning.prune() == left["received"]
    assert set(tables(tmp_path).values()) == {0}


def test_a_book_that_cannot_be_opened_again_ends_no_thread(
    book: Book, pruning: Pruning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a thread is a defect, which ends the edge; each association has files open, too."""
    keep(book, row("1.1"))

    def refuse(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("airlock_edge.book.sqlite3.connect", refuse)
    assert pruning._step() == 3600
    assert "old rows of the book cannot be deleted" in caplog.text
