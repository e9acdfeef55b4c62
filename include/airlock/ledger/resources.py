"""The FHIR resources of each HealthLake data store: the imported content, and the claim of a run on the next content.

An import overwrites a resource of the same id, so two runs must not import one resource at the same time: a run claims
a resource before its import. The claim ends when the import is recorded, or when the run gives the claim up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, delete, exists, null, or_, select, update

from airlock.ledger.arrivals import need_held
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch, insert_missing, select_schema, stage
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrival_states, resources
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Column, ColumnElement, Connection, Table

    Frames = pl.DataFrame | Iterable[pl.DataFrame]

SCOPE = "resources"

CLAIMS = pl.Schema(
    {
        "arrival_id": pl.String,  # null for a resource that Airlock itself has built
        "resource_type": pl.String,
        "resource_id": pl.String,
        "content_digest": pl.String,
    }
)
CLAIMED = pl.Schema({"resource_type": pl.String, "resource_id": pl.String, "claimed_by": pl.String})
KNOWN = pl.Schema(
    {"resource_type": pl.String, "resource_id": pl.String, "content_digest": pl.String, "run_key": pl.String}
)
IMPORTS = schema(CLAIMS, {"batch_id": pl.String})
BROUGHT = schema(
    dict.fromkeys(("resource_type", "resource_id", "content_digest"), pl.String),
    {"bucket": pl.String, "key": pl.String, "last_modified": TIMESTAMP, "disposition": pl.String},  # of the file
)

_RESOURCE = ("resource_id", "resource_type")
_RESOURCES = pl.Schema(dict.fromkeys(_RESOURCE, pl.String))
_KEY = (*_RESOURCE, "datastore_id")
_CLAIM = {"arrival_id": "claimed_arrival_id", "content_digest": "claimed_digest"}
_CLAIM_ROWS = pl.Schema({_CLAIM.get(name, name): pl.String for name in CLAIMS})
_NO_CLAIM = dict.fromkeys(("claimed_by", *_CLAIM.values()))


def _is_staged(rows: Table, datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that a resource is staged, for statements that join with the staged rows."""
    return and_(resources.c.datastore_id == datastore_id, *(resources.c[name] == rows.c[name] for name in _RESOURCE))


def _exists_staged(rows: Table, datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that a resource is staged, for statements without another use of the staged rows."""
    return exists(select(rows.c.resource_id).where(_is_staged(rows, datastore_id)))


def _is_superseded_claim() -> ColumnElement[bool]:
    """Return the condition that a claim is of a settled arrival that a redrive has superseded."""
    return exists().where(
        arrival_states.c.arrival_id == resources.c.claimed_arrival_id,
        arrival_states.c.run_key == resources.c.claimed_by,
        arrival_states.c.superseded_by.is_not(None),
        arrival_states.c.settled_at.is_not(None),
    )


def _stage_resources(connection: Connection, keys: Frames) -> Table:
    wanted = (select_schema(rows, _RESOURCES).unique() for rows in _frames(keys))
    return stage(connection, wanted, _RESOURCES, _RESOURCE)


def _frames(rows: Frames) -> Iterable[pl.DataFrame]:
    return (rows,) if isinstance(rows, pl.DataFrame) else rows


def _need_arrivals(connection: Connection, pipeline: str, run_key: str, arrival_ids: Column[str]) -> None:
    """Check that the run holds the arrivals of these staged resources."""
    files = select(arrival_ids.label("arrival_id")).where(arrival_ids.is_not(None)).distinct().subquery()
    need_held(connection, pipeline, run_key, files)


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

    def claim_resources(self, datastore_id: str, pipeline: str, run_key: str, claims: Frames) -> pl.DataFrame:
        """Claim for a run the resources that no other run claims.

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

        Returns
        -------
        polars.DataFrame
            `CLAIMED`: the resources that another run claims.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals. Nothing is written.
        """
        wanted = (
            select_schema(rows, CLAIMS).unique(_RESOURCE, keep="first", maintain_order=True).rename(_CLAIM)
            for rows in _frames(claims)
        )
        with self._writing(SCOPE) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, wanted, _CLAIM_ROWS, _RESOURCE)
            _need_arrivals(connection, pipeline, run_key, rows.c.claimed_arrival_id)
            among, ours = _is_staged(rows, datastore_id), resources.c.claimed_by == run_key
            here = resources.c.datastore_id == datastore_id
            end_claims(connection, and_(ours, here, ~_exists_staged(rows, datastore_id)))
            values = {name: rows.c[name] for name in _CLAIM.values()} | {"claimed_by": run_key}
            free = or_(resources.c.claimed_by.is_(None), _is_superseded_claim())
            connection.execute(update(resources).where(among, or_(free, ours)).values(values))
            insert_missing(connection, resources, rows, _KEY, datastore_id=datastore_id, claimed_by=run_key)
            others = select(*(resources.c[name] for name in CLAIMED)).where(among, ~ours)
            return fetch(connection, others, CLAIMED).sort(_RESOURCE)

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
            held = and_(_is_staged(rows, datastore_id), resources.c.claimed_by.is_not(None))
            return fetch(connection, select(*(resources.c[name] for name in CLAIMED)).where(held), CLAIMED).sort(
                _RESOURCE
            )

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
                _is_staged(rows, datastore_id), resources.c.content_digest.is_not(None)
            )
            if except_run is not None:
                statement = statement.where(resources.c.run_key != except_run)
            return fetch(connection, statement, KNOWN).sort(_RESOURCE)

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

    def record_imported_resources(self, datastore_id: str, run_key: str, rows: Frames) -> None:
        """Record what an import brought into a data store; the run's claims on it end.

        If the run has no claim on a resource and another run has imported content, that content is later and stays. So
        a second audit of an older run overwrites nothing.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        rows
            `IMPORTS`, one row per resource, in one frame or frame by frame.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals, or a resource is given twice or without a digest. Nothing is
            written.
        """
        frames = map(_shape_imports, _frames(rows))
        with self._writing(SCOPE) as connection:
            pipeline = need_run(connection, run_key).pipeline
            staged = stage(connection, frames, IMPORTS, _RESOURCE)
            _need_arrivals(connection, pipeline, run_key, staged.c.arrival_id)
            facts = {"run_key": run_key, "pipeline": pipeline}
            ours = resources.c.claimed_by == run_key
            superseded = and_(resources.c.content_digest.is_not(None), resources.c.run_key != run_key)
            values: dict[str, Any] = {name: staged.c[name] for name in ("content_digest", "arrival_id", "batch_id")}
            values |= facts | {name: case((ours, null()), else_=resources.c[name]) for name in _NO_CLAIM}
            own = and_(_is_staged(staged, datastore_id), or_(ours, ~superseded))
            connection.execute(update(resources).where(own).values(values))
            insert_missing(connection, resources, staged, _KEY, datastore_id=datastore_id, **facts)

    def forget_resources(self, datastore_id: str, run_key: str, keys: Frames) -> int:
        """Forget resources that a run may have imported without proof, so that the next content is imported again.

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
        with self._writing(SCOPE) as connection:
            rows = _stage_resources(connection, keys)
            ours = or_(resources.c.claimed_by == run_key, brought)
            return connection.execute(delete(resources).where(ours, _exists_staged(rows, datastore_id))).rowcount

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
        with self._writing(SCOPE) as connection:
            rows = _stage_resources(connection, keys)
            return end_claims(connection, and_(resources.c.claimed_by == run_key, _exists_staged(rows, datastore_id)))
