"""Buffer: list the window, subtract the arrivals that the ledger has settled, claim the rest and freeze it.

It writes one dataset ``arrivals/<shard>`` per shard of the delivery, and then ``arrivals/index.json``, which commits
them. A run that buffers again lists nothing and takes the arrivals that it holds in the ledger, so that a cleared task
gives the same delivery. A plan claims nothing, and lists each time.
"""

from __future__ import annotations

import json
import re
from calendar import timegm
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.runs import SCHEDULED
from airlock.records import ARRIVALS, TIMESTAMP, arrival_ids
from airlock.stages.inventory import InventoryError, fresh_inventory, list_inventory
from airlock.storage.spool import FrameFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import ClinicalParse, ClinicalPipeline, ImagingPipeline, ParseSettings, Pipeline, Source
    from airlock.records import Window
    from airlock.run import Run

    AnyRun = Run[ImagingPipeline | ClinicalPipeline]

INDEX = "arrivals/index.json"


@dataclass(frozen=True)
class Buffered:
    """The frozen delivery of a run."""

    shards: list[str] = field(default_factory=list)  # names of the shards that parse reads, from "0000"
    arrivals: int = 0
    bytes: int = 0
    settled: int = 0  # in the listing, but settled by an earlier run
    claimed_elsewhere: int = 0  # in the listing, but held by a run that has not ended
    undated: int = 0  # in the listing, but without the date that window: key_date asks for
    carried: list[str] = field(default_factory=list)  # names of the shards that a redrive carries on, without parse
    listed: int = 0  # objects below the prefix, whatever their window; only a plan counts them

    @property
    def all_shards(self) -> list[str]:
        """All shards of the delivery, including those that a redrive carries on."""
        return [*self.shards, *self.carried]


def buffer(run: AnyRun) -> Buffered:
    """Claim and freeze a run's delivery; a plan claims nothing, and for a redrive `redrive` has claimed it."""
    if run.plan_only:
        return _foresee(run)
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
    counts = _counted_before(run) or _claim(run)
    arrivals, size = run.ledger.held_total(run.pipeline.name, run.key)
    shards, carried = (_write_held(run, arrivals, carried=carried) for carried in (False, True))
    buffered = Buffered(shards, arrivals, size, **counts, carried=carried)
    run.workspace.write_json(INDEX, vars(buffered))
    return buffered


def _foresee(run: AnyRun) -> Buffered:
    """Write the delivery that a run would claim now, and how many objects were listed for it."""
    listing = Listing(run)
    with FrameFile() as aside:
        numbers = [aside.add(rows) for rows in listing]
        with run.ledger.find_unclaimed(run.pipeline.name, map(aside.read, numbers)) as free:
            shards = write_shards(run, free.arrivals, free.frames)
    counts = {"settled": free.settled, "claimed_elsewhere": free.claimed_elsewhere, "undated": listing.undated}
    buffered = Buffered(shards, free.arrivals, free.bytes, **counts, carried=[], listed=listing.listed)
    run.workspace.write_json(INDEX, vars(buffered))
    return buffered


def _counted_before(run: Run[Pipeline]) -> dict[str, int] | None:
    before = find_buffered(run)
    names = ("settled", "claimed_elsewhere", "undated")
    return None if before is None else {name: getattr(before, name) for name in names}


def _claim(run: Run[Pipeline]) -> dict[str, int]:
    """List the window to the local disk, then claim it, so that the ledger does not wait for S3; count the rest."""
    if run.redrive is not None:
        return {"settled": 0, "claimed_elsewhere": 0, "undated": 0}
    listing = Listing(run)
    with FrameFile() as aside:
        numbers = [aside.add(rows) for rows in listing]
        claim = run.ledger.claim(run.pipeline.name, run.key, map(aside.read, numbers))
    return {"settled": claim.settled, "claimed_elsewhere": claim.claimed_elsewhere, "undated": listing.undated}


def find_buffered(run: Run[Pipeline]) -> Buffered | None:
    """Return what buffer froze for this run; None before it has ended."""
    try:
        return Buffered(**json.loads(run.s3.get(run.workspace.root.join(INDEX))))
    except FileNotFoundError:
        return None


def find_shards(run: Run[Pipeline]) -> list[str]:
    """Return all shards of the run's delivery; none before buffer has ended."""
    return (find_buffered(run) or Buffered()).all_shards


def read_arrivals(run: Run[Pipeline]) -> Iterator[pl.DataFrame]:
    """Yield the run's delivery frame by frame; none before buffer has ended."""
    for shard in find_shards(run):
        yield from run.workspace.parts(f"arrivals/{shard}", ARRIVALS)


class Listing:
    """The objects in a run's window, as frames of `records.ARRIVALS`; each iteration lists them again.

    Parameters
    ----------
    run
        The run, which has the prefix, the window and the pipeline's rule for an arrival's time.

    Attributes
    ----------
    undated
        The number of objects without a date in their key, if the pipeline uses key dates.
    listed
        The number of objects below the prefix, whatever their time.
    """

    def __init__(self, run: Run[Pipeline]) -> None:
        self.undated = self.listed = 0
        self._run = run

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """List the source."""
        self.undated = self.listed = 0
        bucket, source, in_window = self._run.prefix.bucket, self._run.pipeline.source, _is_in_window(self._run)
        for listed in _objects(self._run):
            self.listed += listed.height
            dated = listed.with_columns(_moments(source, listed))
            self.undated += dated["moment"].null_count()
            rows = dated.filter(in_window)
            yield rows.with_columns(arrival_ids(bucket, rows), bucket=pl.lit(bucket)).select(ARRIVALS.names())


def _objects(run: Run[Pipeline]) -> Iterator[pl.DataFrame]:
    """Yield the objects below the run's prefix, from a listing or from an inventory.

    Raises
    ------
    InventoryError
        If the inventory cannot show all of the window.
    """
    source = run.pipeline.source
    if source.listing == "s3":
        return run.s3.list_frames(run.prefix)
    inventory = fresh_inventory(run.s3, source, datetime.now(UTC))
    if source.window == "key_date" and run.window is not None and inventory.begun < run.window.end:
        raise InventoryError(
            f"The newest inventory was begun at {inventory.begun:%Y-%m-%d %H:%M} UTC, before the run's window ended, "
            f"and no later run looks back for key dates. Clear buffer when the next inventory is complete."
        )
    return list_inventory(run.s3, inventory, run.prefix)


def _is_in_window(run: Run[Pipeline]) -> pl.Expr:
    window, source = run.window, run.pipeline.source
    if window is None:
        return pl.lit(value=True)
    lookback = round(source.lookback_hours * 3600 * 10**6) if source.window == "last_modified" else 0
    first, end = _microseconds(_window_start(run, window)) - lookback, _microseconds(window.end)
    return pl.col("moment").dt.epoch("us").is_between(first, end, closed="left")


def _window_start(run: Run[Pipeline], window: Window) -> datetime:
    """Return the window's start, extended back over intervals that Airflow skipped.

    Without catchup, Airflow starts no run for an interval that passed while it was down or other runs waited.
    """
    may_skip = run.run_id.startswith(SCHEDULED) and not run.pipeline.schedule.catchup
    until = run.ledger.scheduled_until(run.pipeline.name, window.start) if may_skip else None
    return until or window.start


def _microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970 to an aware moment, of any subclass and in any time zone."""
    return timegm(moment.utctimetuple()) * 10**6 + moment.microsecond


def _moments(source: Source, listed: pl.DataFrame) -> pl.Series:
    """Return the time by which each listed object belongs to a window; null without one."""
    if source.window == "last_modified":
        return listed["last_modified"].alias("moment")
    search = re.compile(source.key_date_pattern).search
    matches = (search(key) for key in listed["key"])
    days = [match and _day(match["year"], match["month"], match["day"]) for match in matches]
    return pl.Series("moment", days, pl.Int64).cast(TIMESTAMP)


@lru_cache(maxsize=1000)
def _day(year: str | None, month: str | None, day: str | None) -> int | None:
    """Return the first moment of a day in microseconds since 1970; None if the day does not exist."""
    try:
        return _microseconds(datetime(int(year or ""), int(month or ""), int(day or ""), tzinfo=UTC))
    except (ValueError, OverflowError):  # no such day, a group that took no part, a number beyond all years
        return None


def shard_rows(settings: ParseSettings | ClinicalParse, arrivals: int) -> int:
    """Return how many arrivals go into a shard: the pipeline's number, or more if Airflow could not map the shards."""
    return max(settings.shard_size, -(-arrivals // settings.max_shards))


def _write_held(run: AnyRun, arrivals: int, *, carried: bool) -> list[str]:
    """Write the shards of the arrivals that the run carries on, or of all others; return their names."""
    held = run.ledger.held_frames(run.pipeline.name, run.key, carried=carried)
    return write_shards(run, arrivals, held, prefix="carried-" if carried else "")


def write_shards(run: AnyRun, arrivals: int, held: Iterable[pl.DataFrame], prefix: str = "") -> list[str]:
    """Write a delivery, of which the number of arrivals is known, as shards, and return their names."""
    size = shard_rows(run.pipeline.parse, arrivals)
    names: list[str] = []
    for number, pieces in groupby(_cut(held, size), key=itemgetter(0)):
        names.append(f"{prefix}{number:04}")
        with run.workspace.writer(f"arrivals/{names[-1]}", ARRIVALS) as writer:
            for _, rows in pieces:
                writer.add(rows)
    return names


def _cut(frames: Iterable[pl.DataFrame], size: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield rows with the number of their shard, for shards of this size."""
    first = 0
    for frame in frames:
        taken = 0
        while taken < frame.height:
            rows = frame.slice(taken, size - first % size)
            yield first // size, rows
            taken, first = taken + rows.height, first + rows.height
