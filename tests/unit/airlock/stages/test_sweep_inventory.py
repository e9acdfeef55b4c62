"""A sweep from an S3 Inventory finds what one from listings finds, goes on at a file, and refuses a bad inventory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from airlock.stages import sweep as sweeps
from airlock.stages import sweep_source
from airlock.stages.inventory import InventoryError
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.stages.test_inventory import FOLDER, SETTINGS, deliver, inventory_rows
from tests.unit.airlock.stages.test_sweep import NIGHT, OLD, YOUNG, Archive, totals
from tests.unit.airlock.world import World

if TYPE_CHECKING:
    import polars as pl

    from airlock.ledger import Ledger


@pytest.fixture
def archive(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive of which runs have taken 300 objects, with a sweep before; its inventories are complete at once."""
    monkeypatch.setattr(sweep_source, "_INVENTORY_LAG", -timedelta(hours=1))
    archive = Archive(ledger)
    archive.put(*(f"{folder}/{number:03}" for folder in "abc" for number in range(100)))
    archive.take()
    archive.sweep()
    archive.change(source=SETTINGS)
    return archive


def rows_of(archive: Archive) -> pl.DataFrame:
    return inventory_rows(World(archive.s3, archive.ledger))


def write(archive: Archive, *files: pl.DataFrame, **given: Any) -> None:
    deliver(World(archive.s3, archive.ledger), *files, **given)


def test_it_finds_what_a_listing_finds(archive: Archive) -> None:
    archive.put("a/new", "b/new")
    archive.put("c/young", age=YOUNG)
    archive.remove("a/000")
    rows = rows_of(archive)
    write(archive, rows.head(100), rows.slice(100))
    found = archive.sweep()
    assert totals(found) == {"young": 1, "overdue": 2, "vanished": 1}
    assert found.counts.listed == 302
    archive.change()
    assert archive.take("scheduled__2", NIGHT) == ["a/new", "b/new"]


def test_it_goes_on_behind_the_last_whole_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.put("a/new", "b/new")
    rows = rows_of(archive)
    write(archive, *(rows.slice(start, 101) for start in range(0, 302, 101)))
    compare, calls = sweeps._compare_frame, 0

    def fail(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise S3Error("x", "GetObject", "SlowDown")
        compare(*given)

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "_compare_frame", fail)
        with pytest.raises(S3Error):
            archive.sweep()
    found = archive.sweep()
    assert (found.number, found.counts.listed, totals(found)) == (2, 302, {"overdue": 2})


def test_with_a_newer_inventory_it_begins_anew(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    write(archive, rows_of(archive))

    def fail(*_: Any) -> None:
        raise S3Error("x", "GetObject", "SlowDown")

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "_compare_frame", fail)
        with pytest.raises(S3Error):
            archive.sweep()
    write(archive, rows_of(archive), begun=datetime.now(UTC) + timedelta(minutes=30))
    assert archive.sweep().number == 3


def test_one_that_is_a_week_old_is_refused_and_nothing_begins(archive: Archive) -> None:
    write(archive, rows_of(archive), begun=datetime.now(UTC) - timedelta(days=7))
    with pytest.raises(InventoryError, match="the newest was begun 168 hours ago"):
        archive.sweep()
    assert archive.ledger.sweep_times("nightly").keys() == {1}


def test_a_truncated_file_is_refused_and_nothing_is_taken_in(archive: Archive) -> None:
    archive.put("a/new")
    rows = rows_of(archive)
    write(archive, rows.head(200), rows.slice(200))
    (key,) = (one.key for one in archive.s3.list_objects(FOLDER.join("data", "")) if one.key.endswith("-1.csv"))
    where = S3Uri("work", key)
    archive.s3.put(where, archive.s3.get(where)[:-40])
    with pytest.raises(InventoryError, match="does not have the MD5 that its manifest names"):
        archive.sweep()
    assert archive.ledger.count_owed("nightly").is_empty()


def test_one_that_lacks_most_of_the_source_is_refused(archive: Archive) -> None:
    archive.put("a/new")
    write(archive, rows_of(archive).sample(150, seed=3))
    with pytest.raises(InventoryError, match="objects that it lacks exist"):
        archive.sweep()
    assert archive.ledger.count_owed("nightly").is_empty()


def test_what_a_late_inventory_cannot_have_has_not_vanished(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_source, "_INVENTORY_LAG", timedelta(hours=24))
    write(archive, rows_of(archive).head(250))
    assert totals(archive.sweep()) == {}


@pytest.mark.parametrize("kind", ["s3", "inventory"])
def test_900_seeded_differences_are_all_found_and_none_is_false(
    archive: Archive, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine kinds of 100 each, among 2,400 objects: three that are owed, four overdue, one young, one vanished."""
    names = [f"{folder}/n{number:04}" for folder in "abc" for number in range(700)]
    archive.change(sweep={"take_at_most": 10**4}, source={"site_pattern": "^in/(?P<site>[^/]+)/"})
    archive.put(*names)
    archive.take("manual__2")
    dice = Random(15)  # it replays, it guards nothing
    order = dice.sample(names, len(names))
    changed, deleted, returned = order[:100], order[100:200], order[200:300]
    archive.put(*changed, body=b"other")  # with an old date
    archive.remove(*deleted)  # vanished
    archive.put(*returned, body=b"between", age=OLD - timedelta(days=1))
    archive.put(*(f"b/given-{number}" for number in range(100)))
    archive.take("manual__3")
    archive.ledger.release_claims("nightly", archive.run_key("manual__3"))  # owed: all of it was given back
    given_back = len(changed) + len(returned) + 100
    archive.put(*(f"a/replica-{number}" for number in range(100)), age=timedelta(days=900))  # overdue
    archive.put(*(f"new/{number}" for number in range(100)))  # overdue, below a new folder
    archive.put(*(f"beside-{number}" for number in range(100)))  # overdue, without a folder
    archive.put(*(f"c/é +%41{number}" for number in range(100)))  # overdue, with odd names
    archive.put(*(f"c/young-{number}" for number in range(100)), age=YOUNG)  # young
    archive.client.store("archive", "in/placeholder/", b"", last_modified=datetime.now(UTC) - OLD)
    if kind == "inventory":
        monkeypatch.setattr("tests.explore.memory_s3.PAGE_SIZE", 10_000)  # the inventory is written from one page
        archive.change(sweep={"take_at_most": 10**4}, source=SETTINGS)
        write(archive, rows_of(archive).sample(fraction=1, shuffle=True, seed=15))
    found = archive.sweep()
    assert totals(found) == {"overdue": 400, "young": 100, "vanished": 100}
    assert (found.counts.owed, found.asks) == (given_back, 100)
    listed = set(archive.read_csv(found, "overdue")["key"])
    assert listed == {
        *(f"in/a/replica-{number}" for number in range(100)),
        *(f"in/new/{number}" for number in range(100)),
        *(f"in/beside-{number}" for number in range(100)),
        *(f"in/c/é +%41{number}" for number in range(100)),
    }
    assert set(archive.read_csv(found, "vanished")["key"]) == {f"in/{name}" for name in deleted}
    archive.change()
    taken = archive.take("scheduled__9", NIGHT)
    assert len(taken) == 300 + given_back
