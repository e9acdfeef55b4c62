"""Sweep: compare everything below a pipeline's source with the ledger, whatever its date.

An object that is not an arrival is *young* while the next run will take it, and *overdue* afterwards. An arrival whose
object is gone has *vanished*. A sweep makes overdue objects owed, so that the next run takes them; where they are too
many, or below a folder from which nothing has come before, it names them and a person decides. It deletes nothing.

It goes through the source once, frame by frame, and asks the ledger about each frame by its index. The hashes of the
listed keys are in the workspace until the end, when the arrivals are compared with them. A sweep that is interrupted
goes on at its position.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.arrivals import LISTED
from airlock.ledger.columns import ComparisonKind, FindingKind
from airlock.pipelines.cron import longest_interval
from airlock.pipelines.sweep import LEAST_TAKEN, SHARE_TAKEN
from airlock.records import arrival_ids
from airlock.stages.census import add_to_census, count_other_files, list_census
from airlock.stages.decision_log import open_log
from airlock.stages.sites import first_folder
from airlock.stages.sweep_arrivals import LISTED_KEYS, MOST_NAMED, compare_arrivals, hash_keys
from airlock.stages.sweep_caution import find_caution, find_unknown
from airlock.stages.sweep_files import SweepFiles, name_sweep
from airlock.stages.sweep_report import describe_caution, make_report
from airlock.stages.sweep_source import open_source
from airlock.stages.sweep_work import OVERDUE, VANISHED, YOUNG, Asked, Counts, Sweeping, Swept
from airlock.storage.requests import RequestMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.ledger.comparisons import Comparison
    from airlock.pipelines import Pipeline
    from airlock.stages.sweep_source import SweepSource
    from airlock.storage.s3 import S3

LEAST_AGE = timedelta(hours=48)  # below which no object is overdue
GOES_ON_WITHIN = timedelta(days=7)  # an interrupted sweep that is older begins anew
_log = logging.getLogger(__name__)


def sweep(pipeline: Pipeline, s3: S3, ledger: Ledger, asked_by: str, *, dry_run: bool = False) -> Swept:
    """Compare a source with the ledger and take in what is overdue, or go on with a sweep that was interrupted.

    Parameters
    ----------
    pipeline, s3, ledger
        The pipeline, with the S3 of its source and workspace.
    asked_by
        The person or the run.
    dry_run
        Whether nothing is taken in.

    Raises
    ------
    S3Error
        If the bucket cannot be listed. The next sweep goes on.
    InventoryError
        If there is no inventory that can be used.
    LedgerError
        If another process goes on with the same sweep.
    """
    with RequestMeter().attached(s3.client) as requests:
        work = _begin(pipeline, s3, ledger, asked_by, dry_run=dry_run)
        before = Counter(work.counts.requests)
        for position in _compare_listing(work):
            work.counts.requests = dict(sorted((before + requests.sent).items()))
            place = {"source": position, "parts": work.files.valid}
            work.comparison = ledger.advance_comparison(work.comparison, place, vars(work.counts))
        arrivals = ledger.count_arrivals(pipeline.name)
        asks_all = work.comparison.is_dry or work.counts.total(OVERDUE) > _most_taken(pipeline, arrivals)
        candidates = pl.Series("folder", dtype=pl.String) if asks_all else _folders_of_overdue(work)
        vanished, seen = compare_arrivals(work, arrivals, candidates)
        asked = _ask(work, candidates, seen, asks_all=asks_all)
        work.counts.requests = dict(sorted((before + requests.sent).items()))
        return _conclude(work, vanished, asked)


def _begin(pipeline: Pipeline, s3: S3, ledger: Ledger, asked_by: str, *, dry_run: bool) -> Sweeping:
    source = open_source(s3, pipeline, datetime.now(UTC))
    unknown = find_unknown(s3, pipeline, ledger)
    comparison = _find_interrupted(pipeline, ledger, source, unknown, dry_run=dry_run)
    if comparison is None:
        caution = find_caution(pipeline, ledger, unknown, dry_run=dry_run)
        scope = {"uri": pipeline.source.uri, "edition": source.edition, "caution": caution, "unknown": unknown}
        kind, is_dry = ComparisonKind.SWEEP, caution is not None
        comparison = ledger.begin_comparison(kind, scope, pipeline=pipeline.name, is_dry=is_dry, asked_by=asked_by)
    else:
        _log.info("Going on with sweep %d, which was interrupted.", comparison.number)
    files = files_of(s3, pipeline, comparison)
    return Sweeping(pipeline, s3, ledger, source, comparison, files, Counts(**(comparison.counts or {})))


def files_of(s3: S3, pipeline: Pipeline, comparison: Comparison) -> SweepFiles:
    """Return the files of a sweep up to its position."""
    name = name_sweep(comparison.number, comparison.began_at)
    return SweepFiles(s3, pipeline, name, (comparison.position or {}).get("parts"))


def _find_interrupted(
    pipeline: Pipeline, ledger: Ledger, source: SweepSource, unknown: list[str], *, dry_run: bool
) -> Comparison | None:
    """Return the pipeline's last sweep if it has not ended, is young, and compares the same with the same ledger."""
    last = ledger.last_comparison(ComparisonKind.SWEEP, pipeline=pipeline.name)
    if last is None or last.ended_at is not None or datetime.now(UTC) - last.began_at > GOES_ON_WITHIN:
        return None
    same = last.scope["uri"] == pipeline.source.uri and last.scope["edition"] == source.edition
    same = same and set(unknown) <= set(last.scope["unknown"])
    return last if same and (last.is_dry or not dry_run) else None


def _compare_listing(work: Sweeping) -> Iterator[Any]:
    """Find what is not an arrival, and yield each position at which the sweep can go on."""
    young_since = work.comparison.began_at - youth(work.pipeline, work.comparison.began_at)
    counts = work.counts
    for rows, position in work.source.frames((work.comparison.position or {}).get("source")):
        if rows.height:
            _compare_frame(work, rows, young_since)
        if position is not None:
            listed, overdue, young = counts.listed, counts.total(OVERDUE), counts.total(YOUNG)
            _log.info("Sweep: %d objects are listed, of which %d are overdue and %d young.", listed, overdue, young)
            yield position


def _compare_frame(work: Sweeping, rows: pl.DataFrame, young_since: datetime) -> None:
    bucket = work.prefix.bucket
    sited = work.sites.add_to(rows).with_columns(arrival_ids(bucket, rows), pl.lit(bucket).alias("bucket"))
    strays = work.ledger.find_strays(work.pipeline.name, sited.select(LISTED.names()))
    is_young = pl.col("last_modified") > young_since
    overdue = strays.objects.filter(~is_young)
    work.files.add(LISTED_KEYS, hash_keys(rows))
    work.files.add(OVERDUE, overdue)
    work.counts.listed += rows.height
    add_to_census(work.counts.census, work.pipeline.source, sited)
    count_other_files(work.counts.others, rows)
    work.counts.owed += strays.owed
    work.counts.add(YOUNG, strays.objects.filter(is_young))
    work.counts.add(OVERDUE, overdue)


def youth(pipeline: Pipeline, now: datetime) -> timedelta:
    """Return the age up to which an object is left to the pipeline's next run: an interval and its look-back."""
    source, schedule = pipeline.source, pipeline.schedule
    by_day = source.window == "key_date"
    lookback = timedelta(days=source.lookback_days) if by_day else timedelta(hours=source.lookback_hours)
    interval = timedelta() if schedule.cron is None else longest_interval(schedule.cron, schedule.timezone, now)
    return max(LEAST_AGE, interval + lookback)


def _most_taken(pipeline: Pipeline, arrivals: int) -> int:
    """Return how many overdue objects a sweep takes in without asking."""
    at_most = pipeline.sweep.take_at_most
    return max(LEAST_TAKEN, int(arrivals * SHARE_TAKEN)) if at_most is None else at_most


def _folders_of_overdue(work: Sweeping) -> pl.Series:
    """Return the first folders of the overdue objects; none if new ones are taken in like others."""
    folders = pl.Series("folder", dtype=pl.String)
    if work.pipeline.sweep.new_folders == "take":
        return folders
    for rows in work.overdue():
        folders = pl.concat([folders, rows.select(first_folder(work.prefix)).to_series()]).unique()
    return folders.filter(folders != "")


def _ask(work: Sweeping, candidates: pl.Series, seen: pl.Series, *, asks_all: bool) -> Asked:
    """Return the overdue objects that are not taken in without a person's word."""
    if asks_all:
        return Asked(everything=True, number=work.counts.total(OVERDUE))
    folders = tuple(sorted(set(candidates) - set(seen)))
    if not folders:
        return Asked()
    chosen = Asked(folders=folders).choose(work.prefix)
    number = sum(rows.filter(chosen).height for rows in work.overdue())
    return Asked(folders=folders, number=number)


def _conclude(work: Sweeping, vanished: pl.DataFrame, asked: Asked) -> Swept:
    """Take in what is not asked about, write the report, and end the sweep."""
    pipeline, ledger = work.pipeline.name, work.ledger
    described = ledger.describe_vanished(pipeline, vanished["arrival_id"])
    kept = ledger.journaled_in(open_log(work.s3, work.pipeline))
    for rows in () if asked.everything else work.overdue():
        kept.owe_strays(pipeline, work.files.name, rows.filter(~asked.choose(work.prefix)))
    report = make_report(work, described, asked)
    work.counts.asked = asked.as_json()
    where = work.files.write_report(report)
    found = described.select("arrival_id", "study_key", kind=pl.lit(FindingKind.VANISHED.value), subject="arrival_id")
    _record_census(work)  # before the sweep has ended: one that is killed here goes on, and records it once
    work.comparison = ledger.end_comparison(
        work.comparison, vars(work.counts), None if work.comparison.is_dry else found
    )
    if not work.comparison.is_dry and work.counts.total(VANISHED) <= MOST_NAMED:
        ledger.close_unseen(work.comparison, FindingKind.VANISHED, closed_by=work.files.name)
    caution, taken_in = describe_caution(work), work.counts.total(OVERDUE) - asked.number
    return Swept(work.comparison.number, caution, work.counts, taken_in, where, report)


def _record_census(work: Sweeping) -> None:
    """Record what the sweep has counted; not if an earlier version of Airlock began it, which did not count."""
    counted = list(list_census(work.counts.census))
    if sum(one.objects for one in counted) == work.counts.listed:
        method = "inventory" if work.pipeline.source.listing == "inventory" else "listing"
        began_at = work.comparison.began_at
        work.ledger.record_census(work.pipeline.name, work.pipeline.source.uri, method, began_at, counted)
