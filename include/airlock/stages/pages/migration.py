"""Migration: how much of an archive is done, by site and month, against its census; and when it may be whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median, quantiles
from typing import TYPE_CHECKING

from airlock.records import Disposition
from airlock.stages.pages.charts import Part
from airlock.stages.pages.medians import LEAST_NIGHTS, NIGHTS, REJECTED, Night
from airlock.stages.pages.numbers import count, moment, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airlock.ledger.censuses import CensusRow
    from airlock.ledger.nights import Total, WindowTotal
    from airlock.ledger.queues import LastSweep

DONE = (Disposition.RELEASED.value, Disposition.DUPLICATE.value, Disposition.IGNORED.value)


@dataclass(frozen=True)
class Share:
    """What became of the objects of a site, a month or a pipeline."""

    name: str
    census: int | None  # objects that the last census counted; None without one
    census_bytes: int
    done: int  # released, and what needs no import: duplicates and ignored files
    held: int
    rejected: int
    left: int  # objects of the census that no run has decided on, by number; of a pipeline the sum of its sites
    done_bytes: int

    @property
    def whole(self) -> int:
        """The end of the scale."""
        return self.done + self.held + self.rejected + self.left

    @property
    def parts(self) -> list[Part]:
        """The parts of its bar."""
        numbers = (
            ("done", self.done, "released"),
            ("held", self.held, "held"),
            ("rejected", self.rejected, "quarantined"),
        )
        return [*(Part(*one) for one in numbers), Part("left", self.left, "left")]


@dataclass(frozen=True)
class Forecast:
    """When everything may be done, if it goes on as in the last nights."""

    earliest: datetime
    latest: datetime
    objects_a_night: int  # the median
    nights: int


@dataclass(frozen=True)
class Progress:
    """The migration of a pipeline."""

    pipeline: str
    counted_at: datetime | None
    method: str | None
    whole: Share
    sites: tuple[Share, ...]
    months: tuple[Share, ...]
    last_run: datetime | None  # when its last run began
    forecast: Forecast | None
    as_of: datetime
    days: tuple[float, ...]  # since the first run
    done_by_day: tuple[int, ...]


def measure(
    pipeline: str,
    totals: Sequence[Total],
    windows: Iterable[WindowTotal],
    census: Sequence[CensusRow],
    nights: Sequence[Night],
    *,
    now: datetime,
) -> Progress:
    """Return the progress of a pipeline.

    Parameters
    ----------
    pipeline
        The pipeline; rows of other pipelines are left out.
    totals
        What its arrivals have become.
    windows
        The same, by the window of the runs: its month is the month of the archive that the runs took.
    census
        Its last census.
    nights
        Its runs, the earliest first.
    now
        The present.
    """
    mine = [row for row in census if row.pipeline == pipeline]
    by_site = _count((row.site, row.disposition, row.arrivals, row.bytes) for row in totals if row.pipeline == pipeline)
    by_month = _count(
        (f"{row.window_start.astimezone(UTC):%Y-%m}", row.disposition, row.arrivals, row.bytes)
        for row in windows
        if row.pipeline == pipeline
    )
    sites = tuple(_shares(by_site, mine, "site"))
    # New objects of one site must not hide what is missing of another.
    whole = replace(_share("all", _sum(by_site), mine), left=sum(site.left for site in sites))
    own = [night for night in nights if night.pipeline == pipeline]
    days, done = _burn_up(own)
    return Progress(
        pipeline=pipeline,
        counted_at=mine[0].counted_at if mine else None,
        method=mine[0].method if mine else None,
        whole=whole,
        sites=sites,
        months=tuple(_shares(by_month, mine, "month")),
        last_run=own[-1].started_at if own else None,
        forecast=_forecast(own, whole.left, now),
        as_of=now,
        days=days,
        done_by_day=done,
    )


def conclude(one: Progress, sweep: LastSweep | None, *, is_undecided: bool) -> tuple[bool, str]:
    """Return whether an archive with a census is done, and the sentence for its statement.

    Numbers alone do not prove it: objects that were stored after the census count as arrivals and make up for missing
    ones, and objects that have expired for undecided ones. A sweep compares each object with the ledger.

    Parameters
    ----------
    one
        The progress.
    sweep
        The last sweep that has ended.
    is_undecided
        Whether a run holds objects on which it has not decided.
    """
    if one.whole.left:
        return False, f"{plural(one.whole.left, 'object is', 'objects are')} unexplained: the archive is not done."
    if is_undecided:
        why = "A run has taken objects and not decided on them"
        return False, f"{why}: wait for it, or clear what failed in it. The archive is not done."
    if sweep is None or (one.last_run is not None and sweep.began_at < one.last_run):
        how = f"Sweep the source after the last run: airlock sweep {one.pipeline}"
        return False, f"The numbers agree, but objects that came after the census may hide missing ones. {how}"
    if sweep.untaken:
        return False, f"The last sweep found {plural(sweep.untaken, 'object')} that no run has taken."
    found = f"The sweep that ended {moment(sweep.ended_at)} compared each object, and found none that no run has taken."
    if one.whole.held:
        return False, f"Every object is explained; {count(one.whole.held)} are still held. {found}"
    return True, f"Every object is done or rejected with a reason. {found}"


_Counts = dict[str, Counter[str]]


def _count(rows: Iterable[tuple[str, str, int, int]]) -> _Counts:
    """Return arrivals by disposition, and the bytes of what is done, by the first column."""
    found: _Counts = {}
    for name, disposition, arrivals, size in rows:
        counts = found.setdefault(name, Counter())
        counts[disposition] += arrivals
        counts["bytes"] += size if disposition in DONE else 0
    return found


def _sum(counts: _Counts) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counts.values():
        total.update(one)
    return total


def _shares(counts: _Counts, census: Sequence[CensusRow], column: str) -> list[Share]:
    names = sorted({*counts, *(getattr(row, column) for row in census)})
    return [
        _share(name, counts.get(name, Counter()), [row for row in census if getattr(row, column) == name], bool(census))
        for name in names
    ]


def _share(name: str, counts: Counter[str], census: Sequence[CensusRow], counted: bool | None = None) -> Share:
    has_census = bool(census) if counted is None else counted
    objects = sum(row.objects for row in census)
    decided = sum(counts[word] for word in (*DONE, *REJECTED, Disposition.HELD.value))
    return Share(
        name=name,
        census=objects if has_census else None,
        census_bytes=sum(row.bytes for row in census),
        done=sum(counts[word] for word in DONE),
        held=counts[Disposition.HELD.value],
        rejected=sum(counts[word] for word in REJECTED),
        left=max(0, objects - decided),
        done_bytes=counts["bytes"],
    )


def _burn_up(nights: Sequence[Night]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the days since the first run and what had been decided on by then."""
    days, done, so_far = [0.0], [0], 0
    for night in nights:
        so_far += night.arrivals
        days.append((night.started_at - nights[0].started_at) / timedelta(days=1))
        done.append(so_far)
    return tuple(days), tuple(done)


def _forecast(nights: Sequence[Night], left: int, now: datetime) -> Forecast | None:
    """Return when what is left may be done, from the rates of the last nights; None if they say nothing."""
    recent = nights[-NIGHTS:]
    if left <= 0 or len(recent) < LEAST_NIGHTS:
        return None
    days = max((recent[-1].started_at - recent[0].started_at) / timedelta(days=1), 1.0) / max(len(recent) - 1, 1)
    slow, _, fast = quantiles((night.arrivals for night in recent), n=4)
    if slow <= 0:
        return None
    soonest, latest = (now + timedelta(days=min(left / rate * days, 36_500)) for rate in (fast, slow))
    usual = round(median(night.arrivals for night in recent))
    return Forecast(soonest, latest, objects_a_night=usual, nights=len(recent))
