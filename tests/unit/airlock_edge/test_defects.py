"""A thread of an uploading process that ends by a defect ends the process: its uploads would wait for the thread."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.servers.edge import write_settings

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
from threading import Thread
from airlock_edge import __main__, uploader

def fail():
    raise ValueError("MUELLER^HANS")

def run(self, wake):
    Thread(target=fail, name="recorder").start()

uploader.Uploader.run = run
__main__.main()
"""


def test_the_process_ends_and_its_log_says_where_but_not_what_was_in_hand(tmp_path: Path) -> None:
    path = write_settings(tmp_path, "http://127.0.0.1:9")
    (tmp_path / "state").mkdir()
    command = [sys.executable, "-c", PROGRAM, "upload", str(path)]
    ended = subprocess.run(command, check=False, input="", capture_output=True, text=True, timeout=120)
    assert ended.returncode == 70
    assert "thread recorder: ValueError at fail:" in ended.stderr
    assert "MUELLER" not in ended.stderr
