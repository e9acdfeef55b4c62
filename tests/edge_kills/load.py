"""Peers that send without a pause, send again what was not acknowledged, and note what was."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import contextmanager
from itertools import count
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from benchmarks.dicom_sender import CT, EXPLICIT, SUCCESS, RefusedError, Sender

from tests.edge_kills.items import make_mixed
from tests.servers.edge import CALLER, TITLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.dicom_sender import Item

PEERS = 4
_OBJECTS = 25  # of an association
_PAUSE = 0.2  # seconds after a failed association, and after a refusal
OUT_OF_RESOURCES = 0xA700


class Load:
    """The peers' common list of objects.

    Attributes
    ----------
    acknowledged
        The objects whose C-STORE succeeded.
    figures
        Counts of what happened.
    """

    def __init__(self, port: int, make: Callable[[int], Item] = make_mixed) -> None:
        self._port = port
        self._make = make
        self._numbers = count(1)
        self._lock = Lock()
        self._again: deque[Item] = deque()
        self._ending = Event()
        self.acknowledged: list[Item] = []
        self.figures: Counter[str] = Counter()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send within the block; when it ends, return when all that was begun is acknowledged."""
        threads = [Thread(target=self._send, daemon=True) for _ in range(PEERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join(300)

    def _take(self) -> Item | None:
        with self._lock:
            if self._again:
                return self._again.popleft()
            return None if self._ending.is_set() else self._make(next(self._numbers))

    def _send(self) -> None:
        while (item := self._take()) is not None:
            try:
                with Sender(("127.0.0.1", self._port), TITLE, [(CT, EXPLICIT)], calling=CALLER, patience=30) as sender:
                    for _ in range(_OBJECTS):
                        self._note(item, sender.store(item))
                        item = self._take()
                        if item is None:
                            return
                    self._put_back(item)
                    item = None  # the release may fail
            except (RefusedError, OSError):
                if item is not None:
                    self._give_back(item, "without a response")
                Event().wait(_PAUSE)

    def _put_back(self, item: Item) -> None:
        with self._lock:
            self._again.appendleft(item)

    def _note(self, item: Item, status: int) -> None:
        if status != SUCCESS:
            self._give_back(item, f"refused with {status:04X}")
            Event().wait(_PAUSE)
            return
        with self._lock:
            self.acknowledged.append(item)
            self.figures["acknowledged"] += 1

    def _give_back(self, item: Item, why: str) -> None:
        with self._lock:
            self._again.append(item)
            self.figures[why] += 1
