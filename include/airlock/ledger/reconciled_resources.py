"""What a ledger says is in a HealthLake data store, page by page, for its comparison with the store.

A resource that the store has lost no longer counts as stored. Until it is brought again it is in doubt: its patient is
held, and its clock keeps older content away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, func, literal, or_, select

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.columns import FindingKind, OpenState
from airlock.ledger.comparison_tables import findings, foreign_sets
from airlock.ledger.comparisons import SCOPE as FINDINGS
from airlock.ledger.comparisons import Comparisons
from airlock.ledger.frames import fetch, insert_missing, stage, stage_values
from airlock.ledger.journal import journaled
from airlock.ledger.open_resources import SCOPE, scope
from airlock.ledger.parked import mark_released
from airlock.ledger.tables import contracts, open_resources, resources
from airlock.records import Disposition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection, Table

STORED_RESOURCES = pl.Schema(
    dict.fromkeys(
        (
            *("resource_type", "resource_id", "content_digest", "patient"),
            *("run_key", "pipeline", "arrival_id", "batch_id"),
            "claimed_by",  # the run that is importing the next content
        ),
        pl.String,
    )
)
OBJECTS = pl.Schema(dict.fromkeys(("arrival_id", "bucket", "key", "etag"), pl.String))
PATIENTS = pl.Schema(dict.fromkeys(("subject", "subject_key"), pl.String))
_NAMES = pl.Schema(dict.fromkeys(("name", "resource_type", "resource_id"), pl.String))
_RESOURCE = ("resource_id", "resource_type")
_KEY = (*_RESOURCE, "datastore_id")
_IMPORTED = resources.c.content_digest.is_not(None)


class ReconciledResources(Comparisons):
    """The ledger's methods for its comparison with a HealthLake data store."""

    def count_resources(self, datastore_id: str) -> int:
        """Return how many resources a data store has."""
        with self._reading() as connection:
            counted = select(func.count()).where(resources.c.datastore_id == datastore_id, _IMPORTED)
            return int(connection.execute(counted).scalar_one())

    def stored_resources(self, datastore_id: str, after: tuple[str, str], limit: int) -> pl.DataFrame:
        """Return the next resources of a data store after an id and type, as `STORED_RESOURCES`, in this order."""
        name, kind = resources.c.resource_id, resources.c.resource_type
        later = or_(name > after[0], and_(name == after[0], kind > after[1]))
        return self._fetch_stored(datastore_id, later, order=(name, kind), limit=limit)

    def sampled_resources(self, datastore_id: str, start: str, limit: int) -> pl.DataFrame:
        """Return the resources with the next digests from one on: a random sample, as digests are hashes."""
        digest = resources.c.content_digest
        return self._fetch_stored(datastore_id, digest >= start, order=(digest,), limit=limit)

    def resources_of_patient(self, datastore_id: str, patient: str) -> pl.DataFrame:
        """Return the resources of a patient (``Patient/<id>``) in a data store, as `STORED_RESOURCES`."""
        return self._fetch_stored(datastore_id, resources.c.patient == patient, order=(resources.c.resource_id,))

    def find_stored(self, datastore_id: str, names: pl.Series) -> pl.DataFrame:
        """Return those of the resources (``Type/id``) that a data store has, as `STORED_RESOURCES`."""
        with self._reading() as connection:
            rows = _stage_names(connection, names)
            statement = select(*(resources.c[name] for name in STORED_RESOURCES)).join_from(
                rows, resources, _is_of(rows, datastore_id)
            )
            return fetch(connection, statement.where(_IMPORTED), STORED_RESOURCES)

    def _fetch_stored(
        self, datastore_id: str, chosen: ColumnElement[bool], *, order: tuple[Any, ...], limit: int | None = None
    ) -> pl.DataFrame:
        columns = select(*(resources.c[name] for name in STORED_RESOURCES))
        statement = columns.where(resources.c.datastore_id == datastore_id, _IMPORTED, chosen).order_by(*order)
        with self._reading() as connection:
            return fetch(connection, statement.limit(limit), STORED_RESOURCES)

    def known_objects(self, datastore_id: str, names: pl.Series) -> set[str]:
        """Return those of the resources (``Type/id``) that the ledger knows: imported, claimed, open, or foreign."""
        with self._reading() as connection:
            rows = _stage_names(connection, names)
            opened = and_(
                open_resources.c.datastore_id == datastore_id,
                *(open_resources.c[name] == rows.c[name] for name in _RESOURCE),
            )
            foreign = and_(foreign_sets.c.object_id == rows.c.name, foreign_sets.c.datastore_id == datastore_id)
            known = or_(
                exists(select(resources.c.resource_id).where(_is_of(rows, datastore_id))),
                exists(select(open_resources.c.resource_id).where(opened)),
                exists(select(foreign_sets.c.object_id).where(foreign)),
            )
            return set(connection.scalars(select(rows.c.name).where(known)))

    def find_objects(self, arrival_ids: pl.Series) -> pl.DataFrame:
        """Return the objects of those of the arrivals that are released, as `OBJECTS`."""
        released = arrival_states.c.disposition == Disposition.RELEASED.value
        with self._reading() as connection:
            rows = stage_values(connection, arrival_ids, "arrival_id")
            named = select(*(arrival_states.c[name] for name in OBJECTS)).join(
                rows, rows.c.arrival_id == arrival_states.c.arrival_id
            )
            return fetch(connection, named.where(released), OBJECTS).unique("arrival_id").sort("arrival_id")

    def contract_subjects(self, datastore_id: str, after: str, limit: int) -> pl.DataFrame:
        """Return the next subjects with a contract in a data store, as `PATIENTS`, in the database's order."""
        named = contracts.c.datastore_id == datastore_id, contracts.c.subject > after
        statement = select(*(contracts.c[name] for name in PATIENTS)).where(*named).order_by(contracts.c.subject)
        with self._reading() as connection:
            return fetch(connection, statement.limit(limit), PATIENTS)

    def count_missing_resources(self, comparison: int) -> int:
        """Return how many resources that a reconciliation missed still count as stored."""
        missed = self.find_missed_resources(comparison)
        with self._reading() as connection:
            rows = stage(connection, missed, missed.schema, _RESOURCE)
            counted = select(func.count()).select_from(rows).join(resources, _is_of_row(rows)).where(_is_free())
            return int(connection.execute(counted).scalar_one())

    def forget_missing_resources(self, comparison: int) -> int:
        """Let the resources that a reconciliation missed no longer count as stored; return their number.

        They are in doubt until a run brings them again. One that a run is importing stays.
        """
        with self.at_once(SCOPE, FINDINGS, keep_first=True) as inner:
            inner.keep_losses(comparison)
            return inner.forget_lost_resources(inner.find_missed_resources(comparison))

    def find_missed_resources(self, comparison: int) -> pl.DataFrame:
        """Return the resources that a reconciliation missed, with their data store."""
        missed = select(findings.c.subject, findings.c.datastore_id).where(
            findings.c.comparison_id == comparison,
            findings.c.kind == FindingKind.MISSING_IN_STORE.value,
            findings.c.closed_at.is_(None),
        )
        with self._reading() as connection:
            found = fetch(connection, missed, pl.Schema({"name": pl.String, "datastore_id": pl.String}))
        return found.join(_split(found["name"].to_list()), on="name").select(*_NAMES, "datastore_id")

    @journaled()
    def forget_lost_resources(self, missed: pl.DataFrame) -> int:
        """Let these resources no longer count as stored; see `forget_missing_resources`."""
        with self._writing(*map(scope, missed["datastore_id"].unique())) as connection:
            rows = stage(connection, missed, missed.schema, _RESOURCE)
            forgotten = and_(_is_free(), exists(select(rows.c.name).where(_is_of_row(rows))))
            doubtful: dict[str, ColumnElement[Any]] = {
                name: resources.c[name] for name in (*_KEY, "content_digest", "clock", "run_key", "pipeline")
            }
            doubtful |= {"arrival_id": resources.c.arrival_id, "state": literal(OpenState.DOUBTFUL.value)}
            doubtful |= {"patient": func.coalesce(resources.c.patient, "file/" + resources.c.arrival_id)}
            lost = select(*(value.label(name) for name, value in doubtful.items())).where(forgotten).subquery()
            insert_missing(connection, open_resources, lost, _KEY)
            return connection.execute(delete(resources).where(forgotten)).rowcount

    def find_doubtful(self, datastore_id: str, names: pl.Series) -> dict[str, str]:
        """Return the content digests of those of the resources (``Type/id``) that are in doubt, by name."""
        with self._reading() as connection:
            rows = _stage_names(connection, names)
            statement = select(rows.c.name, open_resources.c.content_digest).join(
                rows, _is_doubtful(rows, datastore_id)
            )
            return {name: content for name, content in connection.execute(statement) if content is not None}

    @journaled()
    def restore_resources(self, datastore_id: str, names: pl.Series) -> int:
        """Restore resources (``Type/id``) that were missed and are in the data store after all; return their number.

        What waits for them is due.
        """
        with self._writing(scope(datastore_id)) as connection:
            rows = _stage_names(connection, names)
            is_doubtful = exists(select(rows.c.name).where(_is_doubtful(rows, datastore_id)))
            columns = (*_KEY, "content_digest", "clock", "run_key", "pipeline", "arrival_id", "patient")
            known = select(*(open_resources.c[name] for name in columns)).where(
                is_doubtful, open_resources.c.content_digest.is_not(None)
            )
            restored = insert_missing(connection, resources, known.subquery(), _KEY)
            connection.execute(delete(open_resources).where(is_doubtful))
            there = select(rows).join_from(rows, resources, _is_of(rows, datastore_id)).where(_IMPORTED)
            mark_released(connection, datastore_id, there.subquery())
            return restored


def _is_free() -> ColumnElement[bool]:
    """Return the condition that a resource is imported, and no run is importing its next content."""
    return and_(_IMPORTED, resources.c.claimed_by.is_(None))


def _is_doubtful(rows: Table, datastore_id: str) -> ColumnElement[bool]:
    return and_(
        open_resources.c.datastore_id == datastore_id,
        open_resources.c.state == OpenState.DOUBTFUL.value,
        *(open_resources.c[name] == rows.c[name] for name in _RESOURCE),
    )


def _is_of(rows: Table, datastore_id: str) -> ColumnElement[bool]:
    same = (resources.c[name] == rows.c[name] for name in _RESOURCE)
    return and_(resources.c.datastore_id == datastore_id, *same)


def _is_of_row(rows: Table) -> ColumnElement[bool]:
    return and_(*(resources.c[name] == rows.c[name] for name in _KEY))


def _stage_names(connection: Connection, names: pl.Series) -> Table:
    return stage(connection, _split(names.unique().to_list()), _NAMES, _RESOURCE)


def _split(names: Iterable[str]) -> pl.DataFrame:
    rows = [(name, *name.split("/", 1)) for name in names if "/" in name]
    return pl.DataFrame(rows, _NAMES, orient="row")
