"""A limit of bytes in a second for all associations together."""

from __future__ import annotations

from threading import Lock
from time import monotonic, sleep


class Rate:
    """Makes callers wait so that no more than a number of bytes passes in a second.

    Parameters
    ----------
    per_second
        Bytes; None for no limit.
    """

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._lock = Lock()
        self._free_at = 0.0  # by the monotonic clock: when the bytes that were taken so far are paid for

    def take(self, number: int) -> None:
        """Wait until so many bytes may pass."""
        if self._per_second is None:
            return
        with self._lock:
            now = monotonic()
            self._free_at = max(self._free_at, now) + number / self._per_second
            pause = self._free_at - now
        sleep(pause)
