"""The uploads of the spool: one file does not stop the others, and S3 that is away is not asked for each."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from airlock_edge import uploader as uploading
from airlock_edge.book import Book
from airlock_edge.bucket import UploadError
from airlock_edge.settings import load_settings
from airlock_edge.spool import Spool
from airlock_edge.uploader import Share, Uploader
from tests.servers.edge import CALLER, write_settings
from tests.unit.airlock_edge.spooled import spool_object
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Attempts:
    """Stands in for the bucket: fails as a test wants, and keeps keys."""

    def __init__(self) -> None:
        self.codes: dict[str, str] = {}  # by a part of the key
        self.tried: list[str] = []

    def upload(self, path: Path, key: str, sha256: str, size: int) -> None:
        """Note an upload, or fail."""
        del path, sha256, size
        self.tried.append(key)
        for part, code in self.codes.items():
            if part in key:
                raise UploadError(code)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that the uploader sees, as the only item."""
    now = [1000.0]
    monkeypatch.setattr(uploading, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def uploader(tmp_path, monkeypatch, clock) -> Iterator[tuple[Uploader, Attempts, Spool]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    spool, attempts = Spool(settings.state), Attempts()
    spool.prepare()
    with Uploader(settings, Share()) as found:
        monkeypatch.setattr(found._bucket, "upload", attempts.upload)
        yield found, attempts, spool


def look(uploader: Uploader) -> int:
    with ThreadPoolExecutor(4) as pool:
        return uploader.upload_waiting(pool)


def test_while_s3_is_away_one_file_is_tried_and_then_all(uploader, clock) -> None:
    found, attempts, spool = uploader
    for number in range(40):
        spool_object(spool, CALLER, number)
    attempts.codes[""] = "EndpointConnectionError"
    assert look(found) == 0
    assert len(attempts.tried) <= 4, "the others in the pool were tried, too"
    attempts.tried.clear()
    assert look(found) == 0
    assert attempts.tried == [], "the pause was not kept"
    clock[0] += 60
    look(found)
    assert len(attempts.tried) == 1
    attempts.codes.clear()
    clock[0] += 60
    assert (look(found), look(found)) == (1, 39)
    assert list(spool.waiting()) == []


def test_a_file_that_s3_does_not_take_stops_no_other(uploader) -> None:
    found, attempts, spool = uploader
    names = [spool_object(spool, CALLER, number) for number in range(8)]
    bad = names[0].split("_")[2]
    attempts.codes[bad] = "ChecksumMismatch"
    assert look(found) == 7
    assert [entry.name for entry in spool.waiting()] == [names[0]]


def test_one_file_with_an_error_as_of_all_is_tried_less_and_less_often(uploader, clock) -> None:
    found, attempts, spool = uploader
    bad = spool_object(spool, CALLER, 1)
    attempts.codes[bad.split("_")[2]] = "ConnectionClosedError"  # a proxy cuts what takes long
    for _ in range(8):
        assert look(found) == 0
        clock[0] += 100
    assert look(found) == 0
    clock[0] += 5
    found._away = None  # S3 took another object meanwhile
    attempts.tried.clear()
    spool_object(spool, CALLER, 2)
    assert look(found) == 1
    assert len(attempts.tried) == 1


def test_without_a_file_that_is_due_the_next_look_is_not_made_at_once(uploader, clock) -> None:
    found, attempts, spool = uploader
    name = spool_object(spool, CALLER, 1)
    attempts.codes[""] = "EndpointConnectionError"
    assert look(found) == 0
    assert 0 < found._until_next() <= 1
    (spool.ready / name).write_bytes(b"other bytes")
    clock[0] += 5
    assert look(found) == 0
    assert list(spool.waiting()) == []
    assert found._until_next() > 600


def test_a_file_that_cannot_be_read_as_dicom_stops_no_other(uploader, caplog) -> None:
    found, _, spool = uploader
    names = [spool_object(spool, CALLER, number) for number in range(8)]
    strange = spool_object(spool, CALLER, 9, header=b"JANE^DOE is not DICOM")
    assert look(found) == len(names)
    assert [entry.name for entry in spool.waiting()] == [strange]
    assert "JANE" not in caplog.text


def test_rows_are_in_the_book_before_files_leave_the_spool(uploader, tmp_path, monkeypatch) -> None:
    found, _, spool = uploader
    spool_object(spool, CALLER, 1)
    counts: list[int] = []
    unlink = os.unlink
    book = Book(tmp_path / "state")

    def see(path: str) -> None:
        counts.append(book.count())
        unlink(path)

    monkeypatch.setattr(os, "unlink", see)
    assert look(found) == 1
    book.close()
    assert counts == [1]


def test_an_edge_that_ends_waits_only_for_the_uploads_that_have_begun(uploader, monkeypatch) -> None:
    found, attempts, spool = uploader
    for number in range(40):
        spool_object(spool, CALLER, number)
    read, write = os.pipe()
    begun, closed, ended = Barrier(found._settings.spool.uploads + 1), Event(), Event()
    take, wait_for = attempts.upload, uploading.wait_for
    looks: list[bool] = []  # one for each look at the uploads since the pipe was closed

    def upload_slowly(*values: Any) -> None:
        if not ended.is_set():
            begun.wait(60)
            ended.wait(60)
        take(*values)

    def wait_and_see(uploads: Any, *_: float) -> Any:
        """Let the uploads end once the uploader has looked at the closed pipe."""
        if closed.is_set():
            looks.append(True)
        if len(looks) > 1:
            ended.set()
        return wait_for(uploads, 0.05)

    monkeypatch.setattr(found._bucket, "upload", upload_slowly)
    monkeypatch.setattr(uploading, "wait_for", wait_and_see)
    running = Thread(target=found.run, args=(read,))
    running.start()
    begun.wait(60)
    os.close(write)
    closed.set()
    running.join(60)
    assert not running.is_alive()
    os.close(read)
    assert len(attempts.tried) == found._settings.spool.uploads
    assert len(list(spool.waiting())) == 40 - len(attempts.tried)


@pytest.mark.parametrize("end", ["vanished", "damaged"])
def test_a_file_that_is_gone_is_waited_for_no_longer(uploader, clock, end) -> None:
    found, attempts, spool = uploader
    name = spool_object(spool, CALLER, 1)
    attempts.codes[name.split("_")[2]] = "ChecksumMismatch"
    assert look(found) == 0
    clock[0] += 600
    if end == "damaged":
        (spool.ready / name).write_bytes(b"other bytes")
    else:
        entries = list(spool.waiting())
        found._spool.waiting = lambda: iter(entries)
        (spool.ready / name).unlink()
    assert look(found) == 0
    assert found._until_next() > 600
    assert end != "damaged" or [path.name for path in spool.damaged.iterdir()] == [name]


def test_no_file_waits_for_the_upload_of_a_large_one(uploader, clock) -> None:
    found, _, spool = uploader
    large, may_end = spool_object(spool, CALLER, 1), Event()

    def upload(path: Path, *_: Any) -> None:
        if path.name == large:
            clock[0] += 3600
            may_end.wait(60)

    found._bucket.upload = upload
    with ThreadPoolExecutor(4) as pool:
        assert found.upload_waiting(pool) == 0
        for number in (2, 3):
            spool_object(spool, CALLER, number)
            assert found.upload_waiting(pool) == 1
            assert [entry.name for entry in spool.waiting()] == [large]
        may_end.set()
        until("the large one is on S3", lambda: found.upload_waiting(pool) == 1)
    assert list(spool.waiting()) == []


def test_a_damaged_file_that_cannot_be_moved_stops_no_other(uploader, caplog) -> None:
    found, _, spool = uploader
    names = sorted(spool_object(spool, CALLER, number) for number in range(8))
    (spool.ready / names[0]).write_bytes(b"")
    spool.damaged.rmdir()
    spool.damaged.touch()
    assert look(found) == 7
    assert [entry.name for entry in spool.waiting()] == [names[0]]
    assert "File exists" in caplog.text


def test_a_damaged_file_is_set_aside_where_their_folder_was_removed(uploader) -> None:
    found, _, spool = uploader
    name = spool_object(spool, CALLER, 1)
    (spool.ready / name).write_bytes(b"")
    spool.damaged.rmdir()
    assert look(found) == 0
    assert [path.name for path in spool.damaged.iterdir()] == [name]


def test_a_whole_file_that_replaces_a_damaged_one_is_not_set_aside(uploader, monkeypatch) -> None:
    found, attempts, spool = uploader
    name = spool_object(spool, CALLER, 1)
    whole = (spool.ready / name).read_bytes()
    (spool.ready / name).write_bytes(whole[:200])
    hold = found._spool.hold_names

    @contextmanager
    def hold_late() -> Iterator[None]:
        """Let the sender's repetition come between the look at the torn file and the lock."""
        (spool.ready / name).write_bytes(whole)
        with hold():
            yield

    monkeypatch.setattr(found._spool, "hold_names", hold_late)
    assert look(found) == 0
    assert not list(spool.damaged.iterdir())
    assert look(found) == 1
    assert len(attempts.tried) == 1


def test_nothing_is_replaced_while_a_file_is_set_aside(uploader) -> None:
    _, _, spool = uploader
    name = spool_object(spool, CALLER, 1)
    with ThreadPoolExecutor(1) as pool:
        with spool.hold_names():
            again = pool.submit(spool_object, spool, CALLER, 1)
            with pytest.raises(TimeoutError):
                again.result(0.1)
        assert again.result(60) == name
