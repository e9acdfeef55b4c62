"""The search of one process, and its progress; in a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.explore.broken import BROKEN
from tests.explore.explorer import Search, explore
from tests.explore.known import KNOWN
from tests.explore.world import World

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

SHRINK_SECONDS = 40.0, 5.0  # of the one finding, or of each of several
_PROGRESS_SECONDS = 30.0


def search(seed: int, seconds: float, first: int, every: int, without: frozenset[int]) -> Search:
    """Search the histories of this process, its share of the known ones, and from *first* on every so many."""
    keep_going = bool(os.environ.get("KEEP_GOING"))
    with World() as world:
        return explore(
            world,
            seed,
            seconds,
            first=first,
            every=every,
            begin_with=list(KNOWN.values()),
            without=without,
            keep_going=keep_going,
            shrink_seconds=SHRINK_SECONDS[keep_going],
            progress=_Progress() if first == 0 else lambda _: None,
        )


class _End:
    """Says when one of the processes has found something; set by `share_end`."""

    event: Event


class _EndedError(Exception):
    """Another process has found something."""


def share_end(event: Event) -> None:
    """Begin a process of a search for a broken rule."""
    _End.event = event


def search_broken(rule: str, seed: int, seconds: float, first: int, every: int) -> Search:
    """Break a rule of `BROKEN` in this process, and search until this process or another one has found that.

    It does not begin with the known histories: of a rule that broke once, one of them would be the answer.
    """
    broken, last = BROKEN[rule], Search(seed)

    def look(search: Search) -> None:
        nonlocal last
        last = search
        if _End.event.is_set():
            raise _EndedError

    others = frozenset(range(1, 16)) - broken.shown_by
    with pytest.MonkeyPatch.context() as patch, World() as world, suppress(_EndedError):
        broken.apply(patch)
        explore(world, seed, seconds, first=first, every=every, without=others, shrink_seconds=0, progress=look)
        _End.event.set()
    return last


class _Progress:
    """Prints a line every half minute."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, found: Search) -> None:
        if time.monotonic() > self._next:
            self._next += _PROGRESS_SECONDS
            sys.stdout.write(f"{found.seconds:5.0f} s: {found.histories} histories in this process\n")
            sys.stdout.flush()
