"""The requests to a service: how many are sent, by operation, and how many a second. Retries are requests too."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

_EVENT = "before-send"  # of boto3, for each try


class RequestMeter:
    """Counts requests in all threads, and lets them wait for their turn.

    Parameters
    ----------
    per_second
        The most requests per second.
    clock, pause
        Monotonic seconds, and how to wait for some.

    Attributes
    ----------
    sent
        The number of requests by operation, for example ``ListObjectsV2``.
    """

    def __init__(
        self,
        per_second: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.per_second = per_second
        self.sent: Counter[str] = Counter()
        self._clock = clock
        self._pause = pause
        self._lock = Lock()
        self._next = 0.0

    def attach(self, client: Any) -> None:
        """Count and pace the requests that a boto3 client sends from now on."""
        client.meta.events.register(_EVENT, self._on_send)

    @contextmanager
    def attached(self, client: Any) -> Iterator[Self]:
        """Count and pace the requests that a boto3 client sends within the block."""
        self.attach(client)
        try:
            yield self
        finally:
            client.meta.events.unregister(_EVENT, self._on_send)

    def count(self, operation: str) -> None:
        """Count a request, and wait for its turn."""
        with self._lock:
            self.sent[operation] += 1
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + 1 / self.per_second
        if turn > now:
            self._pause(turn - now)

    def take_counts(self) -> dict[str, int]:
        """Return how many requests were sent since the last call, by operation."""
        with self._lock:
            counts, self.sent = dict(self.sent), Counter()
        return counts

    def _on_send(self, event_name: str, **_: Any) -> None:
        self.count(event_name.rpartition(".")[2])
