"""A timer that remembers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class PauseTrigger(BaseTrigger):
    """
    Trigger at a point in time, with an event given beforehand.

    Airflow's own timers yield the time instead, and what a task wants to know when it resumes would have to travel in
    ``kwargs`` of ``defer``, which ``dag.test()`` drops.

    Parameters
    ----------
    until : float
        When to fire, in seconds since the epoch; a restarted triggerer does not begin the pause again.
    event : dict
        What the task gets as event. JSON values only.
    """

    def __init__(self, until: float, event: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.event = event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"until": self.until, "event": self.event}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep and fire."""
        await asyncio.sleep(max(0.0, self.until - time.time()))
        yield TriggerEvent(self.event)  # type: ignore[no-untyped-call]
