"""Waiting for something that another process brings about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0


def until(what: str, holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Look again and again until something holds, and return it; fail with its name when the patience is over.

    Parameters
    ----------
    what
        Named in the failure.
    holds
        Gives something true when it is so.
    patience
        Seconds; many by default, since a busy machine must not fail a test.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = holds()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {patience:.0f} s: {what}")
