"""Image sets and their versions in the database: the only module that writes those tables."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localaws.errors import conflict, not_found
from localaws.imaging.documents import Document, StoredFrame, grouping_of, read_document, write_document
from localaws.imaging.search_tags import search_tags

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

ROW = """
SELECT image_set.datastore_id, image_set.accessed_at, image_set_version.*
FROM image_set_version JOIN image_set ON image_set.id = image_set_version.image_set_id
WHERE image_set.datastore_id = ? AND image_set.id = ? AND version = coalesce(?, image_set.latest_version)
"""
INSERT_IMAGE_SET = """
INSERT INTO image_set (
    id, datastore_id, latest_version, is_primary, created_at, updated_at, accessed_at, patient_id, accession_number,
    study_id, study_uid, series_uid, study_date, study_time, grouping, tags
) VALUES (
    :id, :datastore_id, 1, :is_primary, :now, :now, :now, :patient_id, :accession_number,
    :study_id, :study_uid, :series_uid, :study_date, :study_time, :grouping, :tags
)
"""
UPDATE_IMAGE_SET = """
UPDATE image_set SET latest_version = :version, updated_at = :now, patient_id = :patient_id,
    accession_number = :accession_number, study_id = :study_id, study_uid = :study_uid, series_uid = :series_uid,
    study_date = :study_date, study_time = :study_time, grouping = :grouping, tags = :tags
WHERE id = :id
"""


@dataclass(frozen=True)
class Status:
    """Status, state and message of a new version."""

    workflow_status: str
    state: str = "ACTIVE"
    forced: bool = False
    message: str | None = None


def version_row(
    connection: sqlite3.Connection, datastore_id: str, image_set_id: str, version: int | None = None
) -> sqlite3.Row:
    """Return one version of an image set, the latest by default.

    Raises
    ------
    AwsError
        ResourceNotFoundException.
    """
    row: sqlite3.Row | None = connection.execute(ROW, (datastore_id, image_set_id, version)).fetchone()
    if row is None:
        raise not_found("image set" if version is None else f"version {version} of image set", image_set_id)
    return row


def undeleted_row(
    connection: sqlite3.Connection, datastore_id: str, image_set_id: str, version: int | None = None
) -> sqlite3.Row:
    """Return one version of an image set that is not deleted.

    Raises
    ------
    AwsError
        ResourceNotFoundException.
    """
    latest = version_row(connection, datastore_id, image_set_id)
    if latest["state"] == "DELETED":
        raise not_found("image set", image_set_id)
    return latest if version is None else version_row(connection, datastore_id, image_set_id, version)


def changeable_row(
    connection: sqlite3.Connection, datastore_id: str, image_set_id: str, version: str | None = None
) -> sqlite3.Row:
    """Return the latest version of an image set that can be changed now.

    Raises
    ------
    AwsError
        ConflictException: it is being changed, or `version` is not its latest; ResourceNotFoundException.
    """
    row = undeleted_row(connection, datastore_id, image_set_id)
    if row["state"] != "ACTIVE":
        raise conflict(f"The image set {image_set_id} is {row['state']} ({row['workflow_status']}); wait until ACTIVE.")
    if version is not None and int(version) != row["version"]:
        raise conflict(f"Version {version} of image set {image_set_id} is not its latest, {row['version']}.")
    return row


def document_of(row: sqlite3.Row) -> Document:
    """Return the metadata document of a version."""
    return read_document(row["document"])


def add_image_set(connection: sqlite3.Connection, document: Document, is_primary: bool, status: Status) -> None:
    """Make an image set with version 1."""
    now = time.time()
    values = _search_columns(document) | {
        "id": document["ImageSetID"],
        "datastore_id": document["DatastoreID"],
        "is_primary": is_primary,
        "now": now,
    }
    connection.execute(INSERT_IMAGE_SET, values)
    _insert_version(connection, document, status, version=1, created_at=now, is_primary=is_primary)


def add_version(connection: sqlite3.Connection, row: sqlite3.Row, document: Document, status: Status) -> int:
    """Make the next version of an image set; `row` is its latest one. Returns the new version's number."""
    version = row["version"] + 1
    values = {"version": version, "now": time.time(), "id": row["image_set_id"]}
    connection.execute(UPDATE_IMAGE_SET, _search_columns(document) | values)
    _insert_version(
        connection, document, status, version=version, created_at=row["created_at"], is_primary=bool(row["is_primary"])
    )
    return int(version)


def _insert_version(
    connection: sqlite3.Connection,
    document: Document,
    status: Status,
    *,
    version: int,
    created_at: float,
    is_primary: bool,
) -> None:
    connection.execute(
        "INSERT INTO image_set_version VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?)",
        (
            document["ImageSetID"],
            version,
            status.state,
            status.workflow_status,
            created_at,
            time.time(),
            status.message,
            status.forced,
            is_primary,
            write_document(document),
        ),
    )


def set_status(
    connection: sqlite3.Connection, row: sqlite3.Row, state: str, workflow_status: str, message: str | None = None
) -> None:
    """Change state, workflow status and message of a version, in place."""
    now = time.time()
    deleted_at = now if state == "DELETED" else None
    connection.execute(
        "UPDATE image_set_version SET state = ?, workflow_status = ?, message = ?, updated_at = ?, deleted_at = ? "
        "WHERE image_set_id = ? AND version = ?",
        (state, workflow_status, message, now, deleted_at, row["image_set_id"], row["version"]),
    )
    connection.execute(
        "UPDATE image_set SET updated_at = ?, deleted_at = ? WHERE id = ?", (now, deleted_at, row["image_set_id"])
    )


def record_access(connection: sqlite3.Connection, image_set_id: str) -> None:
    """Record that an image set's data was read."""
    connection.execute("UPDATE image_set SET accessed_at = ? WHERE id = ?", (time.time(), image_set_id))


def add_frames(connection: sqlite3.Connection, image_set_id: str, frames: Iterable[StoredFrame]) -> None:
    """Record the positions of frames of an image set."""
    connection.executemany(
        "INSERT OR REPLACE INTO frame VALUES (?, ?, ?, ?, ?, ?)",
        [(image_set_id, frame.id, frame.file, frame.start, frame.size, frame.transfer_syntax) for frame in frames],
    )


def share_frames(connection: sqlite3.Connection, source_id: str, target_id: str, frame_ids: Iterable[str]) -> None:
    """Give frames to another image set too, under the same IDs."""
    connection.executemany(
        "INSERT OR REPLACE INTO frame SELECT ?, id, file, start, size, transfer_syntax FROM frame "
        "WHERE image_set_id = ? AND id = ?",
        [(target_id, source_id, frame_id) for frame_id in frame_ids],
    )


def _search_columns(document: Document) -> dict[str, Any]:
    tags = search_tags(document)
    columns = {
        "patient_id": "DICOMPatientId",
        "accession_number": "DICOMAccessionNumber",
        "study_id": "DICOMStudyId",
        "study_uid": "DICOMStudyInstanceUID",
        "series_uid": "DICOMSeriesInstanceUID",
        "study_date": "DICOMStudyDate",
        "study_time": "DICOMStudyTime",
    }
    return {column: tags.get(tag, "") for column, tag in columns.items()} | {
        "grouping": grouping_of(document).dump(),
        "tags": json.dumps(tags),
    }
