"""Twenty seconds of `make explore`, as somebody calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def explore(**settings: str) -> subprocess.CompletedProcess[str]:
    """Call the search with these environment variables."""
    command = [sys.executable, "-m", "tests.explore"]
    paths = os.pathsep.join([str(ROOT / "plugins"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "CORES": "1"} | settings
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_no_history_breaks_an_invariant() -> None:
    done = explore(SECONDS="20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "histories a second" in done.stdout
