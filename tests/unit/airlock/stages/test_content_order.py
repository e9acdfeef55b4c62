"""Which of two contents of a resource is newer, by the declared order; and the clocks of files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.pipelines import Order
from airlock.records import ARRIVALS
from airlock.run import Run
from airlock.stages.content_order import FileClocks, decide_order, format_clock, read_last_updated, read_time
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import pipeline

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

BY_UPDATE, BY_COPY = Order(across_keys="last_updated"), Order(across_keys="last_modified")
ACCEPT, OLDER = ("accept", None), ("ignore", "newer_content")
NOTED, UNKNOWN = ("accept", "order_unknown"), ("quarantine", "order_unknown")
FUTURE = ("quarantine", "future_timestamp")


def clock(place: str = "a", **times: int | None) -> str:
    return " ".join([f"place={place}", *(f"{name}={time}" for name, time in times.items() if time is not None)])


def word(own: str, known: str | None, kind: str = "Patient", order: Order = BY_UPDATE) -> tuple[str, str | None]:
    row = {"resource_type": kind, "clock": own, "known_clock": known}
    rows = decide_order(pl.DataFrame([row], schema=dict.fromkeys(row, pl.String)), order)
    return rows["order_verdict"].item(), rows["order_reason"].item()


@pytest.mark.parametrize("kind", ["Patient", "AllergyIntolerance"])
@pytest.mark.parametrize(
    ("own", "known", "expected"),
    [
        (clock("a", last_updated=7, last_modified=1), clock("b", last_updated=6, last_modified=9), ACCEPT),
        (clock("a", last_updated=5, last_modified=9), clock("b", last_updated=6, last_modified=1), OLDER),
        (clock("a", last_updated=1, last_modified=9), clock("a", last_updated=6, last_modified=8), ACCEPT),
        (clock("a", last_updated=9, last_modified=7), clock("a", last_updated=6, last_modified=8), OLDER),
        (clock("a", last_modified=8), clock("a", last_modified=8), ACCEPT),
        ("place=a future=last_updated last_modified=9", clock("b", last_updated=6, last_modified=8), FUTURE),
        (clock("a", last_updated=6, last_modified=8), clock("b", last_updated=6, last_modified=8), UNKNOWN),
        (clock("a", last_updated=6), None, UNKNOWN),
    ],
)
def test_the_declared_order_decides(own: str, known: str | None, expected: tuple[str, str | None], kind: str) -> None:
    assert word(own, known, kind) == expected


@pytest.mark.parametrize(("times", "expected"), [((9, 8), NOTED), ((7, 8), OLDER)])
@pytest.mark.parametrize("updates", [(None, 6), (6, None), (6, 6), (None, None)])
def test_where_it_does_not_the_next_clock_decides_but_not_about_safety(
    updates: tuple[int | None, int | None], times: tuple[int, int], expected: tuple[str, str | None]
) -> None:
    own, known = (
        clock(place, last_updated=updated, last_modified=time)
        for place, updated, time in zip("ab", updates, times, strict=True)
    )
    assert word(own, known) == expected
    assert word(own, known, "AllergyIntolerance") == UNKNOWN


def test_behind_the_last_clock_there_is_no_other() -> None:
    assert word(clock("a", last_modified=5), clock("b", last_modified=5), order=BY_COPY) == UNKNOWN


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("1970-01-01T00:00:01Z", 10**6), ("1970-01-01T01:00:00+01:00", 0), ("1970-01-02", 86_400 * 10**6)]
    + [(text, None) for text in ("", "yesterday", "2026-02-30T00:00:00Z", "2026", "99999-01-01")],
)
def test_times(text: str, microseconds: int | None) -> None:
    assert read_time(text) == microseconds


@pytest.mark.parametrize("meta", [None, 5, {"lastUpdated": 5}, {"lastUpdated": "soon"}, {"lastUpdated": None}])
def test_a_time_of_update_that_is_none_is_missing(meta: Any) -> None:
    bodies = pl.DataFrame({"body": [json.dumps({"resourceType": "Patient", "meta": meta})]})
    assert bodies.select(read_last_updated())["last_updated"].to_list() == [None]


def test_a_time_beyond_the_tolerance_is_in_the_future() -> None:
    hour = 3600 * 10**6
    times = {"place": ["a", "b"], "last_updated": [hour, hour + 1]}
    none = dict.fromkeys(("key_date", "manifest", "last_modified"), pl.lit(None, pl.Int64))
    told = pl.DataFrame(times).with_columns(**none).select(format_clock(BY_UPDATE, datetime(1970, 1, 1, tzinfo=UTC)))
    assert told["clock"].to_list() == [f"place=a last_updated={hour}", "place=b future=last_updated"]


class TestFiles:
    def clocks(self, world: World, across_keys: str, *keys: str) -> list[dict[str, Any]]:
        line = pipeline(source={"order": {"across_keys": across_keys}})
        run = Run(line, "one", None, S3Uri.parse(line.source.uri), world.s3, world.ledger)
        moment = datetime(2026, 11, 29, tzinfo=UTC)
        rows = [(key, "archive", key, None, "e", 1, moment) for key in keys]
        return FileClocks(run).read(pl.DataFrame(rows, schema=ARRIVALS, orient="row")).to_dicts()

    def test_a_date_in_the_key(self, world: World) -> None:
        found = self.clocks(world, "key_date", "in/1970/01/02/a", "in/2026/02/30/a", "in/a")
        assert [row["key_date"] for row in found] == [86_400 * 10**6, None, None]

    def test_the_nearest_manifest_in_the_source(self, world: World) -> None:
        world.put("s3://archive/in/one/delivery.json", b'{"objects": 1, "as_of": "1970-01-01T00:00:01Z"}')
        world.put("s3://archive/in/one/two/delivery.json", b'{"as_of": "1970-01-01T00:00:02Z"}')
        world.put("s3://archive/in/bad/delivery.json", b'{"as_of": "tomorrow"}')
        world.put("s3://archive/in/none/delivery.json", b"no JSON")
        world.put("s3://archive/delivery.json", b'{"as_of": "1970-01-01T00:00:09Z"}')
        keys = ("in/one/a", "in/one/x/a", "in/one/two/a", "in/bad/a", "in/none/a", "in/a")
        found = self.clocks(world, "manifest", *keys)
        assert [row["manifest"] for row in found] == [10**6, 10**6, 2 * 10**6, None, None, None]

    def test_clocks_before_the_declared_one_are_not_read(self, world: World) -> None:
        (row,) = self.clocks(world, "last_modified", "in/1970/01/02/a")
        assert (row["key_date"], row["manifest"]) == (None, None)
