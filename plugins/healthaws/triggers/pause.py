"""A timer that carries an event."""

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

    Airflow's own timers yield the time as event. Data for the resumed task would have to be in ``kwargs`` of ``defer``,
    which ``dag.test()`` drops.

    Parameters
    ----------
    until : float
        When to fire, in seconds since the epoch, so that a restarted triggerer does not begin the pause again.
    event : dict
        The event for the task. JSON values only.
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
