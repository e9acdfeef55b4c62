from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from airlock_edge.book import Book, Received, State

ONE = Received(
    s3_key="in/north/2026-01-31/aa/bb.dcm",
    sop_instance_uid="1.2.3",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax="1.2.840.10008.1.2.1",
    calling_ae_title="CT1",
    study_key="aa",
    sha256="00" * 32,
    size=5,
    state=State.SPOOLED,
    received_at="2026-01-31T12:00:00.000+00:00",
)
DURABLE = replace(ONE, state=State.DURABLE, durable_at="2026-01-31T12:00:01.000+00:00")


@pytest.fixture
def book(tmp_path):
    book = Book(tmp_path)
    yield book
    book.close()


def test_an_object_is_found_by_its_instance_and_class(book):
    book.add([ONE])
    assert book.find("1.2.3", ONE.sop_class_uid) == [ONE]
    assert book.find("1.2.3", "1.2.840.10008.5.1.4.1.1.4") == []
    assert book.find("1.2.4", ONE.sop_class_uid) == []


def test_another_content_of_an_instance_is_kept_beside_the_first(book):
    other = replace(ONE, s3_key="in/north/2026-01-31/aa/cc.dcm", sha256="11" * 32)
    book.add([ONE, other])
    assert book.find("1.2.3", ONE.sop_class_uid) == [ONE, other]


def test_an_object_becomes_durable_and_never_less(book):
    book.add([ONE])
    book.add([DURABLE])
    book.add([ONE])
    assert book.get(ONE.s3_key) == DURABLE


def test_a_second_connection_sees_what_the_first_has_added(book, tmp_path):
    book.add([ONE])
    other = Book(tmp_path)
    assert other.count() == 1
    other.close()


def test_a_transaction_that_fails_leaves_nothing(book):
    book.add([ONE])
    rows = [replace(ONE, s3_key="in/north/2026-01-31/aa/cc.dcm"), replace(ONE, s3_key="in/x/y.dcm", size=None)]
    with pytest.raises(sqlite3.IntegrityError):
        book.add(rows)
    assert book.count() == 1


def test_a_reader_does_not_wait_for_rows_that_another_thread_flushes(book):
    book.add([ONE])
    with ThreadPoolExecutor(1) as pool, book.transaction():
        assert pool.submit(book.find, "1.2.3", ONE.sop_class_uid).result(30) == [ONE]


def test_a_content_that_came_long_ago_is_not_found_as_a_place_for_the_same(book):
    book.add([ONE])
    found = (ONE.sop_instance_uid, ONE.sop_class_uid, ONE.sha256)
    assert book.find_content(*found, since="2026-01-31") == ONE
    assert book.find_content(*found, since="2026-02-01") is None


def test_a_closed_book_is_an_error_of_sqlite(tmp_path):
    """An association that outlives the stop may still ask; another error would hide this one."""
    book = Book(tmp_path)
    book.close()
    with pytest.raises(sqlite3.ProgrammingError):
        book.add([DURABLE])
