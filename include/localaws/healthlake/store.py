"""FHIR resources and their versions in the database: the only module that writes those tables."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from localaws.healthlake.documents import read_document, write_document
from localaws.healthlake.search_index import rows_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterator

    from localaws.state import State

Resource = dict[str, Any]

CURRENT = "datastore_id = ? AND resource_type = ? AND id = ? AND superseded_at IS NULL"


@dataclass(frozen=True)
class Stored:
    """One version of a resource; `body` holds its ``meta.versionId`` and ``meta.lastUpdated``, unless deleted."""

    resource_type: str
    id: str
    version: int
    last_updated: str
    deleted: bool
    body: Resource

    @property
    def etag(self) -> str:
        """The version as HTTP has it: a weak entity tag."""
        return f'W/"{self.version}"'


class ResourceStore:
    """Keeps every version of every resource; the last one is current.

    Parameters
    ----------
    state : State
        Made with the tables of `localaws.healthlake.tables`.
    search_lag : float
        Seconds until a version is found by a search or listed in a history; a direct read finds it at once.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, state: State, search_lag: float = 0.0, clock: Callable[[], float] = time.time) -> None:
        self.state = state
        self._search_lag = search_lag
        self._clock = clock

    def indexed_until(self) -> float:
        """Return the moment up to which searches know the store."""
        return self._clock() - self._search_lag

    def put(
        self, connection: sqlite3.Connection, datastore_id: str, resource: Resource, *, strong: bool = False
    ) -> Stored:
        """Store a resource under its own ``resourceType`` and ``id``; an existing one gets a new version.

        Equal content makes a new version too, as it does at AWS. With `strong`, searches find the version before
        until this one is indexed.
        """
        now = self._read_clock()
        name = (datastore_id, resource["resourceType"], resource["id"])
        version, created_at = self._supersede(connection, name, now, kept=strong)
        meta = resource.get("meta")
        meta = {
            **(meta if isinstance(meta, dict) else {}),
            "versionId": str(version),
            "lastUpdated": format_instant(now),
        }
        body = {**resource, "meta": meta}
        number = self._insert(connection, name, version, (created_at or now, now), body)
        connection.executemany(
            "INSERT INTO fhir_search VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(number, ordinal, *row) for ordinal, row in enumerate(rows_of(body))],
        )
        return Stored(name[1], name[2], version, meta["lastUpdated"], deleted=False, body=body)

    def delete(
        self, connection: sqlite3.Connection, datastore_id: str, resource_type: str, resource_id: str
    ) -> Stored | None:
        """Add a version that marks the resource as deleted; return the current version, None if there never was one.

        The versions before it stay; deleting a deleted resource changes nothing.
        """
        current = self.read(connection, datastore_id, resource_type, resource_id)
        if current is None or current.deleted:
            return current
        now = self._read_clock()
        name = (datastore_id, resource_type, resource_id)
        version, created_at = self._supersede(connection, name, now)
        self._insert(connection, name, version, (created_at or now, now), None)
        return Stored(resource_type, resource_id, version, format_instant(now), deleted=True, body={})

    def read(
        self,
        connection: sqlite3.Connection,
        datastore_id: str,
        resource_type: str,
        resource_id: str,
        version: int | None = None,
    ) -> Stored | None:
        """Return one version of a resource, the current one by default; a deletion is a version too."""
        where = CURRENT if version is None else "datastore_id = ? AND resource_type = ? AND id = ? AND version = ?"
        values = (datastore_id, resource_type, resource_id, *(() if version is None else (version,)))
        row = connection.execute(f"SELECT * FROM fhir_version WHERE {where}", values).fetchone()  # noqa: S608 - our own
        return None if row is None else read_version_row(row)

    def history(
        self, connection: sqlite3.Connection, datastore_id: str, resource_type: str, resource_id: str
    ) -> list[Stored]:
        """Return the versions of a resource that are listed by now, newest first."""
        rows = connection.execute(
            "SELECT * FROM fhir_version WHERE datastore_id = ? AND resource_type = ? AND id = ? AND updated_at <= ? "
            "ORDER BY version DESC",
            (datastore_id, resource_type, resource_id, self.indexed_until()),
        )
        return [read_version_row(row) for row in rows]

    def each(
        self,
        connection: sqlite3.Connection,
        datastore_id: str,
        types: Collection[str] | None = None,
        since: float | None = None,
    ) -> Iterator[Stored]:
        """Yield every current resource that is not deleted, by type and id.

        Parameters
        ----------
        types : collection of str, optional
            Only these resource types.
        since : float, optional
            Only what changed at or after this moment, in seconds since the epoch.
        """
        query = (
            "SELECT * FROM fhir_version WHERE datastore_id = ? AND superseded_at IS NULL AND NOT deleted "
            "AND (? IS NULL OR updated_at >= ?) ORDER BY resource_type, id"
        )
        for row in connection.execute(query, (datastore_id, since, since)):
            if types is None or row["resource_type"] in types:
                yield read_version_row(row)

    def _read_clock(self) -> float:
        """Return the time in whole milliseconds, rounded down: a version written now can be found now."""
        return math.floor(self._clock() * 1000) / 1000

    def _supersede(
        self, connection: sqlite3.Connection, name: tuple[str, str, str], now: float, *, kept: bool = False
    ) -> tuple[int, float | None]:
        """End the current version; return the number of the next one and when the resource was first made."""
        row = connection.execute(
            f"SELECT number, version, created_at FROM fhir_version WHERE {CURRENT}",  # noqa: S608 - names of our own
            name,
        ).fetchone()
        if row is None:
            return 1, None
        connection.execute(
            "UPDATE fhir_version SET superseded_at = ?, kept = ? WHERE number = ?", (now, kept, row["number"])
        )
        self._forget_unfindable(connection, name, now)
        return row["version"] + 1, row["created_at"]

    def _forget_unfindable(self, connection: sqlite3.Connection, name: tuple[str, str, str], now: float) -> None:
        """Drop the search rows of versions that no search can find any more."""
        connection.execute(
            "DELETE FROM fhir_search WHERE number IN (SELECT number FROM fhir_version "
            "WHERE datastore_id = ? AND resource_type = ? AND id = ? AND superseded_at <= ?)",
            (*name, now - self._search_lag),
        )

    @staticmethod
    def _insert(
        connection: sqlite3.Connection,
        name: tuple[str, str, str],
        version: int,
        times: tuple[float, float],
        body: Resource | None,
    ) -> int | None:
        return connection.execute(
            "INSERT INTO fhir_version VALUES (NULL, ?, ?, ?, ?, ?, ?, NULL, 0, ?, ?)",
            (*name, version, *times, body is None, write_document(body or {})),
        ).lastrowid


def read_version_row(row: sqlite3.Row) -> Stored:
    """Return the version that a row of ``fhir_version`` holds."""
    return Stored(
        row["resource_type"],
        row["id"],
        row["version"],
        format_instant(row["updated_at"]),
        deleted=bool(row["deleted"]),
        body=read_document(row["body"]),
    )


def format_instant(seconds: float) -> str:
    """Return a FHIR instant, in milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")
