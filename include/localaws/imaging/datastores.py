"""Data stores and their statuses: CREATING, ACTIVE, DELETING, DELETED."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from localaws.errors import AwsError, conflict, not_found
from localaws.imaging.announcements import announce_datastore
from localaws.imaging.resources import datastore_arn
from localaws.paging import cut_page
from localaws.resources import new_id
from localaws.rows import require_row
from localaws.shapes import drop_none
from localaws.tags import put_tags
from localaws.tokens import find_replayed, remember_token

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Seed

SETTLE, FAIL = "datastore", "datastore-failure"


def find_datastore(connection: sqlite3.Connection, datastore_id: str) -> sqlite3.Row:
    """Return the row of a data store, deleted ones too.

    Raises
    ------
    AwsError
        ResourceNotFoundException.
    """
    return require_row(connection, "datastore", datastore_id, "data store")


def find_active_datastore(connection: sqlite3.Connection, datastore_id: str) -> sqlite3.Row:
    """Return the row of a data store that can be worked with.

    Raises
    ------
    AwsError
        ResourceNotFoundException for an unknown or deleted one, ConflictException while it is created or deleted.
    """
    row = find_datastore(connection, datastore_id)
    if row["status"] == "DELETED":
        raise not_found("data store", datastore_id)
    if row["status"] != "ACTIVE":
        raise conflict(f"The data store {datastore_id} is {row['status']}; wait until it is ACTIVE.")
    return row


class Datastores:
    """CreateDatastore, GetDatastore, ListDatastores, DeleteDatastore."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        runtime.schedule.on(SETTLE, self.settle)
        runtime.schedule.on(FAIL, self.fail)

    def seed(self, seed: Seed) -> None:
        """Make an ACTIVE data store with a fixed identifier, unless it exists."""
        now = time.time()
        with self._runtime.state.write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO datastore (id, name, status, created_at, updated_at) VALUES (?, ?, ?, ?, ?)",
                (seed.id, seed.name, "ACTIVE", now, now),
            )

    def create(self, params: Params) -> Result:
        """Answer CreateDatastore."""
        with self._runtime.state.write() as connection:
            datastore_id = find_replayed(connection, "CreateDatastore", params)
            if datastore_id is None:
                self._check_quota(connection)
                datastore_id = self._insert(connection, params)
                remember_token(connection, "CreateDatastore", params, datastore_id)
                fails = self._runtime.faults.strikes_change(connection, "create_failed")
                end = FAIL if fails else SETTLE
                self._runtime.schedule.add(connection, end, datastore_id, self._runtime.settings.change_seconds)
            row = find_datastore(connection, datastore_id)
        self._runtime.schedule.wake()
        announce_datastore(self._runtime, row["id"], row["name"], row["status"], "Creating")
        return {"datastoreId": row["id"], "datastoreStatus": row["status"]}

    def _check_quota(self, connection: sqlite3.Connection) -> None:
        limit = self._runtime.settings.max_datastores
        (count,) = connection.execute("SELECT count(*) FROM datastore WHERE status != 'DELETED'").fetchone()
        if count >= limit:
            raise AwsError("ServiceQuotaExceededException", f"This account has its {limit} data stores already.")

    def _insert(self, connection: sqlite3.Connection, params: Params) -> str:
        datastore_id, now = new_id(), time.time()
        connection.execute(
            "INSERT INTO datastore VALUES (?, ?, 'CREATING', ?, ?, ?, ?, ?)",
            (
                datastore_id,
                params.get("datastoreName", datastore_id),
                now,
                now,
                params.get("kmsKeyArn"),
                params.get("lambdaAuthorizerArn"),
                params.get("losslessStorageFormat"),
            ),
        )
        put_tags(connection, datastore_arn(self._runtime.settings, datastore_id), params.get("tags", {}))
        return datastore_id

    def get(self, params: Params) -> Result:
        """Answer GetDatastore; a deleted data store is answered as DELETED."""
        with self._runtime.state.read() as connection:
            row = find_datastore(connection, params["datastoreId"])
        properties = {
            **self._summary(row),
            "kmsKeyArn": row["kms_key_arn"],
            "lambdaAuthorizerArn": row["lambda_authorizer_arn"],
            "losslessStorageFormat": row["lossless_storage_format"],
        }
        return {"datastoreProperties": drop_none(properties)}

    def list_datastores(self, params: Params) -> Result:
        """Answer ListDatastores, newest first."""
        with self._runtime.state.read() as connection:
            rows = connection.execute("SELECT * FROM datastore ORDER BY created_at DESC, id").fetchall()
        wanted = params.get("datastoreStatus")
        shown, token = cut_page([row for row in rows if wanted in (None, row["status"])], params)
        return {"datastoreSummaries": [self._summary(row) for row in shown], **token}

    def _summary(self, row: sqlite3.Row) -> Result:
        return {
            "datastoreId": row["id"],
            "datastoreName": row["name"],
            "datastoreStatus": row["status"],
            "datastoreArn": datastore_arn(self._runtime.settings, row["id"]),
            "createdAt": row["created_at"],
            "updatedAt": row["updated_at"],
        }

    def delete(self, params: Params) -> Result:
        """Answer DeleteDatastore; the same call again changes nothing."""
        with self._runtime.state.write() as connection:
            row = find_datastore(connection, params["datastoreId"])
            if row["status"] not in {"DELETING", "DELETED"}:
                find_active_datastore(connection, row["id"])
                self._check_empty(connection, row["id"])
                self._set_status(connection, row["id"], "DELETING")
                self._runtime.schedule.add(connection, SETTLE, row["id"], self._runtime.settings.change_seconds)
            row = find_datastore(connection, row["id"])
        self._runtime.schedule.wake()
        announce_datastore(self._runtime, row["id"], row["name"], row["status"], "Deleting")
        return {"datastoreId": row["id"], "datastoreStatus": row["status"]}

    @staticmethod
    def _check_empty(connection: sqlite3.Connection, datastore_id: str) -> None:
        sets = "SELECT count(*) FROM image_set WHERE datastore_id = ? AND deleted_at IS NULL"
        jobs = "SELECT count(*) FROM import_job WHERE datastore_id = ? AND ended_at IS NULL"
        for query, what in ((sets, "image sets"), (jobs, "unfinished import jobs")):
            (count,) = connection.execute(query, (datastore_id,)).fetchone()
            if count:
                raise conflict(f"The data store {datastore_id} has {count} {what}; it can be deleted without them.")

    @staticmethod
    def _set_status(connection: sqlite3.Connection, datastore_id: str, status: str) -> None:
        connection.execute(
            "UPDATE datastore SET status = ?, updated_at = ? WHERE id = ?", (status, time.time(), datastore_id)
        )

    def settle(self, datastore_id: str) -> None:
        """Finish a change: CREATING becomes ACTIVE, DELETING becomes DELETED."""
        self._end(datastore_id, {"CREATING": ("ACTIVE", "Created"), "DELETING": ("DELETED", "Deleted")})

    def fail(self, datastore_id: str) -> None:
        """Fail the creation of a data store."""
        self._end(datastore_id, {"CREATING": ("CREATE_FAILED", "Creation Failed")})

    def _end(self, datastore_id: str, ends: dict[str, tuple[str, str]]) -> None:
        with self._runtime.state.write() as connection:
            row = find_datastore(connection, datastore_id)
            status, event = ends[row["status"]]
            self._set_status(connection, datastore_id, status)
        announce_datastore(self._runtime, datastore_id, row["name"], status, event)
