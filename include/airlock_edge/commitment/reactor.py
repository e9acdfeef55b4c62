"""Keeps pynetdicom's own thread of an association from the response for which another thread waits."""

from __future__ import annotations

from threading import Condition
from time import sleep
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_SECONDS = 0.001


class Checkpoint:
    """Where the association's thread waits while another thread sends a message, in place of pynetdicom's event.

    pynetdicom clears an event and sends as soon as its thread says that it is about to wait. The thread may be behind
    the event by then, takes the response out of the queue as an unexpected message, and the sender waits for it until
    its time is over. Here `clear` returns when the thread does wait.

    Parameters
    ----------
    is_alive
        Whether the association's thread runs.
    """

    def __init__(self, is_alive: Callable[[], bool]) -> None:
        self._is_alive = is_alive
        self._changed = Condition()
        self._is_set = True
        self._waits = False

    def set(self) -> None:
        """Let the thread go on."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Hold the thread, and return when it waits or has ended."""
        with self._changed:
            self._is_set = False
        while not self._waits and self._is_alive():
            sleep(_LOOK_SECONDS)

    def is_set(self) -> bool:
        """Return whether the thread may go on."""
        return self._is_set

    def wait(self) -> None:
        """Wait until the thread may go on."""
        with self._changed:
            while not self._is_set:
                self._waits = True
                self._changed.wait()
            self._waits = False


def guard_responses(association: Any) -> None:
    """Let an association have a `Checkpoint`."""
    association._reactor_checkpoint = Checkpoint(association.is_alive)  # noqa: SLF001 - pynetdicom has no other way
