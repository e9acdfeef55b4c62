"""The data stores into which runs may import: those that a run, a rebuild or an adoption has made known.

A ledger that was lost knows no data store, so that no run imports an archive a second time over what is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import delete, func, insert, select, update

from airlock.ledger.columns import DecisionKind, StoreOrigin
from airlock.ledger.comparison_tables import data_stores, foreign_sets
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch_by_values, insert_for, insert_missing, stage
from airlock.ledger.journal import journaled
from airlock.ledger.tables import gates, instances, resources

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCOPE = "data stores"
FOUND, POSITION = "found", "position"  # the members of a data store's counts while it is adopted
# What others had stored: an image set with its study, or a FHIR resource as Type/id.
FOREIGN = pl.Schema({"object_id": pl.String, "study_key": pl.String, "version": pl.Int64, "instances": pl.Int64})


@dataclass(frozen=True)
class KnownStore:
    """A data store of the ledger; one that is being adopted is not open to runs yet."""

    datastore_id: str
    origin: StoreOrigin
    known_at: datetime
    counts: dict[str, Any] = field(default_factory=dict)  # what an adoption has found, and its position
    decision_id: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether runs may import into it."""
        return self.origin is not StoreOrigin.ADOPTING


@dataclass(frozen=True)
class Adoption:
    """A person's decision to import into a data store that others have filled."""

    decided_by: str
    why: str
    decided_at: datetime  # aware


def note_store(connection: Connection, datastore_id: str, origin: StoreOrigin, counts: str | None = None) -> None:
    """Add a data store, unless the ledger has it."""
    row = {"datastore_id": datastore_id, "origin": origin.value, "known_at": datetime.now(UTC), "counts": counts}
    statement = insert_for(connection, data_stores).values(row)
    connection.execute(statement.on_conflict_do_nothing(index_elements=[data_stores.c.datastore_id]))


class DataStores(Store):
    """The ledger's methods about data stores, and what others have stored in them."""

    def find_store(self, datastore_id: str) -> KnownStore | None:
        """Return a data store; None if no run, rebuild or adoption has made it known."""
        with self._reading() as connection:
            return _find(connection, datastore_id)

    def note_store(self, datastore_id: str, origin: StoreOrigin, counts: dict[str, Any] | None = None) -> None:
        """Open a data store to runs, unless the ledger knows it; for example since a rebuild has found its imports."""
        with self._writing(SCOPE) as connection:
            note_store(connection, datastore_id, origin, None if counts is None else json.dumps(counts))

    def note_settled_store(self, datastore_id: str) -> bool:
        """Open a data store to runs if a run has settled imports into it, and return whether one has.

        A neighbouring version with schema 0012 imports without noting the data store.
        """
        settled = select(gates.c.run_key).where(gates.c.datastore_id == datastore_id).limit(1)
        with self._writing(SCOPE) as connection:
            if connection.execute(settled).first() is None:
                return False
            note_store(connection, datastore_id, StoreOrigin.IMPORTED)
            return True

    @journaled()
    def begin_adoption(self, datastore_id: str) -> KnownStore:
        """Record that a data store is being adopted, and return how far an earlier attempt has come.

        Raises
        ------
        LedgerError
            If runs may import into it already.
        """
        with self._writing(SCOPE) as connection:
            note_store(connection, datastore_id, StoreOrigin.ADOPTING)
            found = _find(connection, datastore_id)
            assert found is not None  # noqa: S101  # it was just added
            if found.is_open:
                raise LedgerError(
                    f"the data store {datastore_id} is {found.origin.value} since {found.known_at:%Y-%m-%d %H:%M}Z: "
                    f"runs may import into it, there is nothing to adopt"
                )
            return found

    @journaled()
    def record_foreign(self, datastore_id: str, rows: pl.DataFrame, position: dict[str, Any]) -> int:
        """Add what others have stored, as `FOREIGN`, and return how much this and earlier calls have added.

        From *position* the adoption goes on if it is interrupted. What is there already stays.
        """
        constants: dict[str, Any] = {"datastore_id": datastore_id, "recorded_at": datetime.now(UTC)}
        with self._writing(SCOPE) as connection:
            known = _need_adopting(connection, datastore_id)
            staged = stage(connection, rows, FOREIGN)
            added = insert_missing(connection, foreign_sets, staged, ["object_id", "datastore_id"], **constants)
            counts = {FOUND: known.counts.get(FOUND, 0) + added, POSITION: position}
            this = data_stores.c.datastore_id == datastore_id
            connection.execute(update(data_stores).where(this).values(counts=json.dumps(counts)))
            return int(counts[FOUND])

    @journaled()
    def end_adoption(self, datastore_id: str, adoption: Adoption) -> int:
        """Add the decision to the decision log, open the data store to runs, and return the decision's number."""
        with self._writing(SCOPE) as connection:
            found = _need_adopting(connection, datastore_id).counts.get(FOUND, 0)
            counts = json.dumps({FOUND: found - _drop_own(connection, datastore_id)})
            values = {"kind": DecisionKind.ADOPT.value, "datastore_id": datastore_id, "subject": datastore_id}
            added = connection.execute(insert(decisions).values(**values, **asdict(adoption), details=counts))
            (number,) = added.inserted_primary_key or (0,)
            opened = {"origin": StoreOrigin.ADOPTED.value, "decision_id": number, "known_at": adoption.decided_at}
            this = data_stores.c.datastore_id == datastore_id
            connection.execute(update(data_stores).where(this).values(**opened, counts=counts))
            return int(number)

    def count_foreign(self, datastore_id: str) -> int:
        """Return how many image sets or resources of others the ledger has for a data store."""
        statement = select(func.count()).where(foreign_sets.c.datastore_id == datastore_id)
        with self._reading() as connection:
            return int(connection.execute(statement).scalar_one())

    def find_foreign(self, datastore_id: str, object_ids: pl.Series) -> pl.DataFrame:
        """Return those of these image sets or resources that others had stored, as `FOREIGN`."""
        return self._fetch_foreign(datastore_id, object_ids, "object_id")

    def foreign_studies(self, datastore_id: str, study_keys: pl.Series) -> pl.DataFrame:
        """Return the image sets of these studies that others had stored, as `FOREIGN`."""
        return self._fetch_foreign(datastore_id, study_keys, "study_key")

    def _fetch_foreign(self, datastore_id: str, values: pl.Series, column: str) -> pl.DataFrame:
        of_store = foreign_sets.c.datastore_id == datastore_id
        with self._reading() as connection:
            return fetch_by_values(connection, foreign_sets, FOREIGN, values, column, of_store)


def _drop_own(connection: Connection, datastore_id: str) -> int:
    """Delete what runs of this ledger have stored, after a rebuild that lacks some runs; return how much it was."""
    in_store = foreign_sets.c.datastore_id == datastore_id
    sets = select(instances.c.image_set_id).where(
        instances.c.datastore_id == datastore_id, instances.c.image_set_id.is_not(None)
    )
    names = select(resources.c.resource_type + "/" + resources.c.resource_id).where(
        resources.c.datastore_id == datastore_id, resources.c.content_digest.is_not(None)
    )
    own = foreign_sets.c.object_id.in_(sets.union_all(names))
    return connection.execute(delete(foreign_sets).where(in_store, own)).rowcount


def _need_adopting(connection: Connection, datastore_id: str) -> KnownStore:
    found = _find(connection, datastore_id)
    if found is None or found.is_open:
        raise LedgerError(f"the data store {datastore_id} is not being adopted: begin its adoption")
    return found


def _find(connection: Connection, datastore_id: str) -> KnownStore | None:
    row = connection.execute(select(data_stores).where(data_stores.c.datastore_id == datastore_id)).one_or_none()
    if row is None:
        return None
    counts = json.loads(row.counts) if row.counts else {}
    return KnownStore(row.datastore_id, StoreOrigin(row.origin), row.known_at, counts, row.decision_id)
