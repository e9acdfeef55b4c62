"""The library without threads of its own, so that a history has one order of calls and replays."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airlock.imaging import parse
from airlock.stages import route_sending
from tests.explore.doors import DirectReader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

_PACKAGES = ("airlock.", "localaws.")


class InlineExecutor:
    """An executor that does the work where it is given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any, **given: Any) -> Future[Any]:
        """Do the work and return its result; a kill is not caught."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **given))
        except Exception as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future

    def map(self, work: Callable[..., Any], *columns: Iterable[Any], **_: Any) -> Iterator[Any]:
        """Do all of the work, and yield the results."""
        futures = [self.submit(work, *values) for values in zip(*columns, strict=False)]
        return (future.result() for future in futures)

    def shutdown(self, **_: Any) -> None:
        """Do nothing: nothing is open."""

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _NoThread:
    """A thread that is not needed here: it renews leases in the background."""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


def _run_at_once(reading: Coroutine[Any, Any, None]) -> None:
    asyncio.run(reading)


@contextmanager
def without_threads() -> Iterator[None]:
    """Let the library do everything in the calling thread within the block."""
    changes: list[tuple[Any, str, Any]] = [
        (parse, "RangeReader", DirectReader),
        (parse, "run_on_uvloop", _run_at_once),
        (route_sending, "Thread", _NoThread),
    ]
    pool = concurrent.futures.ThreadPoolExecutor
    for name, module in list(sys.modules.items()):
        if name.startswith(_PACKAGES) and getattr(module, "ThreadPoolExecutor", None) is pool:
            changes.append((module, "ThreadPoolExecutor", InlineExecutor))
    kept = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
