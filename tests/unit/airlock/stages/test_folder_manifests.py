"""Folders as deliveries: a run takes what a manifest beside it closes, and counts a study by what the manifest says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airlock.imaging.declarations import DATASET, DECLARED
from airlock.imaging.named_files import read_manifests_beside
from airlock.imaging.validate import validate
from airlock.records import Window
from airlock.stages.buffer import Listing
from airlock.stages.folder_manifests import keep_closed
from airlock.storage.listing import LISTED
from tests.unit.airlock.world import dicom, pipeline

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LINE = pipeline(receive={"mode": "folder_manifests"})
MANIFEST = "delivery.json"


def at(key: str, minutes: int) -> dict[str, Any]:
    time = NOON + timedelta(minutes=minutes)
    return {"key": key, "version_id": None, "etag": "e", "size": 1, "last_modified": time}


def kept(*frames: list[dict[str, Any]]) -> list[str]:
    listing = [pl.DataFrame(rows, schema=LISTED) for rows in frames]
    return [key for rows in keep_closed(listing, MANIFEST) for key in rows["key"]]


class TestClosedFolders:
    def test_what_is_not_newer_than_the_manifest_beside_it_is_taken(self) -> None:
        rows = [at("in/s/1", 0), at("in/s/2", 5), at("in/s/3", 6), at(f"in/s/{MANIFEST}", 5)]
        assert kept(rows) == ["in/s/1", "in/s/2", f"in/s/{MANIFEST}"]

    def test_a_folder_without_a_manifest_is_left_to_a_later_run(self) -> None:
        assert kept([at("in/open/1", 0), at("in/s/1", 0), at(f"in/s/{MANIFEST}", 1), at("top", 0)]) == [
            "in/s/1",
            f"in/s/{MANIFEST}",
        ]

    def test_a_manifest_does_not_close_the_folders_above_and_below(self) -> None:
        assert kept([at("in/1", 0), at("in/s/sub/1", 0), at(f"in/s/{MANIFEST}", 1)]) == [f"in/s/{MANIFEST}"]

    def test_the_manifest_may_be_listed_before_or_after_in_another_frame(self) -> None:
        objects, manifest = [at("in/s/1", 0)], [at(f"in/s/{MANIFEST}", 1)]
        assert sorted(kept(objects, manifest)) == sorted(kept(manifest, objects)) == ["in/s/1", f"in/s/{MANIFEST}"]

    def test_nothing_is_closed_in_an_empty_listing(self) -> None:
        assert kept() == []

    @given(st.lists(st.tuples(st.sampled_from(["a/", "a/b/", "", "é\n/"]), st.integers(0, 9)), unique=True))
    def test_it_is_what_a_plain_loop_finds(self, objects: list[tuple[str, int]]) -> None:
        rows = [at(f"{folder}{minutes}", minutes) for folder, minutes in objects] + [at(f"a/{MANIFEST}", 4)]
        wanted = [f"{folder}{minutes}" for folder, minutes in objects if folder == "a/" and minutes <= 4]
        assert kept(rows) == [*wanted, f"a/{MANIFEST}"]


def test_a_run_takes_closed_folders_only(world: World) -> None:
    world.put("s3://archive/in/open/1")
    world.put("s3://archive/in/s/1")
    world.put(f"s3://archive/in/s/{MANIFEST}", b"{}")
    keys = [key for rows in Listing(world.run(line=LINE)) for key in rows["key"]]
    assert sorted(keys) == ["in/s/1", f"in/s/{MANIFEST}"]


@pytest.mark.parametrize("window", ["last_modified", "key_date"])
@pytest.mark.parametrize(("closed_after_days", "is_taken"), [(8, False), (10, True), (11, False)])
def test_an_object_belongs_to_the_run_in_whose_window_its_folder_was_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, window: str, closed_after_days: int, is_taken: bool
) -> None:
    day = 24 * 60
    rows = [at("in/2026/01/31/s/1", 0), at(f"in/2026/01/31/s/{MANIFEST}", closed_after_days * day)]
    monkeypatch.setattr("airlock.stages.buffer.RangedListing", lambda *_: [pl.DataFrame(rows, schema=LISTED)])
    line = pipeline(receive={"mode": "folder_manifests"}, source={"window": window})
    midnight = NOON.replace(hour=0) + timedelta(days=10)
    found = Listing(world.run("backfill__1", line, Window(midnight, midnight + timedelta(days=1))), midnight)
    assert bool(keys(found)) is is_taken


def keys(listing: Listing) -> list[str]:
    return [key for rows in listing for key in rows["key"] if not key.endswith(MANIFEST)]


def declared(world: World, manifest: bytes) -> list[tuple[str, int | None]]:
    world.put(f"s3://archive/in/s/{MANIFEST}", manifest)
    run = world.run("one", LINE)
    world.buffered(run, dicom("s/a"))
    validate(run)
    return run.workspace.read(DATASET, DECLARED).select("StudyInstanceUID", "manifest").rows()


def test_a_study_is_declared_by_the_manifest_beside_its_files(world: World) -> None:
    assert declared(world, json.dumps({"objects": 3, "studies": {"1.1": 3}}).encode()) == [("1.1", 3)]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"studies": 3}', b'{"studies": {"1.1": "many"}}', b'{"studies": {"\\ud800": 1}}'],
)
def test_a_broken_manifest_stops_no_run_and_declares_nothing(world: World, content: bytes) -> None:
    assert declared(world, content) == []


def test_an_archived_manifest_stops_no_run_and_declares_nothing(world: World) -> None:
    run = world.run("one", LINE)
    where = {"Bucket": "archive", "Key": f"in/s/{MANIFEST}"}
    run.s3.client.put_object(**where, Body=b'{"studies": {"1.1": 3}}', StorageClass="GLACIER")
    world.buffered(run, dicom("s/a"))
    validate(run)
    assert run.workspace.read(DATASET, DECLARED).is_empty()


def test_an_unread_file_belongs_to_the_study_that_the_manifest_names(world: World) -> None:
    world.put(f"s3://archive/in/s/{MANIFEST}", json.dumps({"files": {"a": "1.1", "b": ""}}).encode())
    named = read_manifests_beside(world.run("one", LINE), pl.Series(["in/s/a", "in/t/c"]))
    assert named.rows() == [("in/s/a", "1.1")]


def test_an_inventory_cannot_tell_which_folders_are_closed() -> None:
    inventory = {"listing": "inventory", "lookback_hours": 72, "inventory_uri": "s3://inventories/archive/daily/"}
    with pytest.raises(ValidationError, match=r"receive\.mode: folder_manifests looks at the objects in S3"):
        pipeline(source=inventory, receive={"mode": "folder_manifests"})
