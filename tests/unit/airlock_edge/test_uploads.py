"""The pipes that wake the uploading processes: none is closed while another thread writes to it."""

from __future__ import annotations

import os
from threading import Thread
from typing import TYPE_CHECKING

from airlock_edge.node import Uploads
from airlock_edge.settings import load_settings
from tests.servers.edge import write_settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_process_that_ends_closes_no_pipe_that_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a closed pipe may be that of an object's file by then, which would get a byte too many."""
    path = write_settings(tmp_path, "http://127.0.0.1:9")
    uploads = Uploads(load_settings(path), path, started=False)
    read, write = os.pipe()
    uploads._pipes[0] = write
    closing = Thread(target=uploads._close, args=(0,))
    real = os.write

    def write_late(descriptor: int, content: bytes) -> int:
        """Let the process end between the choice of the pipe and the write."""
        closing.start()
        closing.join(0.2)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write_late)
    uploads.wake()
    monkeypatch.undo()
    closing.join()
    assert os.read(read, 10) == b"\n"
    assert os.read(read, 10) == b"", "it is closed afterwards"
    os.close(read)


def test_waking_a_process_that_has_ended_is_no_error(tmp_path: Path) -> None:
    path = write_settings(tmp_path, "http://127.0.0.1:9")
    uploads = Uploads(load_settings(path), path, started=False)
    read, uploads._pipes[0] = os.pipe()
    os.close(read)
    uploads.wake()
    uploads._close(0)
    uploads.wake()
