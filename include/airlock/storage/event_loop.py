"""The event loop of work with many requests in flight: uvloop, which takes less CPU for each than asyncio's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def run_on_uvloop(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in the calling thread, and return the result.

    An exception from a signal handler is raised here: this is how Airflow ends a task that takes too long. uvloop alone
    would log it and go on.
    """
    raised: list[BaseException] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:  # other contexts are not logged: an error that nobody awaits may name a key
            raised.append(context["exception"])
            loop.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(note)
        try:
            return runner.run(work)
        except RuntimeError:  # the loop was stopped
            if raised:
                raise raised[0] from None
            raise
