"""Receive: decide whether a delivery is complete, without writing anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import digest
from airlock.stages.inventory import find_inventory, inventory_folder, lacking_inventory
from airlock.storage.key_ranges import RangedListing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.pipelines import Receive, Source
    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri


class DeliveryManifestError(ValueError):
    """A delivery manifest exists, but does not have the number of objects to expect."""


@dataclass(frozen=True)
class Delivery:
    """The state of a delivery at one moment."""

    complete: bool
    objects: int
    bytes: int
    waiting_for: str  # a clause without identifiers, for the log; "" when complete


@dataclass(frozen=True)
class Marker:
    """The marker of a prefix: its name in the ledger, and when it was last modified; None if it is not there."""

    name: str
    at: datetime | None


def marker_name(prefix: S3Uri, settings: Receive) -> str:
    """Return the name of a prefix's marker in the ledger: a digest of its address."""
    return digest("marker", str(prefix.join(settings.marker)))


def find_marker(s3: S3, prefix: S3Uri, settings: Receive) -> Marker:
    """Look a prefix's marker up."""
    found = s3.find(prefix.join(settings.marker))
    return Marker(marker_name(prefix, settings), None if found is None else found["last_modified"])


def look(
    s3: S3, prefix: S3Uri, source: Source, settings: Receive, now: datetime, *, used_marker: datetime | None = None
) -> Delivery:
    """Return the state of a delivery now.

    An inventory shows one moment, and a quiet period does not make it more complete. The delivery therefore only waits
    until the inventory is young enough.

    Parameters
    ----------
    s3, prefix, source, settings
        The delivery, and the sign that it is complete.
    now
        The present time.
    used_marker
        When the marker that opened the delivery before was last modified: only a newer one opens this delivery.

    Raises
    ------
    DeliveryManifestError
        If the delivery manifest is not valid.
    InventoryError
        If the manifest of the newest inventory is not valid.
    """
    if settings.mode == "folder_manifests":
        return Delivery(True, 0, 0, "")  # buffer takes the folders that are closed by then
    if settings.mode == "quiet_period" and source.listing == "inventory":
        lacking = lacking_inventory(find_inventory(s3, inventory_folder(source)), source, now)
        return Delivery(not lacking, 0, 0, lacking)
    listing = RangedListing(s3, prefix, source.listings)
    if settings.mode == "quiet_period":
        return _check_quiet(listing, timedelta(seconds=settings.quiet_seconds), now)
    if settings.mode == "marker":
        return _check_marker(find_marker(s3, prefix, settings).at, settings.marker, used_marker)
    return _check_manifest(s3, prefix, settings, listing)


def _check_quiet(listing: Iterable[pl.DataFrame], quiet: timedelta, now: datetime) -> Delivery:
    objects, size, times = 0, 0, []
    for rows in listing:
        objects, size = objects + rows.height, size + int(rows["size"].sum())
        times.append(rows["last_modified"].max())
    newest: Any = max((time for time in times if time is not None), default=None)
    age = None if newest is None else now - newest
    if age is None or age >= quiet:
        return Delivery(True, objects, size, "")
    waiting = f"{(quiet - age).total_seconds():.0f} s more without a new object"
    return Delivery(False, objects, size, waiting)


def _check_marker(at: datetime | None, name: str, used: datetime | None) -> Delivery:
    if at is None:
        return Delivery(False, 0, 0, f"the marker object {name}")
    if used is not None and at <= used:
        waiting = f"a new marker object {name}: the one of {at:%Y-%m-%d %H:%M:%S} UTC opened the delivery before"
        return Delivery(False, 0, 0, waiting)
    return Delivery(True, 0, 0, "")


def get_manifest(s3: S3, where: S3Uri, settings: Receive) -> bytes:
    """Return a delivery manifest.

    Raises
    ------
    FileNotFoundError
        If there is none.
    DeliveryManifestError
        If it is too large.
    """
    most = int(settings.manifest_mib * 1024**2)
    body = s3.get(where, most + 1)
    if len(body) > most:
        raise DeliveryManifestError(
            f"delivery manifest {settings.manifest}: more than {settings.manifest_mib:g} MiB; send a smaller one, or "
            "set receive.manifest_mib higher"
        )
    return body


def _check_manifest(s3: S3, prefix: S3Uri, settings: Receive, listing: Iterable[pl.DataFrame]) -> Delivery:
    name = settings.manifest
    where = prefix.join(name)
    try:
        expected, expected_bytes = _read_manifest(get_manifest(s3, where, settings), name)
    except FileNotFoundError:
        return Delivery(False, 0, 0, f"the delivery manifest {name}")
    sizes = [rows.filter(pl.col("key") != where.key)["size"] for rows in listing]
    objects, size = sum(map(len, sizes)), sum(int(column.sum()) for column in sizes)
    if objects != expected:
        return Delivery(False, objects, size, f"{expected} objects; {objects} are there")
    if expected_bytes is not None and size != expected_bytes:
        return Delivery(False, objects, size, f"{expected_bytes} bytes; {size} are there")
    return Delivery(True, objects, size, "")


def _read_manifest(body: bytes, name: str) -> tuple[int, int | None]:
    try:
        content = json.loads(body)
        objects, size = content["objects"], content.get("bytes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DeliveryManifestError(
            f'delivery manifest {name}: {type(error).__name__}; write a JSON object like {{"objects": 1200}}'
        ) from None
    if type(objects) is not int or objects < 0 or not (size is None or (type(size) is int and size >= 0)):
        raise DeliveryManifestError(f"delivery manifest {name}: objects and bytes must be whole numbers, 0 or more")
    return objects, size
