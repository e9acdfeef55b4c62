"""Token buckets per operation: the rate limits of the service."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localaws.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Rate:
    """Calls per second that refill a bucket, and the bucket's size.

    Parameters
    ----------
    per_second : float
        Steady rate, in calls per second.
    burst : float
        Calls that may come at once.
    """

    per_second: float
    burst: float

    @classmethod
    def read(cls, text: str) -> Rate:
        """Parse ``<per second>`` or ``<per second>:<burst>``."""
        per_second, _, burst = text.partition(":")
        rate = cls(float(per_second), float(burst or max(1.0, float(per_second))))
        if rate.per_second <= 0 or rate.burst < 1:
            raise ValueError(
                f"{text!r} is not a rate: write calls per second above 0, then ':' and a burst of 1 or more"
            )
        return rate


class Throttle:
    """Admits calls; each operation has its own bucket.

    Parameters
    ----------
    rates : mapping of operation name to Rate
        Operations that are absent are not limited.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, rates: Mapping[str, Rate], clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = dict(rates)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def admit(self, operation: str) -> None:
        """Take one token for `operation`.

        Raises
        ------
        AwsError
            ThrottlingException: the bucket is empty.
        """
        if not self._take_token(operation):
            raise AwsError("ThrottlingException", "Rate exceeded")

    def _take_token(self, operation: str) -> bool:
        rate = self._rates.get(operation)
        if rate is None:
            return True
        with self._lock:
            now = self._clock()
            tokens, seen = self._buckets.get(operation, (rate.burst, now))
            tokens = min(rate.burst, tokens + (now - seen) * rate.per_second)
            admitted = tokens >= 1
            self._buckets[operation] = (tokens - 1 if admitted else tokens, now)
        return admitted
