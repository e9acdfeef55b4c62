"""Progress lines at the terminal."""

from __future__ import annotations

import sys


def say(text: str = "") -> None:
    """Print one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
