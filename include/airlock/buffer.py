"""Buffer: list the window, subtract what the ledger has settled, claim the rest and freeze it.

Writes one ``arrivals/<shard>`` dataset per shard of the delivery, then ``arrivals/index.json``, which makes them count.
A run that buffers again takes what it holds in the ledger and lists nothing: a cleared task gives the same delivery.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from airlock.records import ARRIVALS, arrival_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from airlock.run import Run
    from airlock.s3 import ListedObject

INDEX = "arrivals/index.json"


@dataclass(frozen=True)
class Buffered:
    """What a run holds."""

    shards: list[str]  # the names of the shards, "0000" upwards
    arrivals: int
    bytes: int
    settled: int  # in the listing, but settled by an earlier run
    claimed_elsewhere: int  # in the listing, but held by a run that has not ended
    undated: int  # in the listing, but without the date that window: key_date asks for


def buffer(run: Run[Any]) -> Buffered:
    """Claim and freeze a run's delivery."""
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
    index = find_index(run)
    if index is None:
        listing, undated = list_window(run)
        claim = run.ledger.claim(run.pipeline.name, run.key, listing)
        held, counts = claim.held, (claim.settled, claim.claimed_elsewhere, undated)
    else:
        held = run.ledger.held_by(run.pipeline.name, run.key)
        counts = index["settled"], index["claimed_elsewhere"], index["undated"]
    shards = _write_shards(run, held.sort("key", "arrival_id"))
    buffered = Buffered(shards, held.height, int(held["size"].sum()), *counts)
    run.workspace.write_json(INDEX, vars(buffered))
    return buffered


def find_index(run: Run[Any]) -> dict[str, Any] | None:
    """Return what an earlier try of this run froze, if any."""
    try:
        return json.loads(run.s3.get(run.workspace.root.join(INDEX)))  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def read_arrivals(run: Run[Any]) -> pl.DataFrame:
    """Return the run's whole delivery; empty when buffer has not ended."""
    index = find_index(run)
    return run.workspace.read_all([f"arrivals/{shard}" for shard in index["shards"]] if index else [], ARRIVALS)


def list_window(run: Run[Any]) -> tuple[pl.DataFrame, int]:
    """List the source.

    Returns
    -------
    arrivals
        What lies in the run's window.
    undated
        How many objects have no date in their key, where the pipeline goes by key dates.
    """
    takes = _membership(run)
    undated = 0
    rows: list[tuple[Any, ...]] = []
    for item, when in _dated(run):
        undated += when is None
        if takes(when):
            bucket = run.prefix.bucket
            key = arrival_id(bucket, item.key, None, item.etag, item.size)
            rows.append((key, bucket, item.key, None, item.etag, item.size, item.last_modified))
    return pl.DataFrame(rows, schema=ARRIVALS, orient="row"), undated


def _dated(run: Run[Any]) -> Iterator[tuple[ListedObject, datetime | None]]:
    source = run.pipeline.source
    pattern = re.compile(source.key_date_pattern)
    for item in run.s3.list_objects(run.prefix):
        yield item, item.last_modified if source.window == "last_modified" else _key_date(pattern, item.key)


def _membership(run: Run[Any]) -> Callable[[datetime | None], bool]:
    window, source = run.window, run.pipeline.source
    if window is None:
        return lambda _when: True
    lookback = timedelta(hours=source.lookback_hours if source.window == "last_modified" else 0)
    return lambda when: when is not None and window.start - lookback <= when < window.end


def _key_date(pattern: re.Pattern[str], key: str) -> datetime | None:
    match = pattern.search(key)
    if match is None:
        return None
    try:
        return datetime(int(match["year"]), int(match["month"]), int(match["day"]), tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):  # no such day, a group that took no part, a number beyond all years
        return None


def _write_shards(run: Run[Any], held: pl.DataFrame) -> list[str]:
    settings = run.pipeline.parse
    size = max(settings.shard_size, -(-held.height // settings.max_shards))
    names = [f"{number:04}" for number in range(-(-held.height // size))]
    for number, name in enumerate(names):
        run.workspace.write(f"arrivals/{name}", ARRIVALS, held.slice(number * size, size))
    return names
