"""Read an S3 Inventory instead of a listing, for archives that are too large to list every night.

S3 delivers an inventory as files below the folder of its configuration. A manifest, in a folder named for the moment
when S3 began, then names these files. Airlock reads the newest complete inventory, and only files with the right
checksum.

Sources: Amazon S3 User Guide, "Locating your inventory list" (layout, manifest, checksum) and "Cataloging and analyzing
your data with S3 Inventory" (fields; keys are URL-encoded in CSV only).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tempfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import polars as pl

from airlock.storage.listing import FRAME_ROWS, LISTED, TIME_FORMAT, decode_keys, without_placeholders
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.pipelines import Source
    from airlock.storage.s3 import S3

_FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}Z")
_CSV_BYTES = 16 * 1024**2  # of text that is read at a time
_LINE_BYTES = 1024**2  # a key has 1 KiB
_CLOCK_SKEW = timedelta(hours=1)
# The fields' names in a CSV inventory's fileSchema, and those of its columns in ORC and Parquet.
_FIELDS = {
    "Key": "key",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
}
_NEEDED = {"key": "Key", "size": "Size", "last_modified_date": "Last modified", "e_tag": "ETag"}  # as S3's console says


class InventoryError(ValueError):
    """An inventory does not exist, or cannot replace a listing."""


@dataclass(frozen=True)
class Inventory:
    """One inventory as its manifest describes it."""

    begun: datetime  # when S3 began to list; later objects are not in it
    source_bucket: str
    bucket: str  # that holds the files
    file_format: str  # CSV, ORC or Parquet
    columns: tuple[str, ...]  # of a CSV file
    files: tuple[tuple[str, str], ...]  # key and MD5, in hex


def find_inventory(s3: S3, folder: S3Uri) -> Inventory | None:
    """Return the newest complete inventory below the folder of its configuration; None if there is none yet.

    Raises
    ------
    InventoryError
        If its manifest does not have the right checksum, or is not valid.
    """
    for name in sorted(filter(_FOLDER.fullmatch, s3.list_folders(folder)), reverse=True):
        try:
            checksum = s3.get(folder.join(name, "manifest.checksum")).decode("ascii", "replace").strip()
            manifest = s3.get(folder.join(name, "manifest.json"))
        except FileNotFoundError:
            continue  # S3 is still writing
        if _md5(manifest).hexdigest() != checksum.lower():
            raise InventoryError(f"Inventory {name}: manifest.json does not have the MD5 that manifest.checksum names.")
        return _read_manifest(name, manifest)
    return None


def _read_manifest(name: str, manifest: bytes) -> Inventory:
    try:
        content = json.loads(manifest)
        return Inventory(
            begun=datetime.fromtimestamp(int(content["creationTimestamp"]) / 1000, UTC),
            source_bucket=content["sourceBucket"],
            bucket=content["destinationBucket"].rpartition(":")[2],
            file_format=content["fileFormat"],
            columns=tuple(_FIELDS.get(field.strip(), field.strip()) for field in content["fileSchema"].split(",")),
            files=tuple((str(file["key"]), file["MD5checksum"].lower()) for file in content["files"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise InventoryError(f"Inventory {name}: manifest.json is not a manifest ({type(error).__name__}).") from None


def fresh_inventory(s3: S3, source: Source, now: datetime) -> Inventory:
    """Return the inventory that replaces a listing.

    Raises
    ------
    InventoryError
        If there is none, the newest one is too old, or it is of another bucket.
    """
    inventory = find_inventory(s3, inventory_folder(source))
    if lacking := lacking_inventory(inventory, source, now):
        raise InventoryError(
            f"There is no {lacking}. Check whether S3 still delivers the inventory of source.inventory_uri, or raise "
            f"source.inventory_max_age_hours, and lookback_hours or lookback_days with it."
        )
    found = cast("Inventory", inventory)
    if found.source_bucket != S3Uri.parse(source.uri).bucket:
        raise InventoryError(
            f"The inventory is of bucket {found.source_bucket!r}, not of {source.uri}. Correct source.inventory_uri."
        )
    return found


def inventory_folder(source: Source) -> S3Uri:
    """Return the folder of the inventory's configuration."""
    return S3Uri.parse(source.inventory_uri or "")


def lacking_inventory(inventory: Inventory | None, source: Source, now: datetime) -> str:
    """Return a clause that names the missing inventory; "" if the newest one is young enough."""
    if inventory is None:
        return f"complete inventory below {source.inventory_uri}"
    age = now - inventory.begun
    if age < -_CLOCK_SKEW:
        return "inventory of the past; the newest was begun in the future"
    if age <= timedelta(hours=source.inventory_max_age_hours):
        return ""
    hours = age.total_seconds() / 3600
    return f"inventory of the last {source.inventory_max_age_hours:g} hours; the newest was begun {hours:.0f} hours ago"


def list_inventory(s3: S3, inventory: Inventory, prefix: S3Uri) -> Iterator[pl.DataFrame]:
    """Yield the objects below a prefix as `listing.LISTED`, in no order; current versions only, no folder placeholders.

    Parameters
    ----------
    s3
        The S3 client for the inventory's files. Each is on the local disk while it is read.
    inventory
        An inventory of the prefix's bucket.
    prefix
        The prefix of the objects to yield.

    Raises
    ------
    InventoryError
        If a file does not have the right checksum, or lacks a field that an arrival needs.
    """
    read = _READERS.get(inventory.file_format)
    if read is None:
        raise InventoryError(f"The inventory's format is {inventory.file_format!r}. Use one of {', '.join(_READERS)}.")
    for key, checksum in inventory.files:
        with tempfile.NamedTemporaryFile(prefix="airlock-") as file:
            _fetch(s3, S3Uri(inventory.bucket, key), checksum, file)
            yield from _name_file_in_errors(key, _below(read(Path(file.name), inventory), prefix))


def _below(pieces: Iterator[pl.DataFrame], prefix: S3Uri) -> Iterator[pl.DataFrame]:
    for rows in pieces:
        below = _current(rows).filter(pl.col("key").str.starts_with(prefix.key))
        yield without_placeholders(_listed(below))


def _fetch(s3: S3, uri: S3Uri, checksum: str, file: IO[bytes]) -> None:
    found = _md5()
    for piece in s3.stream(uri):
        found.update(piece)
        file.write(piece)
    if found.hexdigest() != checksum:
        raise InventoryError(f"Inventory file {_name(uri.key)} does not have the MD5 that its manifest names.")
    file.flush()


def _name_file_in_errors(key: str, rows: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield a reader's rows; name the file in its errors, without their text, which may quote a key."""
    try:
        yield from rows
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, LookupError, TypeError) as error:
        raise InventoryError(f"Inventory file {_name(key)} cannot be read ({type(error).__name__}).") from None


def _csv(file: Path, inventory: Inventory) -> Iterator[pl.DataFrame]:
    """Yield the rows of a CSV file by pieces of whole lines; a key is URL-encoded and has no line feed."""
    _need(inventory.columns)
    schema = dict.fromkeys(inventory.columns, pl.String)
    wanted = [name for name in inventory.columns if name in _FIELDS.values()]
    with gzip.open(file) as text:
        while piece := text.read(_CSV_BYTES) + text.readline(_LINE_BYTES):
            if len(piece) == _CSV_BYTES + _LINE_BYTES and not piece.endswith(b"\n"):
                raise EOFError  # an inventory has no line of this length
            rows = pl.read_csv(io.BytesIO(piece), has_header=False, schema=schema).select(wanted)
            yield rows.with_columns(
                pl.Series("key", decode_keys(rows["key"].to_list()), pl.String),
                pl.col("size").cast(pl.Int64, strict=False),
                pl.col("last_modified_date").str.to_datetime(TIME_FORMAT, time_zone="UTC", strict=False),
            )


def _parquet(file: Path, inventory: Inventory) -> Iterator[pl.DataFrame]:  # noqa: ARG001  # the file knows its columns
    rows = pl.scan_parquet(file)
    yield from rows.select(_wanted(rows.collect_schema().names())).collect_batches(chunk_size=FRAME_ROWS)


def _orc(file: Path, inventory: Inventory) -> Iterator[pl.DataFrame]:  # noqa: ARG001  # the file knows its columns
    """Yield the rows of an ORC file stripe by stripe, which polars cannot do."""
    from pyarrow import OSFile  # type: ignore[import-untyped]  # noqa: PLC0415  # large and seldom needed
    from pyarrow.orc import ORCFile  # type: ignore[import-untyped]  # noqa: PLC0415

    rows = ORCFile(OSFile(str(file)))  # pyarrow would map a file name into memory
    wanted = _wanted(rows.schema.names)
    for number in range(rows.nstripes):
        stripe = cast("pl.DataFrame", pl.from_arrow(rows.read_stripe(number, columns=wanted)))
        yield from stripe.iter_slices(FRAME_ROWS)


_READERS: dict[str, Callable[[Path, Inventory], Iterator[pl.DataFrame]]] = {
    "CSV": _csv,
    "ORC": _orc,
    "Parquet": _parquet,
}


def _wanted(columns: list[str]) -> list[str]:
    _need(columns)
    return [name for name in columns if name in _FIELDS.values()]


def _need(columns: list[str] | tuple[str, ...]) -> None:
    if missing := [field for name, field in _NEEDED.items() if name not in columns]:
        raise InventoryError(
            f"The inventory lacks {', '.join(missing)}. Add it to the fields of the inventory configuration."
        )


def _current(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of current objects, if the inventory has all versions."""
    for name, wanted in (("is_latest", "true"), ("is_delete_marker", "false")):
        if name in rows.columns:
            rows = rows.filter(pl.col(name).cast(pl.String).str.to_lowercase().fill_null(wanted) == wanted)
    return rows


def _listed(rows: pl.DataFrame) -> pl.DataFrame:
    listed = rows.select(
        "key",
        version_id=pl.lit(None, pl.String),  # as in a listing, so that an arrival has the same id
        etag=pl.col("e_tag").str.strip_chars('"').replace("", None),
        size="size",
        last_modified=pl.col("last_modified_date").dt.convert_time_zone("UTC"),
    ).cast(LISTED)
    for name in ("etag", "size", "last_modified"):
        if lacking := listed[name].null_count():
            raise InventoryError(f"The inventory has {lacking} objects without {name}, which Airlock cannot import.")
    return listed


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _md5(content: bytes = b"") -> Any:
    return hashlib.md5(content, usedforsecurity=False)
