"""Rows of the book come together in one flush, and whoever waits for one does not wait for more."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from airlock_edge import recorder as recording
from airlock_edge.book import Book
from airlock_edge.recorder import BookError, Recorder
from tests.unit.airlock_edge.test_book import ONE

ROWS = [replace(ONE, s3_key=f"in/north/2026-01-31/aa/{number:032x}.dcm") for number in range(50)]


@pytest.fixture
def book(tmp_path):
    book = Book(tmp_path)
    yield book
    book.close()


@pytest.fixture
def flushes(book, monkeypatch) -> list[int]:
    found: list[int] = []
    add = book.add
    monkeypatch.setattr(book, "add", lambda rows, **_: (found.append(len(rows)), add(rows)))
    return found


def test_rows_that_nobody_waits_for_are_written_together(book, flushes, monkeypatch):
    monkeypatch.setattr(recording, "_GATHER_SECONDS", 60)
    with Recorder(book) as recorder:
        for row in ROWS:
            recorder.add(row)
        recorder.flush()
        assert book.count() == 50
    assert flushes == [50]


def test_a_row_that_is_waited_for_is_there_at_once(book, monkeypatch):
    monkeypatch.setattr(recording, "_GATHER_SECONDS", 120)
    with Recorder(book) as recorder:
        begin = time.monotonic()
        for row in ROWS[:3]:
            recorder.write(row)
            assert book.get(row.s3_key) == row
        assert time.monotonic() - begin < 120, "a row was gathered with others"


def test_callers_that_wait_together_share_flushes(book, flushes):
    with Recorder(book) as recorder, ThreadPoolExecutor(16) as pool:
        list(pool.map(recorder.write, ROWS))
    assert book.count() == 50
    assert sum(flushes) == 50


def refuse(_: object, *, arrived: bool) -> None:
    """Fail as a book on a full disk does."""
    raise sqlite3.OperationalError("database or disk is full")


def test_the_end_writes_what_is_left(book):
    with Recorder(book) as recorder:
        recorder.add(ONE)
    assert book.count() == 1


def test_a_failure_is_that_of_its_rows_only(book, monkeypatch):
    with Recorder(book) as recorder:
        with monkeypatch.context() as patch:
            patch.setattr(book, "add", refuse)
            with pytest.raises(BookError):
                recorder.write(ROWS[0])
        recorder.write(ROWS[1])
    assert [row.s3_key for row in ROWS[:2] if book.get(row.s3_key)] == [ROWS[1].s3_key]


def test_a_caller_that_looks_late_still_learns_that_its_row_failed(book, monkeypatch):
    monkeypatch.setattr(book, "add", refuse)
    with Recorder(book) as recorder:
        wait = recorder._wait_until_written

        def wait_long(number: int) -> None:
            """Let thirty groups fail before this caller comes to look."""
            wait(number)
            for row in ROWS[1:31]:
                wait(recorder.add(row))

        monkeypatch.setattr(recorder, "_wait_until_written", wait_long)
        with pytest.raises(BookError):
            recorder.write(ROWS[0])
        assert not recorder._failed | recorder._awaited


def test_rows_that_the_disk_refused_are_written_with_the_next_ones_and_before_them(book, monkeypatch):
    newer = replace(ONE, s3_key=ROWS[1].s3_key)
    with Recorder(book) as recorder:
        with monkeypatch.context() as patch:
            patch.setattr(book, "add", refuse)
            recorder.add(replace(ONE, s3_key=ROWS[0].s3_key))
            assert not recorder.flush()
        recorder.add(newer)
        assert recorder.flush()
        assert book.count() == 2
        assert book.transaction().__enter__().execute("SELECT s3_key FROM newest").fetchall() == [(newer.s3_key,)]


def test_a_caller_that_asks_has_refused_rows_tried_again(book, monkeypatch):
    with Recorder(book) as recorder:
        with monkeypatch.context() as patch:
            patch.setattr(book, "add", refuse)
            recorder.add(ONE)
            assert not recorder.flush()
            assert not recorder.flush()
        assert recorder.flush()
        assert book.count() == 1
