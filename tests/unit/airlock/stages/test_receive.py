"""When a delivery is complete, in each of the three modes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airlock.pipelines import Receive, Source
from airlock.stages.receive import Delivery, DeliveryManifestError, look
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

PREFIX = S3Uri("archive", "in/")
SOURCE = Source(uri="s3://archive/in/")
NOW = datetime.now(UTC)


def newest(world: World) -> datetime:
    return max(item.last_modified for item in world.s3.list_objects(PREFIX))


class TestQuietPeriod:
    SETTINGS = Receive(mode="quiet_period", quiet_seconds=300)

    def test_complete_at_the_very_end_of_the_period(self, world: World) -> None:
        world.put("s3://archive/in/a", b"12345")
        world.put("s3://archive/in/b", b"123")
        world.put("s3://archive/other/c", b"not of this delivery")
        quiet = newest(world) + timedelta(seconds=300)
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, quiet) == Delivery(True, 2, 8, "")
        early = look(world.s3, PREFIX, SOURCE, self.SETTINGS, quiet - timedelta(seconds=40))
        assert early == Delivery(False, 2, 8, "40 s more without a new object")
        assert not look(world.s3, PREFIX, SOURCE, self.SETTINGS, quiet - timedelta(microseconds=1)).complete

    def test_the_newest_object_counts(self, world: World) -> None:
        world.put("s3://archive/in/z-first")
        then = newest(world) + timedelta(seconds=300)
        while newest(world) + timedelta(seconds=300) == then:  # S3 tells time in seconds
            world.put("s3://archive/in/a-later")
        assert not look(world.s3, PREFIX, SOURCE, self.SETTINGS, then).complete

    def test_without_an_object_there_is_nothing_to_wait_for(self, world: World) -> None:
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW) == Delivery(True, 0, 0, "")

    def test_an_object_from_the_future_is_waited_for(self, world: World) -> None:
        world.put("s3://archive/in/a")
        past = newest(world) - timedelta(hours=1)
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, past).waiting_for == "3900 s more without a new object"

    def test_no_quiet_at_all_is_complete_at_once(self, world: World) -> None:
        world.put("s3://archive/in/a")
        assert look(world.s3, PREFIX, SOURCE, Receive(quiet_seconds=0), newest(world)).complete


class TestMarker:
    SETTINGS = Receive(mode="marker", marker="_READY")

    def test_complete_when_the_marker_is_there(self, world: World) -> None:
        world.put("s3://archive/in/a")
        world.put("s3://archive/in/sub/_READY")
        world.put("s3://archive/in/_READY2")
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW) == Delivery(False, 0, 0, "the marker object _READY")
        world.put("s3://archive/in/_READY", b"")
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW).complete

    def test_one_that_opened_the_delivery_before_does_not_open_this_one(self, world: World) -> None:
        world.put("s3://archive/in/_READY", b"")
        written = newest(world)
        early = look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW, used_marker=written)
        assert not early.complete
        assert early.waiting_for == (
            f"a new marker object _READY: the one of {written:%Y-%m-%d %H:%M:%S} UTC opened the delivery before"
        )
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW, used_marker=written - timedelta(seconds=1)).complete

    def test_a_marker_in_a_folder_of_its_own(self, world: World) -> None:
        settings = Receive(mode="marker", marker="done/yes.txt")
        assert not look(world.s3, PREFIX, SOURCE, settings, NOW).complete
        world.put("s3://archive/in/done/yes.txt")
        assert look(world.s3, PREFIX, SOURCE, settings, NOW).complete


class TestManifest:
    SETTINGS = Receive(mode="manifest", manifest="delivery.json")

    def look(self, world: World, content: Any) -> Delivery:
        world.put(
            "s3://archive/in/delivery.json", content if isinstance(content, bytes) else json.dumps(content).encode()
        )
        return look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW)

    def test_without_one_it_is_waited_for(self, world: World) -> None:
        world.put("s3://archive/in/a")
        assert look(world.s3, PREFIX, SOURCE, self.SETTINGS, NOW) == Delivery(
            False, 0, 0, "the delivery manifest delivery.json"
        )

    def test_complete_when_as_many_objects_are_there_beside_it(self, world: World) -> None:
        world.put("s3://archive/in/a", b"123")
        assert self.look(world, {"objects": 2}).waiting_for == "2 objects; 1 are there"
        world.put("s3://archive/in/sub/b", b"12")
        assert self.look(world, {"objects": 2}) == Delivery(True, 2, 5, "")
        world.put("s3://archive/in/c", b"1")
        assert self.look(world, {"objects": 2}).waiting_for == "2 objects; 3 are there"

    def test_the_bytes_are_compared_where_they_are_promised(self, world: World) -> None:
        world.put("s3://archive/in/a", b"123")
        assert self.look(world, {"objects": 1, "bytes": 4}).waiting_for == "4 bytes; 3 are there"
        assert self.look(world, {"objects": 1, "bytes": 3}).complete
        assert self.look(world, {"objects": 1, "bytes": None, "sender": "x"}).complete

    def test_a_delivery_of_nothing_is_complete(self, world: World) -> None:
        assert self.look(world, {"objects": 0, "bytes": 0}) == Delivery(True, 0, 0, "")

    def test_one_that_is_too_large_is_an_error_that_names_the_setting(self, world: World) -> None:
        settings = Receive(mode="manifest", manifest_mib=0.001)  # 1,048 bytes
        body = json.dumps({"objects": 0}).encode()
        world.put("s3://archive/in/delivery.json", body.ljust(1_048))
        assert look(world.s3, PREFIX, SOURCE, settings, NOW).complete
        world.put("s3://archive/in/delivery.json", body.ljust(1_049))
        wrong = (
            r"manifest delivery\.json: more than 0\.001 MiB; send a smaller one, or set receive\.manifest_mib higher"
        )
        with pytest.raises(DeliveryManifestError, match=wrong):
            look(world.s3, PREFIX, SOURCE, settings, NOW)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff\xfe\xfa",
            b"[" * 100_000,
            b"null",
            b"1200",
            b'"1200"',
            b"[1200]",
            b"{}",
            {"objects": None},
            {"objects": "1200"},
            {"objects": 12.0},
            {"objects": True},
            {"objects": -1},
            {"objects": 1, "bytes": "5"},
            {"objects": 1, "bytes": -5},
            {"objects": 1, "bytes": False},
            b'{"objects": NaN}',
        ],
    )
    def test_one_that_promises_nothing_is_an_error_with_the_fix(self, world: World, content: Any) -> None:
        with pytest.raises(
            DeliveryManifestError, match=r"delivery manifest delivery\.json: .*(write|must be whole)"
        ) as info:
            self.look(world, content)
        assert info.value.__cause__ is None
        assert info.value.__suppress_context__ or info.value.__context__ is None
