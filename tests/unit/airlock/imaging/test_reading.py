"""What reading has cost, added up over the shards of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.imaging.reading import Reading, find_reading, keep_reading

if TYPE_CHECKING:
    from tests.unit.airlock.world import World


def test_shards_are_added_up(world: World) -> None:
    workspace = world.run().workspace
    keep_reading(workspace, "0000", Reading(10, 1, 11, 160 * 1024, {"text": 2}))
    keep_reading(workspace, "0001", Reading(10, 0, 10, 160 * 1024, {"text": 1, "deflate": 1}))
    assert find_reading(workspace, ["0000", "0001"]).counts() == {
        "arrivals": 20,
        "unread": 1,
        "requests": 21,
        "bytes_read": 320 * 1024,
        "fallbacks": {"deflate": 1, "text": 3},
        "requests_per_arrival": 1.05,
        "kib_per_arrival": 16.0,
    }


def test_a_shard_that_is_read_again_counts_once(world: World) -> None:
    workspace = world.run().workspace
    for _ in range(2):
        keep_reading(workspace, "0000", Reading(10, 0, 10, 10))
    assert find_reading(workspace, ["0000"]).arrivals == 10


def test_a_run_that_broke_off_before_it_read_anything_has_no_averages(world: World) -> None:
    counts = find_reading(world.run().workspace, ["0000"]).counts()
    assert counts["arrivals"] == 0
    assert not [name for name in counts if name.endswith("per_arrival")]
