"""Delivery manifests: a folder of one study and day is closed when nothing came for a while and all of it is on S3.

The manifest is written after the objects that it counts, so it is not older than any of them. That is how Airlock's
``receive.mode: folder_manifests`` knows a folder that is open: an object in it is newer than the manifest.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from airlock_edge.keys import Place
from airlock_edge.repeating import Repeating

if TYPE_CHECKING:
    from airlock_edge.book import Book, Delivery
    from airlock_edge.bucket import Bucket
    from airlock_edge.metrics import Metrics
    from airlock_edge.spool import Spool

_log = logging.getLogger(__name__)

MANIFEST: Final = "delivery.json"  # the default of receive.manifest
_LOOKS: Final = 4  # in the quiet period
_LONGEST_LOOK: Final = 15.0  # seconds


class Deliveries(Repeating):
    """A thread that writes the manifests; a context manager.

    Parameters
    ----------
    book, spool, bucket, metrics
        Parts of the edge.
    site
        The site's name.
    quiet_seconds
        How long nothing may have come.
    """

    def __init__(
        self, book: Book, spool: Spool, bucket: Bucket, metrics: Metrics, *, site: str, quiet_seconds: float
    ) -> None:
        super().__init__("deliveries")
        self._book = book
        self._spool = spool
        self._site = site
        self._bucket = bucket
        self._metrics = metrics
        self._quiet = quiet_seconds
        self._lock = Lock()
        self._last: dict[str, float] = {}  # by folder, by the monotonic clock: when something came

    def note(self, folder: str) -> None:
        """Note that an object of a folder came."""
        with self._lock:
            self._last[folder] = monotonic()

    def _step(self) -> float:
        try:
            self.close_quiet()
        except (OSError, sqlite3.Error) as error:
            _log.warning("a delivery manifest cannot be written; it is tried again: %s", error)
        return min(self._quiet / _LOOKS, _LONGEST_LOOK)

    def close_quiet(self) -> None:
        """Write the manifests of the folders that are quiet and whose objects are all on S3.

        A folder that this process has not seen an object of counts as quiet from now on. The spool is looked at first:
        an object in it has no row yet if the edge was killed before the book was written.
        """
        changed = self._book.open_deliveries()
        spooled = self._find_spooled() if changed else set()
        failures: list[OSError] = []
        for folder, changes in changed.items():
            with self._lock:
                last = self._last.setdefault(folder, monotonic())
            if folder in spooled or monotonic() - last < self._quiet:
                continue
            delivery = self._book.describe_delivery(folder)
            if delivery.spooled:
                continue
            try:
                self._close(folder, changes, delivery)
            except OSError as error:  # one folder that S3 refuses, as after a change of its prefix, stops no other
                failures.append(error)
        if failures:
            raise failures[0]

    def _close(self, folder: str, changes: int, delivery: Delivery) -> None:
        self._bucket.put_text(f"{folder}/{MANIFEST}", encode_manifest(delivery))
        self._book.close_delivery(folder, changes)
        self._metrics.count("manifests_total")
        with self._lock:
            self._last.pop(folder, None)

    def _find_spooled(self) -> set[str]:
        """Return the folders of the objects that wait for S3."""
        places = (Place.parse(entry.name) for entry in self._spool.waiting())
        prefix, site = self._bucket.uri.key, self._site
        return {place.key(prefix, site).rpartition("/")[0] for place in places if place is not None}


def encode_manifest(delivery: Delivery) -> bytes:
    """Return the manifest of a folder, as docs/edge.md describes it."""
    content = {
        "objects": delivery.objects,
        "bytes": delivery.bytes,
        "studies": delivery.studies,
        "files": {name: uid for name, uid in delivery.files.items() if uid},
    }
    return json.dumps(content, indent=1).encode()
