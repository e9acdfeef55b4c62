"""Listings in parallel: what is below a prefix is cut into ranges of keys, which are listed at the same time.

S3 lists one range at a few thousand keys a second, but many at once. A plain listing begins. From time to time the rest
of a range is cut in two, near its middle as far as the listed keys tell: between folders as within one, for S3 lists
from any key on (``StartAfter``). A cut costs one request at most, and every twelfth request allows one. So at most a
tenth more requests are sent than by a plain listing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import lt
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from airlock.storage.key_cuts import Alphabet, Cut, Stretch
from airlock.storage.listing import FRAME_ROWS, ListingError, Page, frame_of, without_placeholders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    import polars as pl

    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri

_PAGE_KEYS = 1000
_PAGES_PER_CUT = 12
_KNOWN_PAGES = 4  # listed of a range before its rest is estimated
_RECENT_PAGES = 16  # at least: what was listed long ago says little about the rest
_LEAST_PAGES = 3  # a smaller rest is not cut
_REACH = 4  # times the pages listed in all: so far behind a range's last key a cut may lie
_LEARN_EVERY = 50  # keys


class KeyRange(NamedTuple):
    """Keys in S3's order."""

    after: str = ""  # they follow this key; all if it is empty
    upto: str | None = None  # and do not follow this one; None has no end


class RangedListing:
    """All objects below a prefix, once each, as frames of `listing.LISTED` without folder placeholders.

    The objects of a frame follow each other in key order; the frames have no order. Objects that are written meanwhile
    are in them or not, as in a plain listing. Memory holds a frame of each range at most. Iterate once.

    Where S3 does not list keys in order, as in directory buckets, nothing is cut.

    Parameters
    ----------
    s3, uri
        The prefix.
    at_once
        The number of ranges that are listed at the same time; with 1 it is a plain listing.
    left
        What `left` has said of an interrupted listing; None lists everything.
    """

    def __init__(self, s3: S3, uri: S3Uri, at_once: int, left: Iterable[KeyRange] | None = None) -> None:
        self._s3 = s3
        self._uri = uri
        self._at_once = at_once
        self._is_whole = left is None
        self._parts = [self._open_part(keys) for keys in ([KeyRange()] if left is None else left)]
        self._alphabet = Alphabet(uri.key)
        self._pages = self._cuts = 0
        self._is_ordered = True
        self._is_stopped = False
        self._pool: ThreadPoolExecutor | None = None
        self._active = 0  # parts that are listed in the pool, or wait there for their frame to be taken
        self._waiting: deque[_Part] = deque()  # for a place in the pool
        self._done: SimpleQueue[tuple[_Part, Future[pl.DataFrame | None]]] = SimpleQueue()
        self._lock = Lock()  # of the parts and these numbers

    @property
    def left(self) -> list[KeyRange] | None:
        """The ranges that iteration has not yielded yet; None if no listing can go on with them."""
        with self._lock:
            return [KeyRange(part.yielded, part.upto) for part in self._parts] if self._is_ordered else None

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """List the prefix.

        Raises
        ------
        S3Error
            If S3 does not list it.
        ListingError
            If an answer is not that of S3; or if S3 lists keys out of order, and the prefix was cut by then.
        """
        while self._parts and self._lists_alone():
            part = self._parts[0]
            rows = self._list_frame(part)
            self._note_yielded(part)
            if rows is not None:
                yield rows
        if self._parts:
            yield from self._list_in_pool()

    def _lists_alone(self) -> bool:
        """Return whether the calling thread lists: a short listing needs no other."""
        if self._pool is not None:
            return False
        return self._at_once == 1 or (len(self._parts) == 1 and self._pages < _PAGES_PER_CUT)

    def _list_in_pool(self) -> Iterator[pl.DataFrame]:
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="airlock-listing") as self._pool:
            self._waiting.extend(self._parts)
            try:
                self._start_waiting()
                while self._active:
                    part, future = self._done.get()
                    rows = future.result()
                    self._note_yielded(part)
                    if part.is_open:
                        self._start(part)
                    else:
                        self._change_active(-1)
                        self._start_waiting()
                    if rows is not None:
                        yield rows
            finally:
                self._is_stopped = True

    def _start_waiting(self) -> None:
        while self._waiting and self._active < self._at_once:
            self._change_active(1)
            self._start(self._waiting.popleft())

    def _change_active(self, by: int) -> None:
        with self._lock:
            self._active += by

    def _start(self, part: _Part) -> None:
        """List the next frame of an active part in the pool."""
        if self._pool is not None and not self._is_stopped:
            future = self._pool.submit(self._list_frame, part)
            future.add_done_callback(lambda done: self._done.put((part, done)))

    def _list_frame(self, part: _Part) -> pl.DataFrame | None:
        """List the next objects of a part, and return them; None if there are none any more."""
        pages: list[Page] = []
        goes_on = True
        while goes_on and not self._is_stopped:
            page = next(part.pages, None)
            with self._lock:
                kept = self._take(part, page)
                half = self._cut_a_part()
            if half is not None:
                self._start(half)
            if kept is not None and kept.keys:
                pages.append(kept)
            goes_on = part.is_open and len(pages) * _PAGE_KEYS < FRAME_ROWS and self._may_go_on()
        return without_placeholders(frame_of(pages)) if pages else None

    def _may_go_on(self) -> bool:
        """Return whether the thread goes on to list: the calling one only as long as it lists alone."""
        return self._pool is not None or self._lists_alone()

    def _note_yielded(self, part: _Part) -> None:
        """Note that all that was listed of a part is about to be yielded."""
        with self._lock:
            part.yielded = part.listed
            if not part.is_open:
                self._parts.remove(part)

    def _open_part(self, keys: KeyRange) -> _Part:
        return _Part(keys, self._s3.list_pages(self._uri, keys.after))

    def _take(self, part: _Part, page: Page | None) -> Page | None:
        """Return what of a listed page belongs to a part; None ends the part."""
        if page is None:
            part.is_open = False
            return None
        self._pages += 1
        if not page.keys:
            return None
        self._check_order(part, page)
        self._alphabet.learn([*page.keys[::_LEARN_EVERY], page.keys[-1]])
        return part.take(page)

    def _check_order(self, part: _Part, page: Page) -> None:
        """Note that S3 lists keys out of order; refuse it if ranges depend on the order."""
        if part.listed < page.keys[0] and all(map(lt, page.keys, islice(page.keys, 1, None))):
            return
        if self._cuts or not self._is_whole:
            raise ListingError(
                f"bucket {self._uri.bucket!r} does not list keys in order: set source.listings to 1, and begin anew"
            )
        self._is_ordered = False

    def _cut_a_part(self) -> _Part | None:
        """Cut the largest rest of a part in two if another one may be listed; return the second half, as active."""
        if self._pool is None or self._is_stopped or not self._is_ordered:
            return None
        if self._waiting or self._active >= self._at_once or (self._cuts + 1) * _PAGES_PER_CUT > self._pages:
            return None
        found = max(self._find_cuts(), key=lambda each: each[1].pages, default=None)
        if found is None or found[1].pages < _LEAST_PAGES:
            return None
        part, cut = found
        half = self._open_part(KeyRange(cut.key, part.upto))
        part.upto = cut.key
        self._parts.append(half)
        self._cuts += 1
        self._active += 1
        return half

    def _find_cuts(self) -> Iterator[tuple[_Part, Cut]]:
        for part in self._parts:
            stretch = part.stretch if part.is_open else None
            cut = None if stretch is None else self._alphabet.find_cut(stretch, _REACH * self._pages)
            if cut is not None:
                yield part, cut


class _Part:
    """A range that is listed by one thread at a time.

    Parameters
    ----------
    keys
        The range.
    pages
        Its pages, and those that follow it.
    """

    def __init__(self, keys: KeyRange, pages: Iterator[Page]) -> None:
        self.pages = pages
        self.upto = keys.upto
        self.listed = self.yielded = keys.after  # the last key
        self.is_open = True  # until it is listed to its end
        self._seen: list[str] = []  # the first key, and the last one of each page

    @property
    def stretch(self) -> Stretch | None:
        """What was listed of it lately; None if that is too little to say anything."""
        pages = len(self._seen) - 1
        if pages < _KNOWN_PAGES:
            return None
        since = min(pages // 2, max(pages - _RECENT_PAGES, 0))
        return Stretch(self._seen[since], self.listed, pages - since, self.upto)

    def take(self, page: Page) -> Page:
        """Return what of a page, which has keys, belongs to the range."""
        if not self._seen:
            self._seen.append(page.keys[0])
        self._seen.append(page.keys[-1])
        if self.upto is not None and page.keys[-1] >= self.upto:
            self.is_open = False
            kept = bisect_right(page.keys, self.upto)
            page = Page(page.keys[:kept], page.etags[:kept], page.sizes[:kept], page.times[:kept])
        self.listed = page.keys[-1] if page.keys else self.listed
        return page
