"""A kill between an object's response and its row costs nothing: the next start writes the row."""

from __future__ import annotations

import pytest

from airlock_edge.book import Book, State
from airlock_edge.recorder import Recorder
from airlock_edge.recovery import add_missing_rows
from airlock_edge.settings import load_settings
from airlock_edge.spool import Spool
from tests.servers.edge import CALLER, write_settings
from tests.unit.airlock_edge.spooled import spool_object

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def parts(tmp_path):
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    spool = Spool(settings.state)
    spool.prepare()
    book = Book(settings.state)
    with Recorder(book) as recorder:
        yield settings, spool, book, recorder
    book.close()
    spool.close()


def test_a_file_without_a_row_gets_one_once(parts):
    _, spool, book, recorder = parts
    spool_object(spool, CALLER, 1)
    assert add_missing_rows(*parts) == 1
    recorder.flush()
    (row,) = book.find("1.2.1", CT)
    assert (row.state, row.durable_at, row.calling_ae_title) == (State.SPOOLED, "", CALLER)
    assert add_missing_rows(*parts) == 0


def test_a_damaged_file_gets_no_row_and_stops_no_start(parts):
    _, spool, book, recorder = parts
    (spool.ready / spool_object(spool, CALLER, 1)).write_bytes(b"lost")
    spool_object(spool, CALLER, 2)
    assert add_missing_rows(*parts) == 1
    recorder.flush()
    assert not book.find("1.2.1", CT)
