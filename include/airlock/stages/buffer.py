"""Buffer: list the window, subtract what the ledger has settled, claim the rest and freeze it.

Writes one ``arrivals/<shard>`` dataset per shard of the delivery, then ``arrivals/index.json``, which makes them count.
A run that buffers again takes what it holds in the ledger and lists nothing: a cleared task gives the same delivery.
A plan claims nothing and lists each time: it takes what nobody has yet.
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
from airlock.storage.spool import Aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import ClinicalParse, ClinicalPipeline, ImagingPipeline, ParseSettings, Pipeline, Source
    from airlock.records import Window
    from airlock.run import Run

    AnyRun = Run[ImagingPipeline | ClinicalPipeline]

INDEX = "arrivals/index.json"


@dataclass(frozen=True)
class Buffered:
    """What a run holds."""

    shards: list[str] = field(default_factory=list)  # the names of the shards, "0000" upwards
    arrivals: int = 0
    bytes: int = 0
    settled: int = 0  # in the listing, but settled by an earlier run
    claimed_elsewhere: int = 0  # in the listing, but held by a run that has not ended
    undated: int = 0  # in the listing, but without the date that window: key_date asks for
    carried: list[str] = field(default_factory=list)  # shards that nobody reads: a redrive carries them on
    listed: int = 0  # objects below the prefix, whatever their window; only a plan counts them

    @property
    def all_shards(self) -> list[str]:
        """All shards of the delivery, those too that a redrive carries on."""
        return [*self.shards, *self.carried]


def buffer(run: AnyRun) -> Buffered:
    """Claim and freeze a run's delivery; a plan claims nothing, and of a redrive `redrive` has claimed it before."""
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
    """Write what a run would hold now, and how many objects had to be listed for it."""
    listing = Listing(run)
    with Aside() as aside:
        numbers = [aside.add(rows) for rows in listing]
        with run.ledger.find_unclaimed(run.pipeline.name, map(aside.read, numbers)) as free:
            shards = _write_shards(run, free.arrivals, free.frames)
    counts = {"settled": free.settled, "claimed_elsewhere": free.claimed_elsewhere, "undated": listing.undated}
    buffered = Buffered(shards, free.arrivals, free.bytes, **counts, carried=[], listed=listing.listed)
    run.workspace.write_json(INDEX, vars(buffered))
    return buffered


def _counted_before(run: Run[Pipeline]) -> dict[str, int] | None:
    before = find_buffered(run)
    names = ("settled", "claimed_elsewhere", "undated")
    return None if before is None else {name: getattr(before, name) for name in names}


def _claim(run: Run[Pipeline]) -> dict[str, int]:
    """List the window to the local disk, then claim it: the ledger shall not wait for S3. A redrive lists nothing."""
    if run.redrive is not None:
        return {"settled": 0, "claimed_elsewhere": 0, "undated": 0}
    listing = Listing(run)
    with Aside() as aside:
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


def read_arrivals(run: Run[Pipeline]) -> pl.DataFrame:
    """Return the run's whole delivery; empty when buffer has not ended."""
    return run.workspace.read_all([f"arrivals/{shard}" for shard in find_shards(run)], ARRIVALS)


class Listing:
    """What lies in a run's window, as frames of `records.ARRIVALS`, each time it is iterated.

    Parameters
    ----------
    run
        The run: its prefix, its window, and by what its pipeline places an arrival in time.

    Attributes
    ----------
    undated
        How many objects had no date in their key, where the pipeline goes by key dates.
    listed
        How many objects lie below the prefix, whatever their window.
    """

    def __init__(self, run: Run[Pipeline]) -> None:
        self.undated = self.listed = 0
        self._run = run

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """List the source."""
        self.undated = self.listed = 0
        bucket, source, takes = self._run.prefix.bucket, self._run.pipeline.source, _membership(self._run)
        for listed in _objects(self._run):
            self.listed += listed.height
            dated = listed.with_columns(_moments(source, listed))
            self.undated += dated["moment"].null_count()
            rows = dated.filter(takes)
            yield rows.with_columns(arrival_ids(bucket, rows), bucket=pl.lit(bucket)).select(ARRIVALS.names())


def _objects(run: Run[Pipeline]) -> Iterator[pl.DataFrame]:
    """Yield what lies below the run's prefix, from where the pipeline looks it up.

    Raises
    ------
    InventoryError
        If that is an inventory, and it cannot show all of the window.
    """
    source = run.pipeline.source
    if source.listing == "s3":
        return run.s3.list_frames(run.prefix)
    inventory = fresh_inventory(run.s3, source, datetime.now(UTC))
    if source.window == "key_date" and run.window is not None and inventory.begun < run.window.end:
        raise InventoryError(
            f"the newest inventory was begun at {inventory.begun:%Y-%m-%d %H:%M} UTC, before the run's window ended, "
            f"and no later run looks back for key dates: clear buffer when the next inventory is there"
        )
    return list_inventory(run.s3, inventory, run.prefix)


def _membership(run: Run[Pipeline]) -> pl.Expr:
    window, source = run.window, run.pipeline.source
    if window is None:
        return pl.lit(value=True)
    lookback = round(source.lookback_hours * 3600 * 10**6) if source.window == "last_modified" else 0
    first, end = _microseconds(_begin(run, window)) - lookback, _microseconds(window.end)
    return pl.col("moment").dt.epoch("us").is_between(first, end, closed="left")


def _begin(run: Run[Pipeline], window: Window) -> datetime:
    """Return from when on a run takes in: what Airflow left out since the scheduled run before is this one's too.

    Without catchup it starts no run for an interval that went by while it was down, or others waited.
    """
    leaves_out = run.run_id.startswith(SCHEDULED) and not run.pipeline.schedule.catchup
    until = run.ledger.scheduled_until(run.pipeline.name, window.start) if leaves_out else None
    return until or window.start


def _microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970 to an aware moment, of any subclass and in any time zone."""
    return timegm(moment.utctimetuple()) * 10**6 + moment.microsecond


def _moments(source: Source, listed: pl.DataFrame) -> pl.Series:
    """Return what places each listed object in time, null where nothing does."""
    if source.window == "last_modified":
        return listed["last_modified"].alias("moment")
    search = re.compile(source.key_date_pattern).search
    matches = (search(key) for key in listed["key"])
    days = [match and _day(match["year"], match["month"], match["day"]) for match in matches]
    return pl.Series("moment", days, pl.Int64).cast(TIMESTAMP)


@lru_cache(maxsize=1000)
def _day(year: str | None, month: str | None, day: str | None) -> int | None:
    """Return the first moment of a day in microseconds since 1970, None if there is no such day."""
    try:
        return _microseconds(datetime(int(year or ""), int(month or ""), int(day or ""), tzinfo=UTC))
    except (ValueError, OverflowError):  # no such day, a group that took no part, a number beyond all years
        return None


def shard_rows(settings: ParseSettings | ClinicalParse, arrivals: int) -> int:
    """Return how many arrivals go into a shard: more than the pipeline says where Airflow could not map the shards."""
    return max(settings.shard_size, -(-arrivals // settings.max_shards))


def _write_held(run: AnyRun, arrivals: int, *, carried: bool) -> list[str]:
    """Write what the run holds, what is carried or all else, and return the names of the shards."""
    held = run.ledger.held_frames(run.pipeline.name, run.key, carried=carried)
    return _write_shards(run, arrivals, held, prefix="carried-" if carried else "")


def _write_shards(run: AnyRun, arrivals: int, held: Iterable[pl.DataFrame], prefix: str = "") -> list[str]:
    """Write what the run holds, in the order of its keys, and return the names of the shards."""
    size = shard_rows(run.pipeline.parse, arrivals)
    names: list[str] = []
    for number, pieces in groupby(_cut(held, size), key=itemgetter(0)):
        names.append(f"{prefix}{number:04}")
        with run.workspace.writer(f"arrivals/{names[-1]}", ARRIVALS) as writer:
            for _, rows in pieces:
                writer.add(rows)
    return names


def _cut(frames: Iterable[pl.DataFrame], size: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield rows with the number of the shard that they belong to, when each has so many."""
    first = 0
    for frame in frames:
        taken = 0
        while taken < frame.height:
            rows = frame.slice(taken, size - first % size)
            yield first // size, rows
            taken, first = taken + rows.height, first + rows.height
