"""What a page costs is counted on a real server, and the worst page decides."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from benchmarks.bars import bars
from benchmarks.pages import EMPTY, NOW, Page, ask, summarize

from airlock.ledger.console import Console
from airlock_local.sample.history import write_history
from airlock_local.settings import ROOT
from tests.servers.console import PIPELINES, served

if TYPE_CHECKING:
    from pathlib import Path


def test_the_console_is_found_by_the_command_alone() -> None:
    """Pytest has the plugins in its path; a person who calls the benchmark has not."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "benchmarks.pages", "--help"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)


def test_a_page_s_questions_and_bytes_are_counted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    write_history(url, NOW, nights=3)
    console = Console.connect(url)
    with served(console, PIPELINES, NOW) as address:
        empty, triage = ask(console, address, (EMPTY, "/triage"))
        with pytest.raises(RuntimeError, match="/none answered with 404"):
            ask(console, address, ("/none",))
    console.dispose()
    assert empty.questions == 0
    assert triage.questions > 1
    assert triage.bytes > empty.bytes > 0


def test_the_worst_page_decides() -> None:
    pages = [Page(EMPTY, 0, 5.0, 10), Page("/", 9, 30.0, 10), Page("/triage", 3, 206.0, 10)]
    found = summarize(pages, 100)
    assert (found["most_questions"], found["slowest_above_empty_ms"]) == (9, 201.0)
    met = {bar.figure: bar.met for bar in bars({"pages": found})}
    assert met["console: most questions of a page to the ledger"] is False
    assert met["console: slowest page over a page without questions, ms"] is False
