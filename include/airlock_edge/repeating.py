"""What the edge's threads have in common that do something again and again until the edge ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Repeating(ABC):
    """A thread that takes one step after the other; a context manager, whose end waits for the present step.

    Parameters
    ----------
    name
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._ending = Event()
        self._thread = Thread(target=self._repeat, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ending.wait(self._step()):
            pass

    @abstractmethod
    def _step(self) -> float:
        """Take a step, and return the seconds until the next one."""
