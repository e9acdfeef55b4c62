"""What the person at the terminal sees while things take their time."""

from __future__ import annotations

import sys


def say(text: str = "") -> None:
    """Print one line now, not when a buffer is full."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
