"""The sink of an object: whatever the pieces, the file is header and data set, and its hash is that of its bytes."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlock_edge.book import Book, now_text
from airlock_edge.bucket import UploadError
from airlock_edge.metrics import Metrics
from airlock_edge.part10 import make_header
from airlock_edge.reception import Reception
from airlock_edge.recorder import BookError, Recorder
from airlock_edge.services import OUT_OF_RESOURCES, SUCCESS, Caller, StoreRequest
from airlock_edge.settings import load_settings
from airlock_edge.spool import Spool
from airlock_edge.uploader import read_row
from tests.servers.edge import write_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
REQUEST = StoreRequest(Caller("MODALITY", "127.0.0.1", 1), CT, "1.2.3", EXPLICIT)


class MemoryBucket:
    """Keeps what is uploaded."""

    def __init__(self) -> None:
        self.uri = SimpleNamespace(key="in/")
        self.objects: dict[str, bytes] = {}

    def upload(self, path: Path, key: str, sha256: str, size: int) -> None:
        body = path.read_bytes()
        if (hashlib.sha256(body).hexdigest(), len(body)) != (sha256, size):
            raise UploadError("BadDigest")
        self.objects[key] = body


@contextmanager
def reception(folder: Path, store: str = "s3") -> Iterator[tuple[Reception, MemoryBucket]]:
    changes = {"store": store, "spool": {"redundant": True, "refuse_percent": 99, "alarm_percent": 99}}
    parts = load_settings(write_settings(folder, "http://127.0.0.1:9", **changes))
    spool = Spool(parts.state)
    spool.prepare()
    book, bucket = Book(parts.state), MemoryBucket()
    with Recorder(book) as recorder:
        yield (
            Reception(
                parts,
                spool=spool,
                book=book,
                recorder=recorder,
                bucket=bucket,  # type: ignore[arg-type]
                metrics=Metrics(),
                note_spooled=lambda: None,
                note_folder=lambda _: None,
            ),
            bucket,
        )
    book.close()


@pytest.fixture(scope="module")
def receiving(tmp_path_factory) -> Iterator[tuple[Reception, MemoryBucket]]:
    with reception(tmp_path_factory.mktemp("reception")) as parts:
        yield parts


_SIZES = st.one_of(st.integers(0, 40), st.integers(60_000, 140_000))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(_SIZES, max_size=8), st.integers(0, 255))
def test_pieces_of_any_size_make_the_same_object(receiving, sizes: list[int], first: int) -> None:
    parts, bucket = receiving
    bucket.objects.clear()
    content = bytes((first + position) % 251 for position in range(sum(sizes)))
    sink, at = parts(REQUEST), 0
    for size in sizes:
        sink.write(memoryview(content)[at : at + size])
        at += size
    assert sink.finish() == SUCCESS
    assert list(bucket.objects.values()) == [make_header(CT, "1.2.3", EXPLICIT) + content]
    assert not list(parts.spool.incoming.iterdir())


def test_a_spooled_file_says_all_that_its_row_has(tmp_path) -> None:
    with reception(tmp_path, "spool") as (parts, _):
        sink = parts(REQUEST)
        sink.write(memoryview(b"\x20\x00\x0d\x00UI\x04\x001.9\0"))
        assert sink.finish() == SUCCESS
        [entry] = parts.spool.waiting()
        row = read_row(parts.spool.ready / entry.name, "north", "in/")
    book = Book(tmp_path / "state")
    known = book.get(row.s3_key)
    book.close()
    assert known is not None
    later = {"state": row.state, "received_at": row.received_at, "durable_at": row.durable_at}
    assert replace(known, **later) == row
    assert row.study_instance_uid == "1.9"


def test_a_discarded_object_leaves_nothing(receiving) -> None:
    parts, bucket = receiving
    bucket.objects.clear()
    sink = parts(REQUEST)
    sink.write(memoryview(bytes(200_000)))
    sink.discard()
    sink.discard()
    assert not bucket.objects
    assert not list(parts.spool.incoming.iterdir())


def test_an_object_that_was_half_received_does_not_get_the_bytes_of_the_reserve(tmp_path, monkeypatch) -> None:
    with reception(tmp_path, "spool") as (parts, _):
        parts.spool.reserve.make()
        sink = parts(REQUEST)
        monkeypatch.setattr(parts.spool, "used_percent", lambda: 100.0)
        parts.spool.reserve.give_up()
        assert sink.finish() == OUT_OF_RESOURCES
        assert not list(parts.spool.waiting())


def receive_one(parts: Reception, content: bytes = b"x") -> int:
    """Receive an object and return its status."""
    sink = parts(REQUEST)
    sink.write(memoryview(content))
    return sink.finish()


def test_the_log_of_a_refusal_has_its_code_and_what_to_do(tmp_path, monkeypatch, caplog) -> None:
    def refuse(*_: object) -> None:
        raise UploadError("NoSuchBucket")

    with reception(tmp_path) as (parts, bucket):
        monkeypatch.setattr(bucket, "upload", refuse)
        assert receive_one(parts) == OUT_OF_RESOURCES
    assert "an object of MODALITY is refused (s3_NoSuchBucket): see destination, the credentials" in caplog.text


def test_a_row_that_the_book_does_not_take_refuses_the_object_by_one_code(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise BookError("the book cannot be written: see the log")

    with reception(tmp_path) as (parts, _):
        monkeypatch.setattr(Recorder, "write", refuse)
        assert receive_one(parts) == OUT_OF_RESOURCES
    assert 'refused_objects_total{ae_title="MODALITY",why="book"} 1' in parts.metrics.page()


def test_a_repetition_that_s3_takes_without_an_answer_gets_another_manifest(tmp_path, monkeypatch) -> None:
    """Without one the object, which was acknowledged before, is newer than the manifest, and no run takes it."""

    def take_without_answer(*_: object) -> None:
        raise UploadError("ReadTimeoutError")

    with reception(tmp_path) as (parts, bucket):
        _store(parts, b"x")
        (folder, changes), *_ = parts._book.open_deliveries().items()
        parts._book.close_delivery(folder, changes)
        monkeypatch.setattr(bucket, "upload", take_without_answer)
        assert receive_one(parts, b"another") == OUT_OF_RESOURCES
        assert parts._book.open_deliveries() == {}, "S3 has nothing new that was acknowledged"
        assert receive_one(parts) == OUT_OF_RESOURCES
        assert list(parts._book.open_deliveries()) == [folder]


def test_a_book_that_cannot_be_read_refuses_the_object(tmp_path, monkeypatch) -> None:
    def refuse(*_: str, **__: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with reception(tmp_path) as (parts, bucket):
        monkeypatch.setattr(parts._book, "find_content", refuse)
        assert receive_one(parts) == OUT_OF_RESOURCES
    assert not bucket.objects


def test_a_book_that_cannot_be_written_acknowledges_nothing(tmp_path, monkeypatch) -> None:
    def refuse(_: object, *, arrived: bool) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with reception(tmp_path) as (parts, _):
        monkeypatch.setattr(parts._book, "add", refuse)
        assert receive_one(parts) == OUT_OF_RESOURCES


@pytest.mark.parametrize(("days", "keys"), [(369, 1), (371, 2)])
def test_a_content_comes_to_its_first_key_until_the_book_is_about_to_forget_it(tmp_path, days, keys) -> None:
    with reception(tmp_path) as (parts, _):
        _store(parts, b"the same")
        with parts._book.transaction() as rows:
            earlier = "UPDATE received SET s3_key = replace(s3_key, substr(received_at, 1, 10), ?), received_at = ?"
            rows.execute(earlier, ("2020-01-31", now_text(days_ago=days)))
        _store(parts, b"the same")
        assert len(parts._book.find(REQUEST.sop_instance_uid, CT)) == keys


def _store(parts: Reception, content: bytes) -> None:
    assert receive_one(parts, content) == SUCCESS
