"""The nights of pipelines in numbers, for people: from the totals of runs, never from their arrivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select

from airlock.ledger.database import Store
from airlock.ledger.lookup import is_held
from airlock.ledger.runs import AUDITED, NOT_BEGUN, RunRecord, record
from airlock.ledger.tables import arrivals, gates, owed, parked, redrives, run_totals, runs, successors, words
from airlock.ledger.words import latest_word

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

MOST_PARKED = 100_000  # rows that a page counts


@dataclass(frozen=True)
class Total:
    """How many arrivals of a site have a disposition and a reason at present, whatever run decided."""

    pipeline: str
    site: str
    disposition: str
    reason: str | None
    arrivals: int
    bytes: int
    since: datetime  # when a run first decided so, of this site


@dataclass(frozen=True)
class NightTotal:
    """How many arrivals of a run have a disposition and a reason, by site."""

    pipeline: str
    run_key: str
    started_at: datetime
    window_start: datetime | None
    site: str
    disposition: str
    reason: str | None
    arrivals: int
    bytes: int


@dataclass(frozen=True)
class WindowTotal:
    """How many arrivals of runs whose windows begin at the same moment have a disposition, by site."""

    pipeline: str
    window_start: datetime
    site: str
    disposition: str
    arrivals: int
    bytes: int


@dataclass(frozen=True)
class HeldNow:
    """The studies, patients and files of a pipeline that are held now."""

    pipeline: str
    subjects: int
    since: datetime  # when the oldest hold was decided


@dataclass(frozen=True)
class Owed:
    """The objects that a pipeline's runs could not take."""

    pipeline: str
    objects: int
    since: datetime


@dataclass(frozen=True)
class ParkedNow:
    """The resources of a pipeline and type that wait for one which is not there yet."""

    pipeline: str
    resource_type: str
    resources: int
    since: datetime  # when the oldest was parked


class Nights(Store):
    """The ledger's methods about pipelines and their nights."""

    def latest_runs(self, pipelines: Collection[str]) -> list[RunRecord]:
        """Return of each pipeline the run that began last, and the last one with a report if that is another one.

        They are sorted by pipeline, the latest first. Redrives do not count: what they take is of other nights.
        """
        deliveries = runs.c.run_key.not_in(select(redrives.c.run_key))
        begun = runs.c.pipeline.in_(pipelines), runs.c.state.not_in(NOT_BEGUN), deliveries
        newest = select(runs.c.pipeline, func.max(runs.c.started_at).label("at")).group_by(runs.c.pipeline)
        last = newest.where(*begun).subquery("last")
        reported = newest.where(*begun, runs.c.report.is_not(None)).subquery("reported")
        is_last, is_reported = (
            and_(one.c.pipeline == runs.c.pipeline, one.c.at == runs.c.started_at) for one in (last, reported)
        )
        statement = (
            select(runs)
            .outerjoin(last, is_last)
            .outerjoin(reported, is_reported)
            .where(or_(last.c.at.is_not(None), reported.c.at.is_not(None)), *begun)
            .order_by(runs.c.pipeline, runs.c.started_at.desc(), runs.c.run_key)
        )
        with self._reading() as connection:
            return [record(row) for row in connection.execute(statement)]

    def present_totals(self, pipelines: Collection[str]) -> list[Total]:
        """Return what these pipelines' arrivals have become, as it counts now, by site, disposition and reason.

        An arrival that a redrive or a later object has replaced does not count any more.
        """
        groups = run_totals.c.pipeline, run_totals.c.site, run_totals.c.disposition, run_totals.c.reason
        sums = func.sum(run_totals.c.arrivals), func.sum(run_totals.c.bytes), func.min(run_totals.c.said_at)
        counted = select(*groups, *sums).where(run_totals.c.pipeline.in_(pipelines)).group_by(*groups)
        with self._reading() as connection:
            rows = list(connection.execute(counted))
            gone = {tuple(row[:4]): tuple(row[4:]) for row in connection.execute(_count_superseded(pipelines))}
        return [
            total for row in rows if (total := _subtract(tuple(row), gone.get(tuple(row[:4]), (0, 0)))).arrivals > 0
        ]

    def nightly_totals(self, pipelines: Collection[str], since: datetime) -> list[NightTotal]:
        """Return what became of the arrivals of each run since then, by site, disposition and reason; the oldest first.

        Redrives do not count: they have only what was bad before.
        """
        own = and_(runs.c.run_key == run_totals.c.run_key, runs.c.started_at >= since)
        of_run = run_totals.c.pipeline, run_totals.c.run_key, runs.c.started_at, runs.c.window_start
        groups = *of_run, run_totals.c.site, run_totals.c.disposition, run_totals.c.reason
        statement = (
            select(*groups, func.sum(run_totals.c.arrivals), func.sum(run_totals.c.bytes))
            .join_from(run_totals, runs, own)
            .where(
                run_totals.c.pipeline.in_(pipelines),
                run_totals.c.said_at >= since,  # by the index; a word is said after its run has started
                run_totals.c.run_key.not_in(select(redrives.c.run_key)),
            )
            .group_by(*groups)
            .order_by(runs.c.started_at, *groups[4:])
        )
        with self._reading() as connection:
            return [NightTotal(*map(_as_integer, row)) for row in connection.execute(statement)]

    def totals_by_window(self, pipelines: Collection[str]) -> list[WindowTotal]:
        """Return what became of the arrivals of all runs with a window, by its start, site and disposition."""
        own = and_(runs.c.run_key == run_totals.c.run_key, runs.c.window_start.is_not(None))
        groups = runs.c.pipeline, runs.c.window_start, run_totals.c.site, run_totals.c.disposition
        sums = func.sum(run_totals.c.arrivals), func.sum(run_totals.c.bytes)
        statement = (
            select(*groups, *sums)
            .join_from(run_totals, runs, own)
            .where(run_totals.c.pipeline.in_(pipelines))
            .group_by(*groups)
            .order_by(*groups)
        )
        with self._reading() as connection:
            return [WindowTotal(*map(_as_integer, row)) for row in connection.execute(statement)]

    def undecided_now(self, pipelines: Collection[str]) -> set[str]:
        """Return those of these pipelines of which a run holds arrivals and has not decided on all of them.

        Such a run is not audited, or its books do not balance; its arrivals are not read, only whether there is one:
        the limit has PostgreSQL look each run up in the index, where it would join all arrivals of the pipeline.
        """
        first = select(arrivals.c.run_key).where(arrivals.c.run_key == runs.c.run_key).limit(1).scalar_subquery()
        of_open_runs = runs.c.pipeline.in_(pipelines), runs.c.state != AUDITED
        with self._reading() as connection:
            return set(connection.scalars(select(runs.c.pipeline).where(*of_open_runs, first.is_not(None))))

    def held_now(self, pipelines: Collection[str]) -> list[HeldNow]:
        """Count the subjects of each pipeline that are held now, by the index of the gates that hold."""
        statement = (
            select(runs.c.pipeline, func.count(gates.c.subject.distinct()), func.min(gates.c.decided_at))
            .join_from(gates, runs, runs.c.run_key == gates.c.run_key)
            .where(is_held(), runs.c.pipeline.in_(pipelines))
            .group_by(runs.c.pipeline)
        )
        with self._reading() as connection:
            return [HeldNow(*row) for row in connection.execute(statement)]

    def owed_now(self, pipelines: Collection[str]) -> list[Owed]:
        """Count the objects that runs of these pipelines could not take and that no run has taken since."""
        statement = (
            select(owed.c.pipeline, func.count(), func.min(owed.c.since))
            .where(owed.c.pipeline.in_(pipelines), owed.c.taken_by.is_(None))
            .group_by(owed.c.pipeline)
        )
        with self._reading() as connection:
            return [Owed(*row) for row in connection.execute(statement)]

    def parked_now(self, pipelines: Collection[str]) -> list[ParkedNow]:
        """Count the parked resources of these pipelines by type, of all of them at most `MOST_PARKED` rows."""
        columns = parked.c.pipeline, parked.c.resource_type, parked.c.arrival_id, parked.c.line, parked.c.parked_at
        own = select(*columns).where(parked.c.pipeline.in_(pipelines)).limit(MOST_PARKED).subquery()
        units = select(own).distinct().subquery()  # a resource that waits for two has two rows
        groups = units.c.pipeline, units.c.resource_type
        since = func.min(units.c.parked_at, type_=parked.c.parked_at.type)
        statement = select(*groups, func.count(), since).group_by(*groups).order_by(*groups)
        with self._reading() as connection:
            return [ParkedNow(*row) for row in connection.execute(statement)]


def _count_superseded(pipelines: Collection[str]) -> Any:
    """Return the query for the arrivals that count no longer, by the columns of `Total`."""
    own = and_(arrivals.c.arrival_id == successors.c.arrival_id, arrivals.c.pipeline == successors.c.pipeline)
    said = and_(words.c.arrival_id == successors.c.arrival_id, words.c.pipeline == successors.c.pipeline)
    groups = successors.c.pipeline, arrivals.c.site, words.c.disposition, words.c.reason
    return (
        select(*groups, func.count(), func.sum(arrivals.c.size))
        .join_from(successors, arrivals, own)
        .join(words, said)
        .where(successors.c.superseded_by.is_not(None), successors.c.pipeline.in_(pipelines), latest_word())
        .group_by(*groups)
    )


def _subtract(row: Sequence[Any], gone: tuple[Any, ...]) -> Total:
    number, size, since = row[4:]
    pipeline, site, disposition, reason = row[:4]
    left = int(number) - int(gone[0]), int(size) - int(gone[1])
    return Total(pipeline, site, disposition, reason, *left, since)


def _as_integer(value: Any) -> Any:
    """Return a sum of PostgreSQL, a Decimal, as a whole number."""
    return int(value) if hasattr(value, "to_integral_value") else value


def by_run(totals: Collection[NightTotal]) -> Iterator[list[NightTotal]]:
    """Yield the totals of each run, in the order of the runs' starts."""
    runs_totals: dict[str, list[NightTotal]] = {}
    for total in totals:
        runs_totals.setdefault(total.run_key, []).append(total)
    yield from runs_totals.values()
