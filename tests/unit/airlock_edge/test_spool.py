"""The spool's order of calls, its names, and the ages and alarms that follow from it."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock_edge import monitor as monitoring
from airlock_edge.keys import NO_STUDY, Place
from airlock_edge.metrics import Metrics
from airlock_edge.monitor import Monitor
from airlock_edge.settings import Spool as SpoolSettings
from airlock_edge.spool import Spool, SpoolFolderError
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACE = Place("2026-01-31", "0123456789abcdef", "ab" * 16, "CT/1. A")
THREADS = 16
_TITLES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=16
)


BAD_TITLES = [PLACE.name.replace(PLACE.calling_ae_title.encode().hex(), title) for title in ("434", "ff", "0a")]


@pytest.fixture
def spool(tmp_path) -> Iterator[Spool]:
    found = Spool(tmp_path / "state")
    found.prepare()
    yield found
    found.close()


def receive(spool: Spool, place: Place = PLACE, content: bytes = b"x") -> Path:
    path, file = spool.open_incoming()
    os.write(file, content)
    try:
        return spool.keep(path, file, place)
    finally:
        os.close(file)


@given(_TITLES, st.sampled_from(["0123456789abcdef", NO_STUDY]))
def test_a_name_says_the_whole_place(title: str, study: str) -> None:
    place = Place("2026-01-31", study, "ab" * 16, title)
    assert Place.parse(place.name) == place
    assert "/" not in place.name


@pytest.mark.parametrize(
    "name", ["", "x.dcm", "2026-01-31_0123456789abcdef_ab_43.dcm", f"{PLACE.name}.part", *BAD_TITLES]
)
def test_a_foreign_file_is_nobodys(spool: Spool, name: str) -> None:
    assert Place.parse(name) is None
    if name:
        (spool.ready / name).write_bytes(b"")
    assert list(spool.waiting()) == []


def test_a_start_removes_what_was_half_received_and_keeps_what_was_acknowledged(spool: Spool) -> None:
    kept = receive(spool)
    spool.open_incoming()
    assert spool.prepare() == 1
    assert list(spool.incoming.iterdir()) == []
    assert kept.read_bytes() == b"x"


def test_a_file_is_in_the_spool_under_one_name(spool: Spool) -> None:
    kept = receive(spool)
    assert kept.stat().st_nlink == 1
    assert list(spool.incoming.iterdir()) == []


def test_bytes_and_name_are_flushed_before_the_return(spool: Spool, monkeypatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(f"airlock_edge.spool.os.{name}", lambda file, n=name, r=real: (calls.append(n), r(file)))
    receive(spool)
    assert sorted(calls) == ["fdatasync", "fsync"]


def test_a_file_that_may_have_been_acknowledged_is_replaced_by_flushed_bytes_only(spool: Spool, monkeypatch) -> None:
    kept, seen = receive(spool, content=b"first"), []
    real = os.fdatasync
    monkeypatch.setattr("airlock_edge.spool.os.fdatasync", lambda file: (seen.append(kept.read_bytes()), real(file)))
    receive(spool, content=b"again")
    assert seen == [b"first"]
    assert kept.read_bytes() == b"again"


def test_bytes_that_cannot_be_flushed_are_not_safe(spool: Spool, monkeypatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "a broken disk")

    monkeypatch.setattr("airlock_edge.spool.os.fdatasync", fail)
    with pytest.raises(OSError, match="a broken disk"):
        receive(spool)


def test_the_folder_is_flushed_after_the_rename_and_before_the_return(spool: Spool, monkeypatch) -> None:
    calls = []
    real = os.fsync
    monkeypatch.setattr(
        "airlock_edge.spool.os.fsync", lambda file: (calls.append(len(list(spool.waiting()))), real(file))
    )
    receive(spool)
    assert calls == [1]


def test_flushes_are_shared_and_each_begins_after_its_rename(spool: Spool, monkeypatch) -> None:
    flushed: list[int] = []
    real = os.fsync

    def slowly(file: int) -> None:
        """Take a disk's time, in which all the others arrive."""
        seen = len(list(spool.waiting()))
        if not flushed:
            until("all threads wait", lambda: spool._flusher._asked == THREADS, 60)
        real(file)
        flushed.append(seen)

    monkeypatch.setattr("airlock_edge.spool.os.fsync", slowly)

    def one(number: int) -> bool:
        kept = receive(spool, Place("2026-01-31", NO_STUDY, f"{number:032x}", "CT"))
        return kept.exists() and bool(flushed)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(one, range(2 * THREADS)))
    assert flushed[-1] == 2 * THREADS
    assert len(flushed) <= 2 + THREADS, "one flush for the first thread, one for all the others"


def test_a_flush_that_fails_fails_for_all_that_wait_for_it(spool: Spool, monkeypatch) -> None:
    def fail(_: int) -> None:
        """Let the others come meanwhile; they wait for the next flush, which fails too."""
        until("all threads wait", lambda: spool._flusher._asked >= THREADS, 60)
        raise OSError(errno.EIO, "a broken disk")

    def one(number: int) -> bool:
        with pytest.raises(OSError, match=r"broken disk|cannot be flushed"):
            receive(spool, Place("2026-01-31", NO_STUDY, f"{number:032x}", "CT"))
        return True

    real = os.fsync
    monkeypatch.setattr("airlock_edge.spool.os.fsync", fail)
    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(one, range(2 * THREADS)))
    monkeypatch.setattr("airlock_edge.spool.os.fsync", real)
    assert receive(spool).exists(), "a disk that recovers is used again"


def test_a_caller_that_looks_late_still_learns_that_its_flush_failed(spool: Spool, monkeypatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "a broken disk")

    real = os.fsync
    monkeypatch.setattr("airlock_edge.spool.os.fsync", fail)
    late = spool._flusher.ask()
    for _ in range(150):  # flushes of others, before this caller comes to look
        with pytest.raises(OSError, match="cannot be flushed"):
            spool._flusher.wait(spool._flusher.ask())
    monkeypatch.setattr("airlock_edge.spool.os.fsync", real)
    receive(spool)
    with pytest.raises(OSError, match="cannot be flushed"):
        spool._flusher.wait(late)
    assert not spool._flusher._failed | spool._flusher._awaited


def test_a_folder_that_cannot_be_made_is_named_with_its_fix(tmp_path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SpoolFolderError, match="give it to the edge's user"):
        Spool(tmp_path / "state").prepare()


class TestMonitor:
    @pytest.fixture
    def metrics(self) -> Metrics:
        return Metrics()

    @pytest.fixture
    def monitor(self, spool: Spool, metrics: Metrics) -> Monitor:
        return Monitor(SpoolSettings(alarm_minutes=60, alarm_percent=99, refuse_percent=99), spool, metrics)

    def test_an_object_that_waits_for_an_hour_raises_an_alarm_until_it_is_gone(
        self, spool: Spool, metrics: Metrics, monitor: Monitor, monkeypatch, caplog
    ) -> None:
        kept, now = receive(spool), time.monotonic()
        monitor.look()
        assert 'alarm{name="spool_old"} 0' in metrics.page()
        monkeypatch.setattr(monitoring, "monotonic", lambda: now + 3601)
        monitor.look()
        assert 'alarm{name="spool_old"} 1' in metrics.page()
        assert "ALARM spool_old: the oldest of 1 objects has waited for S3 for 60 minutes" in caplog.text
        kept.unlink()
        monitor.look()
        assert 'alarm{name="spool_old"} 0' in metrics.page()

    @pytest.mark.parametrize("jump", [-10 * 365 * 86400, 10 * 365 * 86400])
    def test_a_clock_that_jumps_raises_no_alarm(
        self, spool: Spool, metrics: Metrics, monitor: Monitor, monkeypatch, jump: float
    ) -> None:
        monitor.look()
        receive(spool)
        now = time.time()
        monkeypatch.setattr(monitoring, "time", lambda: now + jump)
        monitor.look()
        assert 'alarm{name="spool_old"} 0' in metrics.page()

    def test_after_a_start_the_age_of_what_waits_is_that_of_its_file(
        self, spool: Spool, metrics: Metrics, monitor: Monitor
    ) -> None:
        hours_ago = time.time() - 7200
        os.utime(receive(spool), (hours_ago, hours_ago))
        monitor.look()
        assert 'alarm{name="spool_old"} 1' in metrics.page()

    def test_a_disk_that_fills_and_damaged_files_raise_alarms(
        self, spool: Spool, metrics: Metrics, monitor: Monitor, monkeypatch
    ) -> None:
        monkeypatch.setattr(spool, "used_percent", lambda: 99.5)
        (spool.damaged / PLACE.name).write_bytes(b"")
        monitor.look()
        for name in ("disk_fills", "disk_full", "damaged"):
            assert f'alarm{{name="{name}"}} 1' in metrics.page()

    def test_a_folder_of_damaged_files_that_was_removed_hides_no_alarm(
        self, spool: Spool, metrics: Metrics, monitor: Monitor, monkeypatch
    ) -> None:
        monkeypatch.setattr(spool, "used_percent", lambda: 99.5)
        spool.damaged.rmdir()
        monitor._step()
        assert 'alarm{name="disk_full"} 1' in metrics.page()
        assert "damaged_objects 0" in metrics.page()

    def test_a_state_folder_that_cannot_be_read_raises_an_alarm_until_it_can(
        self, spool: Spool, metrics: Metrics, monitor: Monitor, caplog
    ) -> None:
        moved = spool.ready.with_name("moved")
        spool.ready.rename(moved)
        monitor._step()
        assert 'alarm{name="state_folder"} 1' in metrics.page()
        assert "ALARM state_folder: the state folder cannot be looked at (No such file or directory)" in caplog.text
        moved.rename(spool.ready)
        monitor._step()
        assert 'alarm{name="state_folder"} 0' in metrics.page()
