"""Reading and deleting image sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.errors import not_found
from localaws.imaging.announcements import announce_image_set
from localaws.imaging.datastores import find_active_datastore
from localaws.imaging.pixels import CONTENT_TYPES
from localaws.imaging.resources import image_set_arn
from localaws.imaging.store import changeable_row, record_access, set_status, undeleted_row, version_row
from localaws.paging import cut_page
from localaws.shapes import drop_none

if TYPE_CHECKING:
    import sqlite3

    from localaws.imaging.pixel_files import PixelFiles
    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Settings

SETTLE = "image-set"
FAIL = "image-set-failure"
SETTLED = {
    "COPYING": "COPIED",
    "COPYING_WITH_READ_ONLY_ACCESS": "COPIED",
    "UPDATING": "UPDATED",
    "UPDATING_FOR_STUDY_CONSISTENCY": "UPDATED",
    "DELETING": "DELETED",
}
"""The workflow status that follows when a change is complete."""
MESSAGE = "INVALID_REQUEST: The change was accepted and failed."
FAILED = {"COPIED": "COPY_FAILED", "UPDATED": "UPDATE_FAILED"}
"""The workflow status that follows when the change fails."""


def _version(params: Params) -> int | None:
    return int(params["versionId"]) if "versionId" in params else None


def summarise_version(settings: Settings, row: sqlite3.Row) -> Result:
    """Return the members that every operation on image sets answers for a version."""
    return {
        "imageSetId": row["image_set_id"],
        "imageSetState": row["state"],
        "imageSetWorkflowStatus": row["workflow_status"],
        "createdAt": row["created_at"],
        "updatedAt": row["updated_at"],
        "imageSetArn": image_set_arn(settings, row["datastore_id"], row["image_set_id"]),
    }


def schedule_end(runtime: Runtime, connection: sqlite3.Connection, row: sqlite3.Row, *, fails: bool = False) -> None:
    """Schedule the end of a change of an image set, by `ImageSets.settle` or `ImageSets.fail`."""
    subject = f"{row['datastore_id']}/{row['image_set_id']}"
    runtime.schedule.add(connection, FAIL if fails else SETTLE, subject, runtime.settings.change_seconds)


class ImageSets:
    """GetImageSet, ListImageSetVersions, GetImageSetMetadata, GetImageFrame, DeleteImageSet."""

    def __init__(self, runtime: Runtime, pixel_files: PixelFiles) -> None:
        self._runtime = runtime
        self._pixel_files = pixel_files
        runtime.schedule.on(SETTLE, self.settle)
        runtime.schedule.on(FAIL, self.fail)

    def get(self, params: Params) -> Result:
        """Answer GetImageSet; a deleted image set is answered as DELETED."""
        with self._runtime.state.read() as connection:
            find_active_datastore(connection, params["datastoreId"])
            row = version_row(connection, params["datastoreId"], params["imageSetId"], _version(params))
        answer = {
            **summarise_version(self._runtime.settings, row),
            "datastoreId": row["datastore_id"],
            "versionId": str(row["version"]),
            "deletedAt": row["deleted_at"],
            "message": row["message"],
            "overrides": {"forced": True} if row["forced"] else None,
            "isPrimary": bool(row["is_primary"]),
            "lastAccessedAt": row["accessed_at"],
            "storageTier": "FREQUENT_ACCESS",
        }
        return drop_none(answer)

    def versions(self, params: Params) -> Result:
        """Answer ListImageSetVersions, newest first."""
        with self._runtime.state.read() as connection:
            find_active_datastore(connection, params["datastoreId"])
            version_row(connection, params["datastoreId"], params["imageSetId"])
            rows = connection.execute(
                "SELECT * FROM image_set_version WHERE image_set_id = ? ORDER BY version DESC", (params["imageSetId"],)
            ).fetchall()
        shown, token = cut_page(rows, params)
        return {"imageSetPropertiesList": [self._describe_listed(row) for row in shown], **token}

    @staticmethod
    def _describe_listed(row: sqlite3.Row) -> Result:
        members = {
            "imageSetId": row["image_set_id"],
            "versionId": str(row["version"]),
            "imageSetState": row["state"],
            "ImageSetWorkflowStatus": row["workflow_status"],  # spelled so in this list alone
            "createdAt": row["created_at"],
            "updatedAt": row["updated_at"],
            "deletedAt": row["deleted_at"],
            "message": row["message"],
            "overrides": {"forced": True} if row["forced"] else None,
            "isPrimary": bool(row["is_primary"]),
        }
        return drop_none(members)

    def metadata(self, params: Params) -> Result:
        """Answer GetImageSetMetadata: gzip-compressed JSON."""
        with self._runtime.state.write() as connection:
            find_active_datastore(connection, params["datastoreId"])
            row = undeleted_row(connection, params["datastoreId"], params["imageSetId"], _version(params))
            record_access(connection, row["image_set_id"])
        return {
            "imageSetMetadataBlob": row["document"],
            "contentType": "application/json",
            "contentEncoding": "gzip",
        }

    def frame(self, params: Params) -> Result:
        """Answer GetImageFrame."""
        frame_id = params["imageFrameInformation"]["imageFrameId"]
        with self._runtime.state.write() as connection:
            find_active_datastore(connection, params["datastoreId"])
            row = undeleted_row(connection, params["datastoreId"], params["imageSetId"])
            frame = connection.execute(
                "SELECT * FROM frame WHERE image_set_id = ? AND id = ?", (row["image_set_id"], frame_id)
            ).fetchone()
            if frame is None:
                raise not_found(f"image frame of image set {row['image_set_id']}", frame_id)
            record_access(connection, row["image_set_id"])
        return {
            "imageFrameBlob": self._pixel_files.read(frame["file"], frame["start"], frame["size"]),
            "contentType": CONTENT_TYPES.get(frame["transfer_syntax"], "application/octet-stream"),
        }

    def delete(self, params: Params) -> Result:
        """Answer DeleteImageSet."""
        with self._runtime.state.write() as connection:
            find_active_datastore(connection, params["datastoreId"])
            row = changeable_row(connection, params["datastoreId"], params["imageSetId"])
            set_status(connection, row, "LOCKED", "DELETING")
            row = version_row(connection, params["datastoreId"], params["imageSetId"])
            schedule_end(self._runtime, connection, row)
        self._runtime.schedule.wake()
        announce_image_set(self._runtime, row)
        names = ("imageSetId", "imageSetState", "imageSetWorkflowStatus")
        answer = summarise_version(self._runtime.settings, row)
        return {"datastoreId": row["datastore_id"], **{name: answer[name] for name in names}}

    def settle(self, subject: str) -> None:
        """Complete the change of an image set."""
        self._end(subject, SETTLED)

    def fail(self, subject: str) -> None:
        """Fail the change of an image set."""
        self._end(subject, {name: FAILED[end] for name, end in SETTLED.items() if end in FAILED})

    def _end(self, subject: str, ends: dict[str, str]) -> None:
        datastore_id, image_set_id = subject.split("/")
        with self._runtime.state.write() as connection:
            row = version_row(connection, datastore_id, image_set_id)
            status = ends.get(row["workflow_status"])
            if status is None:
                return
            message = MESSAGE if status in FAILED.values() else None
            set_status(connection, row, "DELETED" if status == "DELETED" else "ACTIVE", status, message)
            row = version_row(connection, datastore_id, image_set_id)
        announce_image_set(self._runtime, row)
