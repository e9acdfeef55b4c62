"""The meter of a reconciliation: it counts the requests to a service, and keeps them below a rate.

After a refusal the rate is halved, and rises again slowly: other users of the account have the same quotas.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ReplyT = TypeVar("ReplyT")

TRIES = 12  # of one request, over some minutes
LONGEST_PAUSE = 60.0  # seconds
_LOWEST_SHARE = 1 / 64  # of the rate
_RISE = 1.02  # after each answer


class ServiceRefusedError(RuntimeError):
    """A service has refused a request too often; the reconciliation can be continued."""


class Meter:
    """Counts and paces the requests to one service; threads may share it.

    Parameters
    ----------
    service
        The service's name, for messages.
    per_second
        The most requests per second.
    clock, pause
        Monotonic seconds, and how to wait for some.
    """

    def __init__(
        self,
        service: str,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.service = service
        self.per_second = per_second
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._share = 1.0
        self._next = 0.0
        self._counts: Counter[str] = Counter()

    def ask(self, operation: str, request: Callable[[], ReplyT], is_refusal: Callable[[Exception], bool]) -> ReplyT:
        """Send a request at its turn, and again after refusals.

        Parameters
        ----------
        operation
            The name under which each try is counted.
        request
            Sends it.
        is_refusal
            Whether an error says that the service is busy, so that a later try may succeed.

        Raises
        ------
        ServiceRefusedError
            If it is refused `TRIES` times.
        """
        for attempt in range(1, TRIES + 1):
            self.wait(operation)
            try:
                reply = request()
            except Exception as error:
                if not is_refusal(error):
                    raise
                self._share = max(_LOWEST_SHARE, self._share / 2)
                self._pause(min(LONGEST_PAUSE, 0.5 * 2.0**attempt))
                continue
            self._share = min(1.0, self._share * _RISE)
            return reply
        raise ServiceRefusedError(
            f"{self.service} has refused {operation} {TRIES} times in a row. Nothing is lost: start the same command "
            f"again later, it goes on where it stopped. A lower --rate leaves more of the quota to others."
        )

    def take_counts(self) -> dict[str, int]:
        """Return how many requests were sent since the last call, by operation."""
        with self._lock:
            counts, self._counts = dict(self._counts), Counter()
        return counts

    def wait(self, operation: str) -> None:
        """Count a request and wait for its turn."""
        with self._lock:
            self._counts[operation] += 1
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + 1 / (self.per_second * self._share)
        if turn > now:
            self._pause(turn - now)
