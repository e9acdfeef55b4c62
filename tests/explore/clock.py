"""The clock of a history: the library sees its time, so that nights pass in no time and a history replays exactly."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo
    from types import ModuleType

START = datetime(2026, 10, 20, 12, tzinfo=UTC)  # a Tuesday before the end of summer time, in Europe and in America
_STEP = timedelta(milliseconds=1)  # between two readings: no two events have the same time
_PACKAGE = "airlock."


class Clock:
    """A time that moves on by a millisecond whenever it is read, and by days when the history says so."""

    def __init__(self) -> None:
        self.time = START

    def reset(self) -> None:
        """Begin again, for the next history."""
        self.time = START

    def now(self) -> datetime:
        """Return the time, which is a later one at each call."""
        self.time += _STEP
        return self.time

    def move(self, hours: float) -> None:
        """Let hours pass."""
        self.time += timedelta(hours=hours)

    @contextmanager
    def shown_to_library(self) -> Iterator[None]:
        """Let the library read this clock within the block, and wait by it."""
        shown = _make_datetime(self)
        modules = [module for name, module in list(sys.modules.items()) if name.startswith(_PACKAGE) and module]
        changed = [module for module in modules if getattr(module, "datetime", None) is datetime]
        waiting = list(_find_defaults_that_sleep(modules))
        for module in changed:
            module.datetime = shown  # type: ignore[attr-defined]
        for defaults in waiting:
            defaults["pause"] = self._pause
        try:
            yield
        finally:
            for module in changed:
                module.datetime = datetime  # type: ignore[attr-defined]
            for defaults in waiting:
                defaults["pause"] = time.sleep

    def _pause(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def _find_defaults_that_sleep(modules: list[ModuleType]) -> Iterator[dict[str, Any]]:
    """Yield the defaults of functions that sleep unless told otherwise, but for those with a deadline of a clock."""
    functions = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, FunctionType)}
    for function in functions.values():
        defaults = function.__kwdefaults__ or {}
        if defaults.get("pause") is time.sleep and "clock" not in defaults:
            yield defaults


class _AnyDatetime(type):
    """A class whose instances are all datetimes."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


def _make_datetime(clock: Clock) -> type[datetime]:
    """Return a class that makes plain datetimes and takes the time from the clock."""

    class Shown(datetime, metaclass=_AnyDatetime):
        def __new__(cls, *args: Any, **given: Any) -> datetime:  # type: ignore[misc]
            return datetime(*args, **given)  # noqa: DTZ001  # whatever the caller asks for

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return clock.now().astimezone(tz)

    return Shown
