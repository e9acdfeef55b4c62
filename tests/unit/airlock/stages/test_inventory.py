"""Inventories in all three formats against the listing that they stand for, and those that cannot stand for one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import polars as pl
import pyarrow.orc  # type: ignore[import-untyped]
import pytest
from polars import selectors

from airlock.pipelines import Receive, Source
from airlock.records import ARRIVALS, Window
from airlock.stages.buffer import Listing, buffer
from airlock.stages.inventory import InventoryError, find_inventory, fresh_inventory, list_inventory
from airlock.stages.receive import Delivery, look
from airlock.storage.key_ranges import RangedListing
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.storage.test_s3 import ODD_NAMES
from tests.unit.airlock.world import pipeline, read_arrivals

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

ARCHIVE = S3Uri("archive", "in/")
FOLDER = S3Uri("work", "inventories/archive/all/")
FIELDS = {
    "bucket": "Bucket",
    "key": "Key",
    "version_id": "VersionId",
    "is_latest": "IsLatest",
    "is_delete_marker": "IsDeleteMarker",
    "size": "Size",
    "last_modified_date": "LastModifiedDate",
    "e_tag": "ETag",
    "storage_class": "StorageClass",
}
TIMES = selectors.by_name("last_modified_date", require_all=False)
NOW = datetime.now(UTC)
SETTINGS = {"listing": "inventory", "inventory_uri": str(FOLDER), "lookback_hours": 72}
DATED = {"listing": "inventory", "inventory_uri": str(FOLDER), "window": "key_date"}
SOURCE = Source.model_validate({"uri": str(ARCHIVE)} | SETTINGS)
FORMATS = pytest.mark.parametrize("file_format", ["CSV", "ORC", "Parquet"])


def as_csv(rows: pl.DataFrame) -> bytes:
    """Encode keys as S3 does, a space as ``+``; every field is quoted, and there is no header."""
    keys = pl.Series("key", [quote_plus(key, safe="/") for key in rows["key"]])
    times = TIMES.dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")
    text = rows.with_columns(keys, times).with_columns(pl.all().cast(pl.String).fill_null(""))
    return gzip.compress(text.write_csv(include_header=False, quote_style="always").encode())


def as_orc(rows: pl.DataFrame) -> bytes:
    body = io.BytesIO()
    naive = rows.with_columns(TIMES.dt.replace_time_zone(None))
    pyarrow.orc.write_table(naive.to_arrow(compat_level=pl.CompatLevel.oldest()), body)
    return body.getvalue()


def as_parquet(rows: pl.DataFrame) -> bytes:
    body = io.BytesIO()
    rows.write_parquet(body)
    return body.getvalue()


FILES = {"CSV": as_csv, "ORC": as_orc, "Parquet": as_parquet}


def inventory_rows(world: World, prefix: str = "") -> pl.DataFrame:
    """Return what S3 would write of the archive, in no order."""
    items = world.s3.client.list_objects_v2(Bucket="archive", Prefix=prefix)["Contents"]
    columns = {
        "bucket": ["archive"] * len(items),
        "key": [item["Key"] for item in items],
        "size": [item["Size"] for item in items],
        "last_modified_date": [item["LastModified"] for item in items],
        "e_tag": [item["ETag"].strip('"') for item in items],
        "storage_class": ["STANDARD"] * len(items),
    }
    times = pl.col("last_modified_date").dt.convert_time_zone("UTC").dt.cast_time_unit("ms")
    return pl.DataFrame(columns).with_columns(times).reverse()


def deliver(
    world: World, *files: pl.DataFrame, file_format: str = "CSV", begun: datetime = NOW, **manifest: Any
) -> str:
    """Write an inventory as S3 does and return the name of its folder."""
    name = f"{begun:%Y-%m-%dT%H-%MZ}"
    listed = []
    for number, rows in enumerate(files):
        key = f"{FOLDER.key}data/{name}-{number}.{file_format.lower()}"
        body = FILES[file_format](rows)
        world.put(f"s3://work/{key}", body)
        listed.append({"key": key, "size": len(body), "MD5checksum": hashlib.md5(body).hexdigest()})
    content = {
        "sourceBucket": "archive",
        "destinationBucket": "arn:aws:s3:::work",
        "version": "2016-11-30",
        "creationTimestamp": str(int(begun.timestamp() * 1000)),
        "fileFormat": file_format,
        "fileSchema": ", ".join(FIELDS[column] for column in files[0].columns) if files else "Bucket, Key",
        "files": listed,
    }
    body = json.dumps(content | manifest).encode()
    world.put(str(FOLDER.join(name, "manifest.json")), body)
    world.put(str(FOLDER.join(name, "manifest.checksum")), hashlib.md5(body).hexdigest().encode() + b"\n")
    return name


def listed(world: World, source: Source = SOURCE, prefix: S3Uri = ARCHIVE) -> pl.DataFrame:
    inventory = fresh_inventory(world.s3, source, NOW)
    return pl.concat(list_inventory(world.s3, inventory, prefix)).sort("key")


def refusal(world: World) -> str:
    with pytest.raises(InventoryError) as info:
        listed(world)
    return str(info.value)


class TestFormats:
    @FORMATS
    def test_it_gives_the_arrivals_that_the_listing_gives(self, world: World, file_format: str) -> None:
        for name in [*ODD_NAMES, "folder/", "full/"]:
            world.put(f"s3://archive/in/{name}", b"" if name == "folder/" else name.encode())
        world.put("s3://archive/out/other")
        rows = inventory_rows(world)
        deliver(world, rows.head(4), rows.slice(4), file_format=file_format)
        by_inventory = Listing(world.run(line=pipeline(source=SETTINGS)))
        expected = pl.concat(Listing(world.run()))
        assert pl.concat(by_inventory).sort("key").equals(expected)
        assert expected.height == len(ODD_NAMES) + 1

    @FORMATS
    def test_of_all_versions_only_what_is_there_now_counts(self, world: World, file_format: str) -> None:
        world.put("s3://archive/in/a")
        now = inventory_rows(world).with_columns(version_id=pl.lit("v9"), is_latest=True, is_delete_marker=False)
        before = now.with_columns(is_latest=pl.lit(value=False), e_tag=pl.lit("old"))
        nothing = pl.lit(None, pl.Int64), pl.lit(None, pl.String)
        deleted = now.with_columns(
            key=pl.lit("in/gone"), is_delete_marker=pl.lit(value=True), size=nothing[0], e_tag=nothing[1]
        )
        deliver(world, pl.concat([before, deleted, now]), file_format=file_format)
        assert listed(world).rows() == pl.concat(RangedListing(world.s3, ARCHIVE, 1)).rows()

    @FORMATS
    @pytest.mark.parametrize("column", ["size", "last_modified_date", "e_tag"])
    def test_a_field_that_it_lacks_is_named_with_the_fix(self, world: World, file_format: str, column: str) -> None:
        world.put("s3://archive/in/a")
        deliver(world, inventory_rows(world).drop(column), file_format=file_format)
        name = {"size": "Size", "last_modified_date": "Last modified", "e_tag": "ETag"}[column]
        assert refusal(world).startswith(f"The inventory lacks {name}. Add it to the fields")

    @FORMATS
    def test_a_value_that_it_lacks_is_counted(self, world: World, file_format: str) -> None:
        world.put("s3://archive/in/MUELLER")
        rows = inventory_rows(world).with_columns(size=pl.lit(None, pl.Int64))
        deliver(world, rows, file_format=file_format)
        assert refusal(world).startswith("The inventory has 1 objects without size")

    @FORMATS
    def test_a_bucket_of_nothing_has_no_arrival(self, world: World, file_format: str) -> None:
        world.put("s3://archive/in/a")
        deliver(world, inventory_rows(world).clear(), file_format=file_format)
        run = world.run(line=pipeline(source=SETTINGS))
        assert buffer(run).arrivals == 0
        assert read_arrivals(run).equals(ARRIVALS.to_frame())

    def test_a_large_file_is_read_piece_by_piece(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(5):
            world.put(f"s3://archive/in/{number}")
        monkeypatch.setattr("airlock.stages.inventory._CSV_BYTES", 50)
        deliver(world, inventory_rows(world))
        assert listed(world)["key"].to_list() == [f"in/{number}" for number in range(5)]

    def test_another_format_is_refused(self, world: World) -> None:
        deliver(world, fileFormat="XML")
        assert refusal(world) == "The inventory's format is 'XML'. Use one of CSV, ORC, Parquet."


class TestFiles:
    @FORMATS
    def test_one_that_changed_is_refused(self, world: World, file_format: str) -> None:
        world.put("s3://archive/in/a")
        name = deliver(world, inventory_rows(world), file_format=file_format)
        file = f"{name}-0.{file_format.lower()}"
        world.put(f"s3://work/{FOLDER.key}data/{file}", b"other")
        assert refusal(world) == f"Inventory file {file} does not have the MD5 that its manifest names."

    @FORMATS
    def test_one_of_another_format_is_refused(self, world: World, file_format: str) -> None:
        world.put("s3://archive/in/a")
        other = "Parquet" if file_format == "CSV" else "CSV"
        deliver(
            world,
            inventory_rows(world),
            file_format=other,
            fileFormat=file_format,
            fileSchema="Key,Size,LastModifiedDate,ETag",
        )
        assert "cannot be read" in refusal(world)

    def test_one_that_is_gone_is_s3s_own_error(self, world: World) -> None:
        world.put("s3://archive/in/a")
        name = deliver(world, inventory_rows(world))
        world.s3.delete("work", [f"{FOLDER.key}data/{name}-0.csv"])
        with pytest.raises(Exception, match="NoSuchKey"):
            listed(world)


class TestNewest:
    def test_the_newest_complete_one_is_taken(self, world: World) -> None:
        world.put("s3://archive/in/a")
        rows = inventory_rows(world)
        for hours in (40, 3, 20):
            deliver(world, rows, begun=NOW - timedelta(hours=hours))
        unfinished = deliver(world, rows, begun=NOW)
        world.s3.delete("work", [FOLDER.join(unfinished, "manifest.checksum").key])
        world.put(str(FOLDER.join("hive", "dt=2026-11-26-01-00", "symlink.txt")))
        found = find_inventory(world.s3, FOLDER)
        assert found is not None
        assert NOW - found.begun < timedelta(hours=3, seconds=1)

    def test_a_manifest_that_its_checksum_does_not_name_is_refused(self, world: World) -> None:
        name = deliver(world)
        world.put(str(FOLDER.join(name, "manifest.json")), b"{}")
        assert refusal(world) == f"Inventory {name}: manifest.json does not have the MD5 that manifest.checksum names."

    @pytest.mark.parametrize(
        "changes", [{"files": [{}]}, {"creationTimestamp": "today"}, {"fileSchema": None}, {"files": None}]
    )
    def test_a_manifest_that_is_none_is_refused(self, world: World, changes: dict[str, Any]) -> None:
        deliver(world, **changes)
        assert "manifest.json is not a manifest" in refusal(world)

    def test_none_at_all_is_said_with_the_fix(self, world: World) -> None:
        assert refusal(world).startswith(f"There is no complete inventory below {FOLDER}. Check whether")

    def test_one_that_is_too_old_is_refused(self, world: World) -> None:
        deliver(world, begun=NOW - timedelta(hours=50))
        assert refusal(world).startswith(
            "There is no inventory of the last 48 hours; the newest was begun 50 hours ago. Check whether"
        )

    def test_another_buckets_is_refused(self, world: World) -> None:
        deliver(world, sourceBucket="other")
        assert refusal(world).startswith("The inventory is of bucket 'other', not of s3://archive/in/. Correct")

    def test_it_must_have_begun_after_a_window_of_key_dates(self, world: World) -> None:
        """No later backfill looks for a date that has passed; scheduled runs look back for as long as it is allowed."""
        world.put("s3://archive/in/2026/11/24/a")
        line = pipeline(source=DATED)
        begun = NOW - timedelta(hours=1)
        deliver(world, inventory_rows(world), begun=begun)
        open_window = Window(datetime(2026, 11, 24, tzinfo=UTC), begun + timedelta(minutes=1))
        with pytest.raises(InventoryError, match="before the run's window ended"):
            list(Listing(world.run(line=line, window=open_window)))
        closed = Window(open_window.start, begun - timedelta(minutes=1))
        assert pl.concat(Listing(world.run(line=line, window=closed))).height == 1
        assert pl.concat(Listing(world.run("scheduled__1", line=line, window=open_window))).height == 1

    @pytest.mark.parametrize("file_format", ["ORC", "Parquet"])
    def test_what_it_cannot_read_is_not_quoted(self, world: World, file_format: str) -> None:
        """polars names the values that it cannot convert; here they stand for a key."""
        world.put("s3://archive/in/a")
        deliver(world, inventory_rows(world).with_columns(size=pl.lit("CANARY")), file_format=file_format)
        with pytest.raises(InventoryError) as info:
            listed(world)
        assert "CANARY" not in "".join(traceback.format_exception(info.value))

    def test_one_of_the_future_is_refused(self, world: World) -> None:
        deliver(world, begun=NOW + timedelta(days=400))
        assert "begun in the future" in refusal(world)


class TestReceive:
    def look(self, world: World) -> Delivery:
        return look(world.s3, ARCHIVE, SOURCE, Receive(quiet_seconds=300), NOW)

    def test_a_young_inventory_is_waited_for_and_nothing_is_listed(self, world: World) -> None:
        assert self.look(world) == Delivery(False, 0, 0, f"complete inventory below {FOLDER}")
        deliver(world, begun=NOW - timedelta(hours=49))
        waiting = "inventory of the last 48 hours; the newest was begun 49 hours ago"
        assert self.look(world) == Delivery(False, 0, 0, waiting)
        deliver(world, begun=NOW - timedelta(hours=47))
        assert self.look(world) == Delivery(True, 0, 0, "")


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"listing": "inventory"}, "belong together"),
            ({"inventory_uri": str(FOLDER)}, "belong together"),
            (SETTINGS | {"inventory_uri": "s3://archive/in/inventory/"}, "its files would be imported"),
            (SETTINGS | {"lookback_hours": 24}, "make it 72 or more"),
            (SETTINGS | {"inventory_max_age_hours": 200}, "lookback_hours 72 would miss .* make it 224 or more"),
            (DATED | {"lookback_days": 2}, "lookback_days 2 would miss .* make it 3 or more"),
            (DATED | {"inventory_max_age_hours": 49}, "lookback_days 3 would miss .* make it 4 or more"),
        ],
    )
    def test_what_would_pass_objects_over_is_refused(self, changes: dict[str, Any], complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            Source.model_validate({"uri": str(ARCHIVE)} | changes)

    def test_a_delivery_manifest_counts_what_is_there_now(self) -> None:
        with pytest.raises(ValueError, match=r"use receive\.mode: marker"):
            pipeline(source=SETTINGS, receive={"mode": "manifest"})
