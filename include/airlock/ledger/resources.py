"""The FHIR resources of each HealthLake data store: the imported content, and the claim of a run on the next content.

An import overwrites a resource of the same id, so two runs must not import one resource at the same time: a run claims
a resource before its import. The claim ends when the import is recorded, or when the run gives the claim up. Resources
whose content the ledger does not know are in ``airlock.ledger.open_resources``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, delete, exists, null, or_, select, update

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.arrivals import is_settled, need_held
from airlock.ledger.clock import database_time
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch, fetch_frames, insert_missing, select_schema, stage
from airlock.ledger.journal import journaled
from airlock.ledger.open_resources import doubted_since, is_staged, is_unproven, keep_clocks, scope, unknown_contents
from airlock.ledger.parked import is_coming, mark_released
from airlock.ledger.runs import AUDITED, need_run
from airlock.ledger.tables import arrivals, jobs, resources, runs
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from polars._typing import PolarsDataType
    from sqlalchemy import Column, ColumnElement, Connection, Select, Table

    Frames = pl.DataFrame | Iterable[pl.DataFrame]

CLAIMS = pl.Schema(
    {
        "arrival_id": pl.String,  # null for a resource that Airlock itself has built
        "resource_type": pl.String,
        "resource_id": pl.String,
        "content_digest": pl.String,
        "clock": pl.String,  # of `stages.content_order`; null for a resource that Airlock itself has built
        "patient": pl.String,  # Patient/<id>
    }
)
CLAIMED = pl.Schema({"resource_type": pl.String, "resource_id": pl.String, "claimed_by": pl.String})
# Claims that a run did not get: of another run's, or by the order of contents, with the reason.
REFUSED = schema(CLAIMED, {"reason": pl.String, "detail": pl.String})
_FILE: dict[str, PolarsDataType] = {"bucket": pl.String, "key": pl.String, "last_modified": TIMESTAMP}
_KNOWN = schema({"known_digest": pl.String, "known_clock": pl.String}, _FILE)
CONTENTS = schema({"resource_type": pl.String, "resource_id": pl.String}, _KNOWN)
CONTESTED = schema(CLAIMS, _KNOWN)
KNOWN = pl.Schema(
    {"resource_type": pl.String, "resource_id": pl.String, "content_digest": pl.String, "run_key": pl.String}
)
IMPORTS = pl.Schema(
    dict.fromkeys(("arrival_id", "resource_type", "resource_id", "content_digest", "batch_id"), pl.String)
)
BROUGHT = schema(
    dict.fromkeys(("resource_type", "resource_id", "content_digest"), pl.String), _FILE, {"disposition": pl.String}
)
CONFIRMED = pl.Schema(
    dict.fromkeys(("resource_type", "resource_id", "content_digest", "clock", "known_clock"), pl.String)
)

_RESOURCE = ("resource_id", "resource_type")
_RESOURCES = pl.Schema(dict.fromkeys(_RESOURCE, pl.String))
_KEY = (*_RESOURCE, "datastore_id")
_CLAIM = {"arrival_id": "claimed_arrival_id", "content_digest": "claimed_digest", "clock": "claimed_clock"}
_CLAIM_ROWS = pl.Schema({_CLAIM.get(name, name): pl.String for name in CLAIMS})
_NO_CLAIM = dict.fromkeys(("claimed_by", *_CLAIM.values()))


def _exists_staged(rows: Table, datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that a resource is staged, for statements without another use of the staged rows."""
    return exists(select(rows.c.resource_id).where(is_staged(rows, datastore_id)))


def _is_superseded_claim() -> ColumnElement[bool]:
    """Return the condition that a claim is of a settled arrival that a redrive has superseded."""
    return exists().where(
        arrival_states.c.arrival_id == resources.c.claimed_arrival_id,
        arrival_states.c.run_key == resources.c.claimed_by,
        arrival_states.c.superseded_by.is_not(None),
        arrival_states.c.settled_at.is_not(None),
    )


def _select_contents(rows: Table, datastore_id: str, except_run: str | None, *more: Column[str]) -> list[Select[Any]]:
    """Return queries for the contents (`_KNOWN`) of staged resources that are, or may be, in a data store.

    Parameters
    ----------
    rows, datastore_id
        The staged resources and the data store.
    except_run
        A run whose own imports are omitted.
    more
        The first columns of the result.
    """
    file = and_(arrivals.c.arrival_id == resources.c.arrival_id, arrivals.c.pipeline == resources.c.pipeline)
    found = resources.c.content_digest, resources.c.clock, *(arrivals.c[name] for name in _FILE)
    known = select(*more, *found).select_from(rows.join(resources, is_staged(rows, datastore_id)))
    statement = known.outerjoin(arrivals, file).where(resources.c.content_digest.is_not(None))
    if except_run is not None:
        statement = statement.where(resources.c.run_key != except_run)
    return [statement, unknown_contents(rows, datastore_id, except_run, *more)]


def _refuse_older(
    connection: Connection, rows: Table, datastore_id: str, run_key: str, judge: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.DataFrame:
    """Take the staged claims away that the order of contents does not allow, and return them (`REFUSED`)."""
    own = [rows.c[_CLAIM.get(name, name)] for name in CLAIMS]
    refused = REFUSED.to_frame()
    statements = _select_contents(rows, datastore_id, run_key, *own)
    for contested in (frame for statement in statements for frame in fetch_frames(connection, statement, CONTESTED)):
        found = judge(contested).with_columns(claimed_by=pl.lit(None, pl.String))
        refused.extend(select_schema(found, REFUSED))
    if refused.height:
        late = stage(connection, refused.select(_RESOURCE).unique(), _RESOURCES, _RESOURCE)
        is_late = exists().where(*(late.c[name] == rows.c[name] for name in _RESOURCE))
        connection.execute(delete(rows).where(is_late))
    return refused.unique(_RESOURCE, keep="first", maintain_order=True)


def _stage_resources(connection: Connection, keys: Frames) -> Table:
    wanted = (select_schema(rows, _RESOURCES).unique() for rows in _frames(keys))
    return stage(connection, wanted, _RESOURCES, _RESOURCE)


def _frames(rows: Frames) -> Iterable[pl.DataFrame]:
    return (rows,) if isinstance(rows, pl.DataFrame) else rows


def _need_arrivals(connection: Connection, pipeline: str, run_key: str, arrival_ids: Column[str]) -> None:
    """Check that the run holds the arrivals of these staged resources."""
    files = select(arrival_ids.label("arrival_id")).where(arrival_ids.is_not(None)).distinct().subquery()
    need_held(connection, pipeline, run_key, files)


def _has_unsettled(connection: Connection, pipeline: str, run_key: str) -> bool:
    held = and_(arrivals.c.run_key == run_key, arrivals.c.pipeline == pipeline)
    return bool(connection.scalar(select(exists().where(held, ~is_settled(arrivals)))))


def end_claims(connection: Connection, claims: ColumnElement[bool]) -> int:
    """End the claims for which a condition holds, and return their number; imported content stays recorded."""
    unknown = connection.execute(delete(resources).where(claims, resources.c.content_digest.is_(None)))
    known = connection.execute(update(resources).where(claims).values(_NO_CLAIM))
    return unknown.rowcount + known.rowcount


def _shape_imports(imported: pl.DataFrame) -> pl.DataFrame:
    frame = select_schema(imported, IMPORTS)
    doubled = frame.height - frame.select(_RESOURCE).n_unique()
    if doubled:
        raise LedgerError(f"{doubled} imports name a resource that another import names: give one per resource")
    undescribed = frame["content_digest"].null_count()
    if undescribed:
        raise LedgerError(f"{undescribed} imports have no content_digest: give the digest of the sent resource")
    return frame


class Resources(Store):
    """The ledger's methods about FHIR resources; they ignore extra columns of the given frames."""

    @journaled(without="judge", result="refused")
    def claim_resources(
        self,
        datastore_id: str,
        pipeline: str,
        run_key: str,
        claims: Frames,
        judge: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> pl.DataFrame:
        """Claim for a run the resources that no other run claims and of which no newer content is there.

        A claim of a held arrival that a redrive has superseded no longer counts.

        The run's earlier claims that are not repeated end. So a rerun has the same result, and a rerun with other
        verdicts keeps no claim that it does not need.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        pipeline, run_key
            The run that holds the arrivals.
        claims
            `CLAIMS`, in one frame or frame by frame; of several in a frame with one resource the first counts, and no
            two frames have the same.
        judge
            Gets claims with other content in the data store (`CONTESTED`), and returns those that the order of
            contents does not allow, as `REFUSED`. Other writers wait for it. Without it the order is not asked.

        Returns
        -------
        polars.DataFrame
            `REFUSED`: the resources that another run claims, or that are older than what is there.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals. Nothing is written.
        """
        wanted = (
            select_schema(rows, CLAIMS).unique(_RESOURCE, keep="first", maintain_order=True).rename(_CLAIM)
            for rows in _frames(claims)
        )
        with self._writing(scope(datastore_id)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, wanted, _CLAIM_ROWS, _RESOURCE)
            _need_arrivals(connection, pipeline, run_key, rows.c.claimed_arrival_id)
            older = REFUSED.to_frame()
            if judge is not None:
                older = _refuse_older(connection, rows, datastore_id, run_key, judge)
            among, ours = is_staged(rows, datastore_id), resources.c.claimed_by == run_key
            here = resources.c.datastore_id == datastore_id
            end_claims(connection, and_(ours, here, ~_exists_staged(rows, datastore_id)))
            values = {name: rows.c[name] for name in (*_CLAIM.values(), "patient")} | {"claimed_by": run_key}
            free = or_(resources.c.claimed_by.is_(None), _is_superseded_claim())
            connection.execute(update(resources).where(among, or_(free, ours)).values(values))
            insert_missing(connection, resources, rows, _KEY, datastore_id=datastore_id, claimed_by=run_key)
            others = select(*(resources.c[name] for name in CLAIMED)).where(among, ~ours)
            return pl.concat([fetch(connection, others, CLAIMED), older], how="diagonal").sort(_RESOURCE)

    def claimed_resources(self, datastore_id: str, keys: Frames) -> pl.DataFrame:
        """Return the claims of any run on these resources, without claiming.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        keys
            The resources: columns ``resource_type``, ``resource_id``; one frame in the methods below.

        Returns
        -------
        polars.DataFrame
            `CLAIMED`.
        """
        with self._reading() as connection:
            rows = _stage_resources(connection, keys)
            held = and_(is_staged(rows, datastore_id), resources.c.claimed_by.is_not(None))
            return fetch(connection, select(*(resources.c[name] for name in CLAIMED)).where(held), CLAIMED).sort(
                _RESOURCE
            )

    def has_claims(self, datastore_id: str, except_run: str) -> bool:
        """Return whether another run claims a resource of a data store."""
        others = resources.c.claimed_by.is_not(None), resources.c.claimed_by != except_run
        with self._reading() as connection:
            return bool(connection.scalar(select(exists().where(resources.c.datastore_id == datastore_id, *others))))

    def has_undecided_run(self, datastore_id: str, pipeline: str, except_run: str) -> bool:
        """Return whether another run of a pipeline has unsettled arrivals, but neither claims on resources nor jobs."""
        of_others = and_(runs.c.pipeline == pipeline, runs.c.run_key != except_run, runs.c.state != AUDITED)
        claims = exists().where(resources.c.claimed_by == runs.c.run_key, resources.c.datastore_id == datastore_id)
        begun = exists().where(jobs.c.run_key == runs.c.run_key)
        with self._reading() as connection:
            found = connection.scalars(select(runs.c.run_key).where(of_others, ~claims, ~begun)).all()
            return any(_has_unsettled(connection, pipeline, run_key) for run_key in found)

    def known_resources(self, datastore_id: str, keys: pl.DataFrame, except_run: str | None = None) -> pl.DataFrame:
        """Return which of these resources are in a data store, and the digest of their content.

        Parameters
        ----------
        datastore_id, keys
            The HealthLake data store and the resources.
        except_run
            A run whose own imports are omitted, so that its rerun does not take them for another run's.

        Returns
        -------
        polars.DataFrame
            `KNOWN`, no row for a resource that was never imported.
        """
        with self._reading() as connection:
            rows = _stage_resources(connection, keys)
            statement = select(*(resources.c[name] for name in KNOWN)).where(
                is_staged(rows, datastore_id), resources.c.content_digest.is_not(None)
            )
            if except_run is not None:
                statement = statement.where(resources.c.run_key != except_run)
            return fetch(connection, statement, KNOWN).sort(_RESOURCE)

    def find_coming(self, datastore_id: str, pipeline: str, run_key: str, keys: pl.DataFrame) -> pl.DataFrame:
        """Return those of these resources that are about to come in, or are there by now.

        They are claimed by another run, or parked, and then due for the pipeline's next run or taken in by another run.

        Parameters
        ----------
        datastore_id, keys
            The HealthLake data store and the resources.
        pipeline, run_key
            The run that asks.

        Returns
        -------
        polars.DataFrame
            Columns ``resource_id``, ``resource_type``.
        """
        with self._reading() as connection:
            rows = _stage_resources(connection, keys)
            names = select(*(rows.c[name] for name in _RESOURCE))
            stored = names.join_from(rows, resources, is_staged(rows, datastore_id))
            claimed = stored.where(resources.c.claimed_by != run_key)
            waiting = names.where(is_coming(rows, datastore_id, pipeline, run_key))
            # In the order in which a resource comes: what has moved on since a question is found by a later one.
            in_turn = (waiting, claimed, stored.where(resources.c.content_digest.is_not(None)))
            return pl.concat([fetch(connection, one, _RESOURCES) for one in in_turn]).unique()

    def contents_of(
        self, datastore_id: str, keys: pl.DataFrame, except_run: str | None = None, *, released: bool = False
    ) -> pl.DataFrame:
        """Return the contents of these resources that are in a data store, or may be, with their clocks.

        Parameters
        ----------
        datastore_id, keys
            The HealthLake data store and the resources.
        except_run
            A run whose own imports are omitted.
        released
            Whether contents that their run holds or doubts are omitted.

        Returns
        -------
        polars.DataFrame
            `CONTENTS`. A content without a clock was recorded before schema 0012, or is one that Airlock has built.
        """
        with self._reading() as connection:
            rows = _stage_resources(connection, keys)
            own = (rows.c.resource_type, rows.c.resource_id)
            imported, unknown = _select_contents(rows, datastore_id, except_run, *own)
            asked = [imported.where(~is_unproven(rows, datastore_id))] if released else [imported, unknown]
            return pl.concat([fetch(connection, one, CONTENTS) for one in asked]).sort(_RESOURCE)

    def database_time(self) -> datetime:
        """Return the database's present time."""
        with self._reading() as connection:
            return database_time(connection)

    @journaled()
    def confirm_contents(self, datastore_id: str, rows: pl.DataFrame) -> int:
        """Advance the clocks of contents that a newer file has brought unchanged; return their number.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        rows
            `CONFIRMED`: the contents with their new clocks. One that has changed since, or has another clock than
            ``known_clock``, stays as it is.
        """
        with self._writing(scope(datastore_id)) as connection:
            staged = stage(connection, select_schema(rows, CONFIRMED).unique(_RESOURCE), CONFIRMED, _RESOURCE)
            is_same = and_(
                is_staged(staged, datastore_id),
                resources.c.content_digest == staged.c.content_digest,
                resources.c.clock.is_not_distinct_from(staged.c.known_clock),
            )
            return connection.execute(update(resources).where(is_same).values(clock=staged.c.clock)).rowcount

    def brought_by(self, datastore_id: str, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the files from which the content of these resources in a data store was imported.

        Parameters
        ----------
        datastore_id, keys
            The HealthLake data store and the resources.

        Returns
        -------
        polars.DataFrame
            `BROUGHT`, no row for a resource that was not imported from a file.
        """
        columns: dict[str, ColumnElement[Any]] = {**dict(arrival_states.c.items()), **dict(resources.c.items())}
        same = arrival_states.c.arrival_id == resources.c.arrival_id
        file = and_(same, arrival_states.c.pipeline == resources.c.pipeline)
        with self._reading() as connection:
            rows = _stage_resources(connection, keys)
            brought = select(*(columns[name] for name in BROUGHT)).join_from(resources, arrival_states, file)
            statement = brought.where(_exists_staged(rows, datastore_id), resources.c.content_digest.is_not(None))
            return fetch(connection, statement, BROUGHT).sort(_RESOURCE)

    @journaled()
    def record_imported_resources(
        self, datastore_id: str, run_key: str, rows: Frames, *, keep_claims: bool = False
    ) -> None:
        """Record what an import brought into a data store; the run's claims on it end, and what waited for it is due.

        If the run has no claim on a resource and another run has imported content, that content is later and stays. So
        a second audit of an older run overwrites nothing, not even what a later run is in doubt about.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        rows
            `IMPORTS`, one row per resource, in one frame or frame by frame.
        keep_claims
            Whether the claims stay, so that no other run brings content until `drop_resource_claims`.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals, or a resource is given twice or without a digest. Nothing is
            written.
        """
        frames = map(_shape_imports, _frames(rows))
        with self._writing(scope(datastore_id)) as connection:
            pipeline = need_run(connection, run_key).pipeline
            staged = stage(connection, frames, IMPORTS, _RESOURCE)
            _need_arrivals(connection, pipeline, run_key, staged.c.arrival_id)
            facts = {"run_key": run_key, "pipeline": pipeline}
            ours = resources.c.claimed_by == run_key
            superseded = and_(resources.c.content_digest.is_not(None), resources.c.run_key != run_key)
            values: dict[str, Any] = {name: staged.c[name] for name in ("content_digest", "arrival_id", "batch_id")}
            ended = {name: case((ours, null()), else_=resources.c[name]) for name in _NO_CLAIM}
            values |= facts | ({} if keep_claims else ended)
            values["clock"] = case((ours, resources.c.claimed_clock), else_=resources.c.clock)
            unknown = doubted_since(staged, datastore_id, run_key)
            own = and_(is_staged(staged, datastore_id), or_(ours, and_(~superseded, ~unknown)))
            connection.execute(update(resources).where(own).values(values))
            certain = select(staged).where(~unknown).subquery()
            insert_missing(connection, resources, certain, _KEY, datastore_id=datastore_id, **facts)
            mark_released(connection, datastore_id, staged)

    @journaled()
    def forget_resources(self, datastore_id: str, run_key: str, keys: Frames) -> int:
        """Forget resources that a run may have imported without proof, so that the next content is imported again.

        They are in doubt from then on, and keep their clocks. What waits for them is due: the data store may have them.

        Content that the data store held before is forgotten too: the run may have overwritten it.

        Parameters
        ----------
        datastore_id, run_key, keys
            The data store, the run and the resources; those that other runs claim or have imported since stay.

        Returns
        -------
        int
            The number of forgotten resources.
        """
        brought = and_(resources.c.claimed_by.is_(None), resources.c.run_key == run_key)
        with self._writing(scope(datastore_id)) as connection:
            rows = _stage_resources(connection, keys)
            forgotten = and_(or_(resources.c.claimed_by == run_key, brought), _exists_staged(rows, datastore_id))
            keep_clocks(connection, forgotten, run_key, need_run(connection, run_key).pipeline)
            number = connection.execute(delete(resources).where(forgotten)).rowcount
            mark_released(connection, datastore_id, rows)
            return number

    @journaled()
    def drop_resource_claims(self, datastore_id: str, run_key: str, keys: Frames) -> int:
        """End a run's claims on resources that its jobs did not import, so that a later delivery can bring them.

        Parameters
        ----------
        datastore_id, run_key, keys
            The data store, the run and the resources; claims of other runs stay.

        Returns
        -------
        int
            The number of ended claims.
        """
        with self._writing(scope(datastore_id)) as connection:
            rows = _stage_resources(connection, keys)
            return end_claims(connection, and_(resources.c.claimed_by == run_key, _exists_staged(rows, datastore_id)))
