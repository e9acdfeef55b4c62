"""FHIR data stores and their statuses: CREATING, ACTIVE, UPDATING, DELETING, DELETED."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from localaws.errors import AwsError, conflict, invalid, not_found
from localaws.healthlake.announcements import announce_datastore
from localaws.healthlake.resources import PAGE_MEMBERS, datastore_arn, datastore_endpoint
from localaws.healthlake.tags import as_mapping
from localaws.paging import cut_page
from localaws.resources import new_id
from localaws.rows import require_row
from localaws.shapes import drop_none
from localaws.tags import put_tags
from localaws.tokens import find_replayed, remember_token

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from typing import Any

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Seed, Settings

SETTLE = "fhir-datastore"
CONFIGURATION = (
    "SseConfiguration",
    "IdentityProviderConfiguration",
    "AnalyticsConfiguration",
    "NlpConfiguration",
    "ProfileConfiguration",
    "BackupConfiguration",
)
DEFAULTS: Mapping[str, Any] = {
    "SseConfiguration": {"KmsEncryptionConfig": {"CmkType": "AWS_OWNED_KMS_KEY"}},
    "IdentityProviderConfiguration": {"AuthorizationStrategy": "AWS_AUTH", "FineGrainedAuthorizationEnabled": False},
}
SETTLED = {"CREATING": ("ACTIVE", "Active"), "UPDATING": ("ACTIVE", ""), "DELETING": ("DELETED", "Deleted")}
"""Status that follows by itself, and the end of its event's name; AWS documents no event for an update."""


def find_datastore(connection: sqlite3.Connection, datastore_id: str) -> sqlite3.Row:
    """Return the row of a data store, deleted ones too.

    Raises
    ------
    AwsError
        ResourceNotFoundException.
    """
    return require_row(connection, "fhir_datastore", datastore_id, "data store")


def find_active_datastore(connection: sqlite3.Connection, datastore_id: str, settings: Settings) -> sqlite3.Row:
    """Return the row of a data store that can be worked with.

    Raises
    ------
    AwsError
        ResourceNotFoundException for an unknown or deleted one, ValidationException while it is created or deleted.
    """
    row = find_datastore(connection, datastore_id)
    if row["status"] == "DELETED":
        raise not_found("data store", datastore_id)
    if row["status"] not in usable_statuses(settings):
        raise invalid(f"The data store {datastore_id} is {row['status']}; wait until it is ACTIVE.")
    return row


def usable_statuses(settings: Settings) -> set[str]:
    """Return the statuses in which a data store accepts imports."""
    return {"ACTIVE"} | ({"UPDATE_FAILED"} if settings.choice("update_failed_store") == "usable" else set())


class Datastores:
    """The operations on data stores."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        runtime.schedule.on(SETTLE, self.settle)

    def seed(self, seed: Seed) -> None:
        """Make an ACTIVE data store with a fixed identifier, unless it exists."""
        with self._runtime.state.write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO fhir_datastore VALUES (?, ?, 'ACTIVE', ?, ?)",
                (seed.id, seed.name, time.time(), json.dumps(DEFAULTS)),
            )

    def is_active(self, datastore_id: str) -> bool:
        """Return whether the FHIR REST plane answers for this data store."""
        with self._runtime.state.read() as connection:
            row = connection.execute("SELECT status FROM fhir_datastore WHERE id = ?", (datastore_id,)).fetchone()
        return row is not None and row["status"] in usable_statuses(self._runtime.settings) | {"UPDATING"}

    def create(self, params: Params) -> Result:
        """Answer CreateFHIRDatastore."""
        _check_configuration(params)
        with self._runtime.state.write() as connection:
            datastore_id = find_replayed(connection, "CreateFHIRDatastore", params, invalid)
            is_new = datastore_id is None
            if datastore_id is None:
                datastore_id = self._insert(connection, params)
                remember_token(connection, "CreateFHIRDatastore", params, datastore_id)
                self._runtime.schedule.add(connection, SETTLE, datastore_id, self._runtime.settings.change_seconds)
            row = find_datastore(connection, datastore_id)
        self._runtime.schedule.wake()
        if is_new:
            announce_datastore(self._runtime, row, "Creating")
        return self._answer(row)

    def _insert(self, connection: sqlite3.Connection, params: Params) -> str:
        datastore_id = new_id()
        chosen = {name: params[name] for name in CONFIGURATION if name in params}
        connection.execute(
            "INSERT INTO fhir_datastore VALUES (?, ?, 'CREATING', ?, ?)",
            (datastore_id, params.get("DatastoreName"), time.time(), json.dumps({**DEFAULTS, **chosen})),
        )
        put_tags(connection, datastore_arn(self._runtime.settings, datastore_id), as_mapping(params.get("Tags", [])))
        return datastore_id

    def _answer(self, row: sqlite3.Row) -> Result:
        names = ("DatastoreId", "DatastoreArn", "DatastoreStatus", "DatastoreEndpoint")
        return {name: value for name, value in self._properties(row).items() if name in names}

    def _properties(self, row: sqlite3.Row) -> Result:
        configuration = json.loads(row["configuration"])
        backup = configuration.pop("BackupConfiguration", None)
        members = {
            "DatastoreId": row["id"],
            "DatastoreArn": datastore_arn(self._runtime.settings, row["id"]),
            "DatastoreName": row["name"],
            "DatastoreStatus": row["status"],
            "CreatedAt": row["created_at"],
            "DatastoreTypeVersion": "R4",
            "DatastoreEndpoint": datastore_endpoint(self._runtime.settings, row["id"]),
            "BackupStatusInfo": {"Configuration": backup} if backup else None,
            **configuration,
        }
        return drop_none(members)

    def describe(self, params: Params) -> Result:
        """Answer DescribeFHIRDatastore; a deleted data store is answered as DELETED."""
        with self._runtime.state.read() as connection:
            return {"DatastoreProperties": self._properties(find_datastore(connection, params["DatastoreId"]))}

    def list_datastores(self, params: Params) -> Result:
        """Answer ListFHIRDatastores, newest first."""
        with self._runtime.state.read() as connection:
            rows = connection.execute("SELECT * FROM fhir_datastore ORDER BY created_at DESC, id").fetchall()
        wanted = [row for row in rows if _passes(row, params.get("Filter", {}))]
        shown, token = cut_page(wanted, params, *PAGE_MEMBERS)
        return {"DatastorePropertiesList": [self._properties(row) for row in shown], **token}

    def update(self, params: Params) -> Result:
        """Answer UpdateFHIRDatastore: name and configurations that are given replace those that were."""
        _check_configuration(params)
        with self._runtime.state.write() as connection:
            row = self._check_unused(connection, params["DatastoreId"])
            chosen = {name: params[name] for name in CONFIGURATION if name in params}
            connection.execute(
                "UPDATE fhir_datastore SET name = ?, configuration = ?, status = 'UPDATING' WHERE id = ?",
                (
                    params.get("DatastoreName", row["name"]),
                    json.dumps({**json.loads(row["configuration"]), **chosen}),
                    row["id"],
                ),
            )
            self._runtime.schedule.add(connection, SETTLE, row["id"], self._runtime.settings.change_seconds)
            changed = find_datastore(connection, row["id"])
        self._runtime.schedule.wake()
        return {"DatastoreProperties": self._properties(changed)}

    def delete(self, params: Params) -> Result:
        """Answer DeleteFHIRDatastore; the same call again changes nothing."""
        with self._runtime.state.write() as connection:
            row = find_datastore(connection, params["DatastoreId"])
            begins = row["status"] not in {"DELETING", "DELETED"}
            if begins:
                self._check_unused(connection, row["id"])
                connection.execute("UPDATE fhir_datastore SET status = 'DELETING' WHERE id = ?", (row["id"],))
                self._runtime.schedule.add(connection, SETTLE, row["id"], self._runtime.settings.change_seconds)
                row = find_datastore(connection, row["id"])
        self._runtime.schedule.wake()
        if begins:
            announce_datastore(self._runtime, row, "Deleting")
        return self._answer(row)

    @staticmethod
    def _check_unused(connection: sqlite3.Connection, datastore_id: str) -> sqlite3.Row:
        """Return the row of a data store that nothing works on; the two operations know a ConflictException."""
        row = find_datastore(connection, datastore_id)
        if row["status"] == "DELETED":
            raise not_found("data store", datastore_id)
        if row["status"] not in {"ACTIVE", "UPDATE_FAILED"}:
            raise conflict(f"The data store {datastore_id} is {row['status']}; wait until it is ACTIVE.")
        jobs = "SELECT count(*) FROM fhir_job WHERE datastore_id = ? AND ended_at IS NULL"
        (count,) = connection.execute(jobs, (datastore_id,)).fetchone()
        if count:
            raise conflict(f"The data store {datastore_id} has {count} unfinished jobs; wait until they have ended.")
        return row

    def settle(self, datastore_id: str) -> None:
        """Finish a change of a data store."""
        with self._runtime.state.write() as connection:
            before = find_datastore(connection, datastore_id)["status"]
            status, event = SETTLED[before]
            if before == "UPDATING" and self._runtime.settings.choice("fhir_update_ends") == "update_failed":
                status = "UPDATE_FAILED"
            connection.execute("UPDATE fhir_datastore SET status = ? WHERE id = ?", (status, datastore_id))
            row = find_datastore(connection, datastore_id)
        if event:
            announce_datastore(self._runtime, row, event)


def _check_configuration(params: Params) -> None:
    if "PreloadDataConfig" in params:
        raise AwsError("NotImplementedException", "PreloadDataConfig is not emulated by localaws.", 501)
    if params.get("AnalyticsConfiguration", {}).get("Status") == "DISABLED":
        raise invalid("$.AnalyticsConfiguration.Status: must not be DISABLED")


def _passes(row: sqlite3.Row, wanted: Mapping[str, Any]) -> bool:
    return (
        wanted.get("DatastoreName") in (None, row["name"])
        and wanted.get("DatastoreStatus") in (None, row["status"])
        and row["created_at"] < wanted.get("CreatedBefore", float("inf"))
        and row["created_at"] > wanted.get("CreatedAfter", float("-inf"))
    )
