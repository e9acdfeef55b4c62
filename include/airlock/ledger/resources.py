"""The FHIR resources of each HealthLake data store: which content is in it, and which run is about to bring another.

An import writes a resource under its own id over what was there, so two runs must not bring the same one at once: a run
claims a resource before its import, and the claim ends with the import's record or is given back.
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
from airlock.ledger.tables import arrivals, resources
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

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
    """Return the condition that a resource is one of the staged ones."""
    return and_(resources.c.datastore_id == datastore_id, *(resources.c[name] == rows.c[name] for name in _RESOURCE))


def _exists_staged(rows: Table, datastore_id: str) -> ColumnElement[bool]:
    """Return the same condition for a statement in which the staged rows have no other part."""
    return exists(select(rows.c.resource_id).where(_is_staged(rows, datastore_id)))


def _is_superseded_claim() -> ColumnElement[bool]:
    """Return the condition that a claim is of a settled arrival in whose place a redrive has put another one."""
    return exists().where(
        arrivals.c.arrival_id == resources.c.claimed_arrival_id,
        arrivals.c.run_key == resources.c.claimed_by,
        arrivals.c.superseded_by.is_not(None),
        arrivals.c.settled_at.is_not(None),
    )


def _stage_resources(connection: Connection, keys: pl.DataFrame) -> Table:
    return stage(connection, select_schema(keys, _RESOURCES).unique(), _RESOURCES, _RESOURCE)


def _need_arrivals(connection: Connection, pipeline: str, run_key: str, frame: pl.DataFrame) -> None:
    """Refuse resources of an arrival that the run does not hold."""
    files = frame.select("arrival_id").drop_nulls().unique()
    need_held(connection, pipeline, run_key, stage(connection, files, files.schema, ["arrival_id"]))


def end_claims(connection: Connection, claims: ColumnElement[bool]) -> int:
    """End the claims that a condition names and return their number; what is in a data store stays known."""
    unknown = connection.execute(delete(resources).where(claims, resources.c.content_digest.is_(None)))
    known = connection.execute(update(resources).where(claims).values(_NO_CLAIM))
    return unknown.rowcount + known.rowcount


def _shape_imports(imported: pl.DataFrame) -> pl.DataFrame:
    frame = select_schema(imported, IMPORTS)
    doubled = frame.height - frame.select(_RESOURCE).n_unique()
    if doubled:
        raise LedgerError(f"{doubled} imports name a resource that another one names: give one per resource")
    undescribed = frame["content_digest"].null_count()
    if undescribed:
        raise LedgerError(f"{undescribed} imports have no content_digest: give that of what was sent")
    return frame


class Resources(Store):
    """The ledger's part about FHIR resources. Extra columns in the frames given are ignored."""

    def claim_resources(self, datastore_id: str, pipeline: str, run_key: str, claims: pl.DataFrame) -> pl.DataFrame:
        """Claim resources for a run, where no other run holds a claim on them.

        What a person was to decide on and a redrive takes through again is claimed by nobody any more.

        The run's earlier claims that are not among these are given back; so a rerun has the same result, and one with
        other verdicts holds nothing back.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        pipeline, run_key
            The run that holds the arrivals.
        claims
            `CLAIMS`; of several with one resource the first counts.

        Returns
        -------
        polars.DataFrame
            `CLAIMED`: those of the resources that another run is about to bring.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals. Nothing is written.
        """
        wanted = select_schema(claims, CLAIMS).unique(_RESOURCE, keep="first", maintain_order=True)
        with self._writing(SCOPE) as connection:
            need_run(connection, run_key, pipeline)
            _need_arrivals(connection, pipeline, run_key, claims)
            rows = stage(connection, wanted.rename(_CLAIM), _CLAIM_ROWS, _RESOURCE)
            among, ours = _is_staged(rows, datastore_id), resources.c.claimed_by == run_key
            here = resources.c.datastore_id == datastore_id
            end_claims(connection, and_(ours, here, ~_exists_staged(rows, datastore_id)))
            values = {name: rows.c[name] for name in _CLAIM.values()} | {"claimed_by": run_key}
            free = or_(resources.c.claimed_by.is_(None), _is_superseded_claim())
            connection.execute(update(resources).where(among, or_(free, ours)).values(values))
            insert_missing(connection, resources, rows, _KEY, datastore_id=datastore_id, claimed_by=run_key)
            others = select(*(resources.c[name] for name in CLAIMED)).where(among, ~ours)
            return fetch(connection, others, CLAIMED).sort(_RESOURCE)

    def claimed_resources(self, datastore_id: str, keys: pl.DataFrame) -> pl.DataFrame:
        """Return which of these resources a run is about to bring; nothing is claimed.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        keys
            Columns ``resource_type``, ``resource_id``.

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
        """Return which of these resources are in a data store, and with which content.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        keys
            Columns ``resource_type``, ``resource_id``.
        except_run
            A run whose own imports are left out, so that its rerun does not take them for another's.

        Returns
        -------
        polars.DataFrame
            `KNOWN`, no row for a resource that nobody has imported.
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
        """Return which files have brought the content that a data store has of these resources.

        Parameters
        ----------
        datastore_id
            The HealthLake data store.
        keys
            Columns ``resource_type``, ``resource_id``.

        Returns
        -------
        polars.DataFrame
            `BROUGHT`, no row for a resource that no file has brought.
        """
        columns: dict[str, ColumnElement[Any]] = {**dict(arrivals.c.items()), **dict(resources.c.items())}
        file = and_(arrivals.c.arrival_id == resources.c.arrival_id, arrivals.c.pipeline == resources.c.pipeline)
        with self._reading() as connection:
            rows = _stage_resources(connection, keys)
            brought = select(*(columns[name] for name in BROUGHT)).join_from(resources, arrivals, file)
            statement = brought.where(_exists_staged(rows, datastore_id), resources.c.content_digest.is_not(None))
            return fetch(connection, statement, BROUGHT).sort(_RESOURCE)

    def record_imported_resources(self, datastore_id: str, run_key: str, rows: pl.DataFrame) -> None:
        """Write what an import brought into a data store; the run's claims on it end.

        Where the run holds no claim and another run's content has come in, that one is the later and stays: so auditing
        an older run again unsays nothing.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        rows
            `IMPORTS`, one row per resource.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals, or a resource comes twice or without its digest. Nothing is
            written.
        """
        frame = _shape_imports(rows)
        with self._writing(SCOPE) as connection:
            pipeline = need_run(connection, run_key).pipeline
            _need_arrivals(connection, pipeline, run_key, frame)
            staged = stage(connection, frame, IMPORTS, _RESOURCE)
            facts = {"run_key": run_key, "pipeline": pipeline}
            ours = resources.c.claimed_by == run_key
            superseded = and_(resources.c.content_digest.is_not(None), resources.c.run_key != run_key)
            values: dict[str, Any] = {name: staged.c[name] for name in ("content_digest", "arrival_id", "batch_id")}
            values |= facts | {name: case((ours, null()), else_=resources.c[name]) for name in _NO_CLAIM}
            own = and_(_is_staged(staged, datastore_id), or_(ours, ~superseded))
            connection.execute(update(resources).where(own).values(values))
            insert_missing(connection, resources, staged, _KEY, datastore_id=datastore_id, **facts)

    def forget_resources(self, datastore_id: str, run_key: str, keys: pl.DataFrame) -> int:
        """Forget what a run may have brought, since nobody has proven it: whatever comes next is imported anew.

        What the data store held of it before is forgotten too: the run may have written over it.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run; what other runs hold or have brought since is left alone.
        keys
            Columns ``resource_type``, ``resource_id``.

        Returns
        -------
        int
            How many were forgotten.
        """
        brought = and_(resources.c.claimed_by.is_(None), resources.c.run_key == run_key)
        with self._writing(SCOPE) as connection:
            rows = _stage_resources(connection, keys)
            ours = or_(resources.c.claimed_by == run_key, brought)
            return connection.execute(delete(resources).where(ours, _exists_staged(rows, datastore_id))).rowcount

    def drop_resource_claims(self, datastore_id: str, run_key: str, keys: pl.DataFrame) -> int:
        """Give back a run's claims on resources that its jobs did not import: a later delivery may bring them.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run; claims of other runs are left alone.
        keys
            Columns ``resource_type``, ``resource_id``.

        Returns
        -------
        int
            How many were given back.
        """
        with self._writing(SCOPE) as connection:
            rows = _stage_resources(connection, keys)
            return end_claims(connection, and_(resources.c.claimed_by == run_key, _exists_staged(rows, datastore_id)))
