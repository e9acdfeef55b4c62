"""A stop: the service manager's SIGTERM ends the edge, whichever of its threads the system gives it to."""

from __future__ import annotations

import ctypes
import platform
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers.edge import edge, edge_process, write_settings
from tests.waiting import until

pytestmark = pytest.mark.slow
TGKILL = {"x86_64": 234, "aarch64": 131}.get(platform.machine())  # the number of the system's call


@pytest.mark.skipif(TGKILL is None, reason="the number of tgkill is not known for this machine")
def test_sigterm_to_any_thread_ends_the_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with edge_process(tmp_path, "http://127.0.0.1:9") as running:
        pid = running.process.pid
        until("its main thread waits", lambda: is_asleep(pid))
        ctypes.CDLL(None).syscall(TGKILL, pid, find_taking_thread(pid), signal.SIGTERM)
        assert running.process.wait(60) == 0


def is_asleep(pid: int) -> bool:
    """Return whether the main thread of a process sleeps."""
    return read_stat(Path(f"/proc/{pid}/task/{pid}"))[0] == "S"


def find_taking_thread(pid: int) -> int:
    """Return the oldest thread, beside the main one, that takes SIGTERM.

    A later one, as of an association, may end soon. A library's own may block each signal, as jemalloc's do: what the
    system would never give it waits for ever there (signal(7)).
    """
    started = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if int(task.name) != pid and not blocks_sigterm(task):
                started[int(task.name)] = int(read_stat(task)[19])
    return min(started, key=lambda thread: started[thread])


def blocks_sigterm(task: Path) -> bool:
    """Return whether a thread blocks SIGTERM (proc(5), SigBlk)."""
    found = re.search(r"^SigBlk:\s*([0-9a-f]+)$", (task / "status").read_text(), re.MULTILINE)
    assert found is not None
    return bool(int(found[1], 16) >> signal.SIGTERM - 1 & 1)


def read_stat(task: Path) -> list[str]:
    """Return what the system says about a thread, from its state on (proc(5), stat)."""
    return (task / "stat").read_text().rpartition(")")[2].split()


class TestABookThat:
    """The state folder survives, and the book does not."""

    def test_is_no_database_any_more_is_named_with_what_to_do(self, tmp_path: Path) -> None:
        path = write_settings(tmp_path, "http://127.0.0.1:9")
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "book.sqlite").write_bytes(b"overwritten" * 1000)
        ended = subprocess.run(
            [sys.executable, "-m", "airlock_edge", "run", path], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        assert "A lost book" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_is_gone_is_named_at_the_start(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(2):
            with edge(tmp_path, "http://127.0.0.1:9"):
                pass
        assert "A lost book" not in caplog.text
        for file in (tmp_path / "state").glob("book.sqlite*"):
            file.unlink()
        with edge(tmp_path, "http://127.0.0.1:9"):
            assert "A lost book" in caplog.text
