"""The SOP instances of each data store: the arrival that owns each one, and the state of its import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import Connection, Table, and_, delete, exists, func, or_, select, update

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.arrivals import need_held
from airlock.ledger.columns import InstanceState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import (
    fetch,
    forbid_plans,
    index_staged,
    insert_missing,
    number_rows,
    select_schema,
    stage,
    stage_values,
)
from airlock.ledger.journal import journaled
from airlock.ledger.redrives import is_redrive
from airlock.ledger.runs import need_run
from airlock.ledger.studies import insert_elements
from airlock.ledger.tables import arrivals, instances, successors
from airlock.records import Disposition, Verdict
from airlock.records import schema as schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, FromClause, Select, Subquery

SCOPE = "instances"

OWNERS = pl.Schema(
    {
        "SOPInstanceUID": pl.String,
        "SeriesInstanceUID": pl.String,
        "StudyInstanceUID": pl.String,
        "arrival_id": pl.String,  # of the owner, as all columns below
        "bucket": pl.String,
        "key": pl.String,
        "etag": pl.String,
        "size": pl.Int64,
        "run_key": pl.String,
        "state": pl.String,  # an InstanceState
    }
)

CLAIMS = pl.Schema(
    {
        "arrival_id": pl.String,
        "SOPInstanceUID": pl.String,
        "SeriesInstanceUID": pl.String,
        "StudyInstanceUID": pl.String,
    }
)

IMPORTS = pl.Schema(
    {
        "arrival_id": pl.String,
        "SOPInstanceUID": pl.String,
        "SeriesInstanceUID": pl.String,
        "StudyInstanceUID": pl.String,
        "state": pl.String,
        "image_set_id": pl.String,
        "image_set_version": pl.Int64,
        "batch_id": pl.String,
    }
)

_NUMBERED_CLAIMS = schema_of(CLAIMS, {"position": pl.Int64})
_KEY = ("datastore_id", "SOPInstanceUID")
_SOPS = pl.Schema({"SOPInstanceUID": pl.String})
_ARRIVAL = and_(arrivals.c.pipeline == instances.c.pipeline, arrivals.c.arrival_id == instances.c.arrival_id)
_COLUMNS: dict[str, ColumnElement[Any]] = {**dict(arrivals.c.items()), **dict(instances.c.items())}


def _select_with_arrivals(schema: pl.Schema, rows: FromClause, on: str) -> Select[Any]:
    """Return the query for a schema's columns of the instances that staged rows name, and of their arrivals."""
    return (
        select(*(_COLUMNS[name] for name in schema))
        .join_from(instances, arrivals, _ARRIVAL)
        .join(rows, instances.c[on] == rows.c[on])
    )


def _find_known(connection: Connection, rows: Table, in_store: ColumnElement[bool]) -> pl.DataFrame:
    """Return the staged instances that are in a data store; usually they are few.

    From a staged table the database knows their number. Otherwise it would read the arrivals of the whole data store.
    """
    named = exists().where(instances.c.SOPInstanceUID == rows.c.SOPInstanceUID, in_store)
    return fetch(connection, select(rows.c.SOPInstanceUID).where(named), _SOPS)


def _find_other_owners(connection: Connection, datastore_id: str, pipeline: str, rows: FromClause) -> pl.DataFrame:
    other = or_(instances.c.pipeline != pipeline, instances.c.arrival_id != rows.c.arrival_id)
    before = arrival_states.alias("before")
    inherited = exists().where(
        before.c.arrival_id == rows.c.arrival_id,
        before.c.pipeline == instances.c.pipeline,
        before.c.superseded_by == instances.c.arrival_id,
    )
    other = and_(other, ~inherited)
    statement = _select_with_arrivals(OWNERS, rows, "SOPInstanceUID").where(
        instances.c.datastore_id == datastore_id, other
    )
    return fetch(connection, statement, OWNERS).sort("SOPInstanceUID", "arrival_id")


def superseded_in(run_key: str) -> ColumnElement[bool]:
    """Return the condition that a run redrives the owning arrival, which then gives its instance up to that run."""
    successor = arrivals.alias("successor")
    return exists().where(
        successors.c.arrival_id == arrivals.c.arrival_id,
        successors.c.pipeline == arrivals.c.pipeline,
        successor.c.arrival_id == successors.c.superseded_by,
        successor.c.pipeline == arrivals.c.pipeline,
        successor.c.run_key == run_key,
    )


def _stage_claims(connection: Connection, claims: pl.DataFrame | Iterable[pl.DataFrame]) -> Table:
    """Stage claims with their positions, so that the database knows the first of several claims on one instance."""
    frames = (claims,) if isinstance(claims, pl.DataFrame) else claims
    shaped = (select_schema(frame, CLAIMS) for frame in frames)
    return stage(connection, number_rows(shaped), _NUMBERED_CLAIMS, ["SOPInstanceUID", "arrival_id"])


def _select_accepted(verdicts: Table) -> Subquery:
    """Return the claims of accepted arrivals among staged verdicts (`words.Words.stage_verdicts`)."""
    columns = (verdicts.c[instances.c[name].name].label(name) for name in CLAIMS)
    return select(*columns, verdicts.c.position).where(verdicts.c.verdict == Verdict.ACCEPT.value).subquery()


def _insert_claims(connection: Connection, datastore_id: str, pipeline: str, rows: FromClause) -> bool:
    """Insert the claims on instances without an owner, and return whether those are all claims.

    Of several arrivals with one instance the first becomes its owner. If no two arrivals have the same instance, the
    claims are inserted in the order of their arrivals: the foreign key then looks up neighbours in the same pages.
    """
    number, distinct = _count_staged(connection, rows)
    order = "arrival_id" if number == distinct else "position"
    constants = {"datastore_id": datastore_id, "pipeline": pipeline, "state": InstanceState.CLAIMED.value}
    return insert_missing(connection, instances, rows, _KEY, order=[order], **constants) == number


def _count_staged(connection: Connection, rows: FromClause) -> tuple[int, int]:
    """Return the number of staged rows, and the number of instances that they name."""
    counted = select(func.count(), func.count(rows.c.SOPInstanceUID.distinct())).select_from(rows)
    number, distinct = connection.execute(counted).one()
    return int(number), int(distinct)


def _transfer_to_successors(connection: Connection, datastore_id: str, pipeline: str, rows: FromClause) -> None:
    """Transfer instances from superseded arrivals to their staged successors; the stored data is untouched."""
    before = arrival_states.alias("before")
    replaced = and_(
        instances.c.datastore_id == datastore_id,
        instances.c.pipeline == pipeline,
        instances.c.SOPInstanceUID == rows.c.SOPInstanceUID,
        before.c.arrival_id == instances.c.arrival_id,
        before.c.pipeline == pipeline,
        before.c.superseded_by == rows.c.arrival_id,
    )
    connection.execute(update(instances).where(replaced).values(arrival_id=rows.c.arrival_id))


def return_to_predecessors(connection: Connection, owned: ColumnElement[bool]) -> int:
    """Return stored instances to the held arrivals that were superseded by their owners; return their number."""
    before = arrival_states.alias("before")
    theirs = and_(
        instances.c.state != InstanceState.CLAIMED,
        before.c.pipeline == instances.c.pipeline,
        before.c.superseded_by == instances.c.arrival_id,
        before.c.sop_instance_uid == instances.c.SOPInstanceUID,
        before.c.disposition == Disposition.HELD.value,
    )
    return connection.execute(update(instances).where(owned, theirs).values(arrival_id=before.c.arrival_id)).rowcount


def _drop_other_claims(
    connection: Connection, datastore_id: str, pipeline: str, run_key: str, rows: FromClause
) -> None:
    """Drop a run's claims that are not staged: a rerun has decided otherwise on their arrivals."""
    held = select(arrivals.c.arrival_id).where(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key)
    again = exists().where(
        rows.c.arrival_id == instances.c.arrival_id, rows.c.SOPInstanceUID == instances.c.SOPInstanceUID
    )
    claimed = and_(
        instances.c.datastore_id == datastore_id,
        instances.c.pipeline == pipeline,
        instances.c.state == InstanceState.CLAIMED,
    )
    connection.execute(delete(instances).where(claimed, instances.c.arrival_id.in_(held), ~again))


def _shape_imports(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the outcomes in the schema `IMPORTS`.

    Raises
    ------
    LedgerError
        If a state is not one in which an import ends.
    """
    frame = select_schema(outcomes, IMPORTS)
    ends = [InstanceState.IMPORTED, InstanceState.NON_PRIMARY]
    unknown = frame.filter(~pl.col("state").is_in(ends).fill_null(value=False)).height
    if unknown:
        raise LedgerError(f"{unknown} outcomes have no state of an import: use one of {', '.join(ends)}")
    return frame


def _need_one_outcome_each(connection: Connection, rows: Table) -> None:
    """Check that no two staged rows name one instance.

    Raises
    ------
    LedgerError
        If some do; the text has the number of repetitions.
    """
    number, distinct = _count_staged(connection, rows)
    if number > distinct:
        raise LedgerError(
            f"{number - distinct} outcomes name an instance that another outcome names: give one per instance"
        )


def _write_imported(connection: Connection, datastore_id: str, pipeline: str, rows: Table) -> int:
    """Write the staged outcomes to the instances that their arrivals own, and return the number of these instances."""
    own = and_(
        instances.c.datastore_id == datastore_id,
        instances.c.pipeline == pipeline,
        instances.c.arrival_id == rows.c.arrival_id,  # joined on: claims are usually stored in the order of arrivals
        instances.c.SOPInstanceUID.is_not_distinct_from(rows.c.SOPInstanceUID),
    )
    values = {name: rows.c[name] for name in ("state", "image_set_id", "image_set_version", "batch_id")}
    with forbid_plans(connection, "hashjoin"):  # nested loops stay, for small deliveries
        return connection.execute(update(instances).where(own).values(values)).rowcount


def _without_superseded(pipeline: str, rows: Table) -> Subquery:
    """Return the staged rows without those of arrivals that a redrive has superseded."""
    replaced = exists().where(
        successors.c.arrival_id == rows.c.arrival_id,
        successors.c.pipeline == pipeline,
        successors.c.superseded_by.is_not(None),
    )
    return select(rows).where(~replaced).subquery()


class Instances(Store):
    """The ledger's methods about SOP instances; they ignore extra columns of the given frames."""

    @journaled()
    def claim_instances(
        self, datastore_id: str, pipeline: str, run_key: str, claims: pl.DataFrame | Iterable[pl.DataFrame] | Table
    ) -> pl.DataFrame:
        """Claim SOP instances that have no owner for arrivals of a run.

        The run's earlier claims that are not repeated are dropped, unless they are imported already. So a rerun has the
        same result, and a rerun with other verdicts keeps no claim that it does not need.

        Parameters
        ----------
        datastore_id
            The HealthImaging data store.
        pipeline, run_key
            The run that holds the arrivals.
        claims
            Columns ``arrival_id``, ``SOPInstanceUID``, ``SeriesInstanceUID``, ``StudyInstanceUID``; one frame, or
            frame by frame. Of several arrivals with one instance the first becomes its owner. Or staged verdicts, of
            which the accepted ones are claims; `record_verdicts` then checks that the run holds them.

        Returns
        -------
        polars.DataFrame
            `OWNERS`: the owners of instances that belong to another arrival, of any run. An owner in state ``claimed``
            has not imported the instance yet.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals.
        """
        with self._writing(SCOPE) as connection:
            need_run(connection, run_key, pipeline)
            rows = _select_accepted(claims) if isinstance(claims, Table) else _stage_claims(connection, claims)
            if not isinstance(claims, Table):
                need_held(connection, pipeline, run_key, rows)
            _drop_other_claims(connection, datastore_id, pipeline, run_key, rows)
            if is_redrive(connection, run_key):
                _transfer_to_successors(connection, datastore_id, pipeline, rows)
            if _insert_claims(connection, datastore_id, pipeline, rows):
                return OWNERS.to_frame()  # every claim was inserted: no other owner exists
            if isinstance(claims, Table):
                index_staged(connection, claims, [instances.c.SOPInstanceUID.name])
            return _find_other_owners(connection, datastore_id, pipeline, rows).unique(maintain_order=True)

    def known_instances(self, datastore_id: str, uids: pl.Series, except_run: str | None = None) -> pl.DataFrame:
        """Return the owners of these SOP instances in a data store.

        Parameters
        ----------
        datastore_id
            The HealthImaging data store.
        uids
            SOP Instance UIDs.
        except_run
            A run whose own instances are omitted, so that its rerun finds what it found the first time.

        Returns
        -------
        polars.DataFrame
            `OWNERS`, no row for an unknown instance.
        """
        with self._reading() as connection:
            rows = stage_values(connection, uids, "SOPInstanceUID")
            in_store = instances.c.datastore_id == datastore_id
            known = stage(connection, _find_known(connection, rows, in_store), _SOPS, ["SOPInstanceUID"])
            statement = _select_with_arrivals(OWNERS, known, "SOPInstanceUID").where(in_store)
            if except_run is not None:
                statement = statement.where(arrivals.c.run_key != except_run, ~superseded_in(except_run))
            return fetch(connection, statement, OWNERS).sort("SOPInstanceUID")

    def series_of_others(self, datastore_id: str, studies: pl.Series, except_run: str) -> pl.Series:
        """Return the series of these studies that other runs have imported into, or have claimed instances of.

        Parameters
        ----------
        datastore_id, studies, except_run
            The data store, Study Instance UIDs, and the calling run.
        """
        with self._reading() as connection:
            rows = stage_values(connection, studies, "StudyInstanceUID")
            found = (
                select(instances.c.SeriesInstanceUID)
                .join_from(instances, arrivals, _ARRIVAL)
                .join(rows, instances.c.StudyInstanceUID == rows.c.StudyInstanceUID)
                .where(instances.c.datastore_id == datastore_id, arrivals.c.run_key != except_run)
            )
            return pl.Series(connection.execute(found.distinct()).scalars().all(), dtype=pl.String)

    @journaled()
    def record_imported(
        self,
        datastore_id: str,
        run_key: str,
        outcomes: pl.DataFrame | Iterable[pl.DataFrame],
        studies: pl.DataFrame | Iterable[pl.DataFrame],
        series: pl.DataFrame | Iterable[pl.DataFrame],
    ) -> pl.DataFrame:
        """Record what an import brought into a data store.

        The run owns again the instances that it gave up when an earlier audit could not account for their files.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        outcomes
            Columns ``arrival_id``, ``SOPInstanceUID``, ``SeriesInstanceUID``, ``StudyInstanceUID``, ``state``
            (``imported`` or ``non_primary``), ``image_set_id``, ``image_set_version``, ``batch_id``; in one frame or
            frame by frame, as all three.
        studies, series
            The grouping elements (`studies.STUDIES`, `studies.SERIES`) of new studies and series; those that the store
            held before are not changed, and of several rows the first counts.

        Returns
        -------
        polars.DataFrame
            `OWNERS`: instances that another arrival owns by now, and that were not written. They are in the store
            twice: hold them.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals, or the outcomes contradict themselves. Nothing is written.
        """
        frames = [outcomes] if isinstance(outcomes, pl.DataFrame) else outcomes
        with self._writing(SCOPE) as connection:
            pipeline = need_run(connection, run_key).pipeline
            rows = stage(connection, map(_shape_imports, frames), IMPORTS, ["arrival_id"])
            need_held(connection, pipeline, run_key, rows)
            if is_redrive(connection, run_key):
                _transfer_to_successors(connection, datastore_id, pipeline, rows)
            number = connection.execute(select(func.count()).select_from(rows)).scalar_one()
            written = _write_imported(connection, datastore_id, pipeline, rows)
            if written < number:
                _need_one_outcome_each(connection, rows)
                written += insert_missing(
                    connection,
                    instances,
                    _without_superseded(pipeline, rows),
                    _KEY,
                    datastore_id=datastore_id,
                    pipeline=pipeline,
                )
            insert_elements(connection, datastore_id, run_key, studies, series)
            if written == number:
                return OWNERS.to_frame()
            return _find_other_owners(connection, datastore_id, pipeline, rows)

    @journaled()
    def drop_instances(self, datastore_id: str, run_key: str, uids: pl.Series) -> int:
        """Give up a run's SOP instances that its jobs did not import, so that a later delivery can import them.

        What a redrive could not import again is still stored: the generation that imported it owns it again.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run; instances that other runs own stay.
        uids
            SOP Instance UIDs.

        Returns
        -------
        int
            The number of instances given up.
        """
        with self._writing(SCOPE) as connection:
            rows = stage_values(connection, uids, "SOPInstanceUID")
            of_run = exists().where(_ARRIVAL, arrivals.c.run_key == run_key)
            named = instances.c.SOPInstanceUID.in_(select(rows.c.SOPInstanceUID))
            owned = and_(instances.c.datastore_id == datastore_id, named, of_run)
            given = return_to_predecessors(connection, owned) if is_redrive(connection, run_key) else 0
            return given + connection.execute(delete(instances).where(owned)).rowcount
