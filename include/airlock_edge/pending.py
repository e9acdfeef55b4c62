"""Connections without an association: how many there may be, so that no host keeps the others out."""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Pending:
    """Counts the connections whose peer is not admitted so far, by address.

    Parameters
    ----------
    most
        Of all addresses together.
    most_of_one
        Of one address.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._lock = Lock()
        self._counts: Counter[str] = Counter()

    def enter(self, address: str) -> Callable[[], None] | None:
        """Count a connection; return what ends that, which may be called twice, or None if there are too many."""
        with self._lock:
            if self._counts.total() >= self._most or self._counts[address] >= self._most_of_one:
                return None
            self._counts[address] += 1
        left: list[None] = []

        def leave() -> None:
            with self._lock:
                if not left:
                    left.append(None)
                    self._counts[address] -= 1
                    if not self._counts[address]:
                        del self._counts[address]

        return leave
