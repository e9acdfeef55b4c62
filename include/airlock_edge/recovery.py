"""Rows that a kill has cost: an acknowledged object's file is in the spool before its row is in the book.

Without its row an object would not be known to storage commitment until it is on S3, and an older content of the same
instance would be committed in its place.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from airlock.storage.s3uri import S3Uri
from airlock_edge.book import State
from airlock_edge.keys import Place
from airlock_edge.uploader import DamagedError, read_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock_edge.book import Book, Received
    from airlock_edge.recorder import Recorder
    from airlock_edge.settings import Edge
    from airlock_edge.spool import Spool

_log = logging.getLogger(__name__)


def add_missing_rows(settings: Edge, spool: Spool, book: Book, recorder: Recorder) -> int:
    """Add the rows of the files in the spool that have none, in the order in which they came; return their number."""
    prefix = S3Uri.parse(settings.destination.uri).key
    added = 0
    for _, path in sorted(_find_missing(settings, spool, book, prefix)):
        row = _read_row(path, settings.site, prefix)
        if row is not None:
            recorder.add(replace(row, state=State.SPOOLED, durable_at=""))
            added += 1
    if added:
        _log.info("%d objects of the spool had no row in the book", added)
    return added


def _find_missing(settings: Edge, spool: Spool, book: Book, prefix: str) -> Iterator[tuple[int, Path]]:
    for entry in spool.waiting():
        place = Place.parse(entry.name)
        if place is None or book.get(place.key(prefix, settings.site)) is not None:
            continue
        with suppress(FileNotFoundError):  # uploaded meanwhile
            yield entry.stat().st_mtime_ns, spool.ready / entry.name


def _read_row(path: Path, site: str, prefix: str) -> Received | None:
    """Return the row of a file; None for one that the uploads set aside, try again or have uploaded meanwhile."""
    try:
        return read_row(path, site, prefix)
    except (OSError, DamagedError) as error:
        _log.warning("a file of the spool gets no row until it is on S3 (%s)", type(error).__name__)
        return None
