"""Buffer: list the window, subtract the arrivals that the ledger has settled, claim the rest and freeze it.

It writes one dataset ``arrivals/<shard>`` per shard of the delivery, and then ``arrivals/index.json``, which commits
them. A run that buffers again lists nothing and takes the arrivals that it holds in the ledger, so that a cleared task
gives the same delivery. If its claims were given back, it lists and claims again. A plan claims nothing, and lists each
time. `airlock.stages.windows` decides which of the listed objects belong to the run. A delivery that is too large for
one run is cut into `airlock.stages.waves`. A kind may have a run take more than its listing (`TakenIn`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.arrivals import scope
from airlock.ledger.owed import NEVER
from airlock.ledger.parked import ParkedTakenError
from airlock.ledger.runs import SCHEDULED
from airlock.records import ARRIVALS, arrival_ids
from airlock.run import run_key
from airlock.stages.folder_manifests import CLOSED, keep_closed
from airlock.stages.inventory import InventoryError, fresh_inventory, list_inventory
from airlock.stages.receive import find_marker
from airlock.stages.sites import CountedSites
from airlock.stages.waves import (
    Waves,
    check_turn,
    count_waves,
    cut_waves,
    find_waves,
    fits,
    limits_of,
    number_of,
    read_wave,
    write_waves,
)
from airlock.stages.windows import closed_moments, find_bounds, find_start, is_asked_for, moments, takes_owed
from airlock.storage.key_ranges import RangedListing
from airlock.storage.spool import FrameFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.ledger import Claim, Ledger, RunRecord
    from airlock.ledger.database import Scope
    from airlock.pipelines import ClinicalParse, ClinicalPipeline, ImagingPipeline, ParseSettings, Pipeline
    from airlock.run import Run

    AnyRun = Run[ImagingPipeline | ClinicalPipeline]

INDEX = "arrivals/index.json"


@dataclass(frozen=True)
class TakenIn:
    """Objects that a run takes besides its listing, and what the transaction that claims them records."""

    arrivals: pl.DataFrame  # `ledger.arrivals.LISTED`
    record: Callable[[Ledger], None]  # raises ParkedTakenError if they have to be written anew
    scopes: tuple[Scope, ...]  # what it locks for that


class LostClaimsError(RuntimeError):
    """The ledger lacks arrivals of a frozen delivery, and nobody gave them back."""


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
    waves: int = 1  # runs that take the delivery; only a plan counts them

    @property
    def all_shards(self) -> list[str]:
        """All shards of the delivery, including those that a redrive carries on."""
        return [*self.shards, *self.carried]


def buffer(run: AnyRun, take_in: Callable[[], TakenIn | None] = lambda: None) -> Buffered:
    """Claim and freeze a run's delivery; a plan claims nothing, and for a redrive `redrive` has claimed it.

    Parameters
    ----------
    run
        The run.
    take_in
        Writes what the run takes besides its listing; it is called again if another run was faster.

    Raises
    ------
    LostClaimsError
        If the ledger is older than the frozen delivery.
    InventoryError
        If the inventory cannot show all of the window.
    """
    if run.plan_only:
        return _foresee(run)
    known = run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
    counts = _counted_before(run, known) or _claim(run, take_in)
    arrivals, size = run.ledger.held_total(run.pipeline.name, run.key)
    shards, carried = (_write_held(run, arrivals, carried=carried) for carried in (False, True))
    buffered = Buffered(shards, arrivals, size, **counts, carried=carried)
    run.workspace.write_json(INDEX, vars(buffered))
    return buffered


def _foresee(run: AnyRun) -> Buffered:
    """Write the delivery that a run would claim now, and how many objects were listed for it."""
    listing, sites = Listing(run), CountedSites(run.pipeline.source)
    with FrameFile() as aside:
        aside.add_all(map(sites.add_to, listing))
        waves = count_waves(aside, limits_of(run.pipeline))
        with run.ledger.find_unclaimed(run.pipeline.name, aside) as free:
            shards = write_shards(run, free.arrivals, free.frames)
    counts = {"settled": free.settled, "claimed_elsewhere": free.claimed_elsewhere, "undated": listing.undated}
    buffered = Buffered(shards, free.arrivals, free.bytes, **counts, carried=[], listed=listing.listed, waves=waves)
    run.workspace.write_json(INDEX, vars(buffered))
    return buffered


def _counted_before(run: Run[Pipeline], known: RunRecord) -> dict[str, int] | None:
    """Return what an earlier try counted; None if it froze nothing, or the claims on it were given back."""
    before = find_buffered(run)
    if before is None or not _still_holds(run, known, before):
        return None
    return {name: getattr(before, name) for name in ("settled", "claimed_elsewhere", "undated")}


def _still_holds(run: Run[Pipeline], known: RunRecord, before: Buffered) -> bool:
    """Return whether the ledger holds what a run has frozen; `redrive` claims again what a redrive gave back.

    Raises
    ------
    LostClaimsError
        If the ledger does not know that the run has ever claimed.
    """
    held, _ = run.ledger.held_total(run.pipeline.name, run.key)
    if held >= before.arrivals or run.redrive is not None:
        return True
    if known.listed_until is None:
        raise LostClaimsError(
            f"This run froze {before.arrivals} arrivals, but the ledger holds {held} of them and knows no claim of the "
            f"run: the ledger was restored from an older backup. Nothing was claimed. Restore the newest backup, then "
            f"clear this task. If there is none, compare the data store with the run's report before you start a new "
            f"run, because it imports these objects again."
        )
    return False


def _claim(run: Run[Pipeline], take_in: Callable[[], TakenIn | None]) -> dict[str, int]:
    """Claim the run's wave of a delivery, or list its window; count the rest."""
    if run.redrive is not None:
        return {"settled": 0, "claimed_elsewhere": 0, "undated": 0}
    waves = find_waves(run)
    return _list_and_claim(run, take_in) if waves is None else _claim_wave(run, waves)


def _list_and_claim(run: Run[Pipeline], take_in: Callable[[], TakenIn | None]) -> dict[str, int]:
    """List the window to the local disk, then claim it, so that the ledger does not wait for S3."""
    now = datetime.now(UTC)
    _note_marker(run)
    since = find_start(run, now)  # before the listing: meanwhile other runs may claim, and it would be later
    listing, until = Listing(run, now), now if run.window is None else run.window.end
    sites, limits = CountedSites(run.pipeline.source), limits_of(run.pipeline)
    owed_at = now if takes_owed(run) else None
    with FrameFile() as aside:
        aside.add_all(map(sites.add_to, listing))
        if limits is not None and not fits(aside, limits):
            parts = cut_waves(run, aside, limits)
            waves = Waves(run.run_id, since, until, listing.owed_due, parts, owed_at, listing.undated)
            write_waves(run, waves)
            return _claim_wave(run, waves)
        claim = _claim_listing(run, aside, until, listing.owed_due, take_in)
    _put_off_owed(run, owed_at)
    return _count(claim, listing.undated)


def _claim_listing(
    run: Run[Pipeline],
    listed: FrameFile,
    until: datetime,
    owed_due: datetime,
    take_in: Callable[[], TakenIn | None],
) -> Claim:
    """Claim what the run takes besides its listing, and then the listing, without the locks of the first.

    A run that ends in between has frozen nothing: its next try takes what more there is by then, and lists anew.
    """
    pipeline = run.pipeline.name
    while (more := take_in()) is not None:
        try:
            with run.ledger.at_once(scope(pipeline), *more.scopes) as ledger:
                ledger.claim(pipeline, run.key, more.arrivals)
                more.record(ledger)
            break
        except ParkedTakenError:
            continue
    return run.ledger.claim(pipeline, run.key, listed, until, owed_due)


def _claim_wave(run: Run[Pipeline], waves: Waves) -> dict[str, int]:
    """Claim a wave; the window of the run that listed counts as taken with the claim of the last one."""
    check_turn(run, waves)
    number, of = number_of(run), run_key(run.pipeline.name, waves.lead)
    completes = of if number == len(waves.waves) else None
    with FrameFile() as aside:
        aside.add_all(read_wave(run, number))
        claim = run.ledger.claim(
            run.pipeline.name, run.key, aside, waves.taken_until(number), waves.owed_due, completes=completes
        )
    if completes is not None:  # before, what is owed may be in a later wave
        _put_off_owed(run, waves.owed_at)
    return _count(claim, waves.undated if number == 1 else 0)


def _count(claim: Claim, undated: int) -> dict[str, int]:
    return {"settled": claim.settled, "claimed_elsewhere": claim.claimed_elsewhere, "undated": undated}


def _put_off_owed(run: Run[Pipeline], listed_at: datetime | None) -> None:
    """Count an attempt for what was due and not listed; a delivery that takes nothing owed has no *listed_at*."""
    if listed_at is not None:
        run.ledger.defer_owed(run.pipeline.name, run.prefix.bucket, listed_at)
        run.ledger.end_owed(run.pipeline.name, listed_at - timedelta(days=run.pipeline.source.owed_days))


def _note_marker(run: Run[Pipeline]) -> None:
    """Record the marker before listing, so that its delivery is opened once; a newer one opens the next delivery."""
    if run.pipeline.receive.mode == "marker":
        marker = find_marker(run.s3, run.prefix, run.pipeline.receive)
        if marker.at is not None:
            run.ledger.note_marker(run.key, marker.name, marker.at)


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
    """The objects that belong to a run, as frames of `records.ARRIVALS`; each iteration lists them again.

    Parameters
    ----------
    run
        The run, which has the prefix, the window and the pipeline's rule for an arrival's time.
    now
        The time of the listing; by default the present.

    Attributes
    ----------
    undated
        The number of objects without a date in their key, if the pipeline uses key dates.
    listed
        The number of objects below the prefix, whatever their time.
    owed_due
        Owed objects belong to the run if their next attempt is at or before this time.
    """

    def __init__(self, run: Run[Pipeline], now: datetime | None = None) -> None:
        self.undated = self.listed = 0
        self._run = run
        self._now = now or datetime.now(UTC)
        self.bucket = run.prefix.bucket
        self.owed_due = NEVER if is_asked_for(run) else self._now

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """List the source."""
        self.undated = self.listed = 0
        pipeline, bounds, owed = self._run.pipeline, find_bounds(self._run, self._now), self._owed_keys()
        for listed in _objects(self._run, self._now):
            self.listed += listed.height
            dated, chosen = listed.with_columns(moments(pipeline.source, listed)), bounds.contain("moment")
            self.undated += dated["moment"].null_count()
            if CLOSED in dated.columns:
                dated = dated.with_columns(closed_moments(pipeline, dated[CLOSED]))
                chosen |= bounds.contain("closed")
            rows = dated.filter(chosen | pl.col("key").hash().is_in(owed))
            columns = arrival_ids(self.bucket, rows), pl.lit(self.bucket).alias("bucket")
            yield rows.with_columns(*columns).select(ARRIVALS.names())

    def _owed_keys(self) -> pl.Expr:
        """Return the hashes of the keys that are owed and due. Two keys with one hash only take an object early."""
        hashes = [pl.Series("key", dtype=pl.UInt64)]
        if takes_owed(self._run) and self._run.window is not None:
            frames = self._run.ledger.owed_keys(self._run.pipeline.name, self.bucket, self.owed_due)
            hashes += [keys["key"].hash() for keys in frames]
        return pl.lit(pl.concat(hashes)).implode()


def _objects(run: Run[Pipeline], now: datetime) -> Iterator[pl.DataFrame]:
    """Yield the objects below the run's prefix, from a listing or from an inventory.

    Raises
    ------
    InventoryError
        If the inventory cannot show all of the window.
    """
    source = run.pipeline.source
    if source.listing == "s3":
        listing = RangedListing(run.s3, run.prefix, source.listings)
        receive = run.pipeline.receive
        return keep_closed(listing, receive.manifest) if receive.mode == "folder_manifests" else iter(listing)
    inventory = fresh_inventory(run.s3, source, now)
    looks_back_later = source.window == "last_modified" or run.run_id.startswith(SCHEDULED)
    if run.window is not None and not looks_back_later and inventory.begun < run.window.end:
        raise InventoryError(
            f"The newest inventory was begun at {inventory.begun:%Y-%m-%d %H:%M} UTC, before the run's window ended, "
            f"and a backfill of key dates keeps to its days. Clear buffer when the next inventory is complete."
        )
    return list_inventory(run.s3, inventory, run.prefix)


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
