"""The clock of a history: the library sees its time, so that nights pass in no time and a history replays exactly."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

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
        """Let the library read this clock within the block."""
        shown = _make_datetime(self)
        modules = [module for name, module in list(sys.modules.items()) if name.startswith(_PACKAGE) and module]
        changed = [module for module in modules if getattr(module, "datetime", None) is datetime]
        for module in changed:
            module.datetime = shown  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for module in changed:
                module.datetime = datetime  # type: ignore[attr-defined]


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
