"""HealthImaging's EventBridge events (developer guide, "Using Amazon EventBridge with HealthImaging")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localaws.imaging.resources import datastore_arn, image_set_arn

if TYPE_CHECKING:
    import sqlite3

    from localaws.runtime import Runtime

SOURCE = "aws.medical-imaging"
IMAGING_VERSION = "1.0"
WITHOUT_EVENT = frozenset({"UPDATING_FOR_STUDY_CONSISTENCY"})
"""Workflow statuses that AWS documents no event for."""


def announce_datastore(runtime: Runtime, datastore_id: str, name: str, status: str, event: str) -> None:
    """Send ``Data Store <event>``."""
    detail = {
        "imagingVersion": IMAGING_VERSION,
        "datastoreId": datastore_id,
        "datastoreName": name,
        "datastoreStatus": status,
    }
    arn = datastore_arn(runtime.settings, datastore_id)
    runtime.events.send(SOURCE, f"Data Store {event}", [arn], detail)


def announce_job(runtime: Runtime, job: dict[str, Any]) -> None:
    """Send ``Import Job <status>``; `job` holds members as GetDICOMImportJob answers them."""
    names = ("datastoreId", "jobId", "jobName", "jobStatus", "inputS3Uri", "outputS3Uri")
    detail = {"imagingVersion": IMAGING_VERSION, **{name: job[name] for name in names}}
    event = job["jobStatus"].replace("_", " ").title()
    runtime.events.send(SOURCE, f"Import Job {event}", [datastore_arn(runtime.settings, job["datastoreId"])], detail)


def announce_image_set(runtime: Runtime, version: sqlite3.Row) -> None:
    """Send ``Image Set <workflow status>``; `version` is a row of `store.version_row`."""
    if version["workflow_status"] in WITHOUT_EVENT:
        return
    detail = {
        "imagingVersion": IMAGING_VERSION,
        "isPrimary": bool(version["is_primary"]),
        "imageSetVersion": str(version["version"]),
        "datastoreId": version["datastore_id"],
        "imagesetId": version["image_set_id"],
        "imageSetState": version["state"],
        "imageSetWorkflowStatus": version["workflow_status"],
    }
    event = version["workflow_status"].replace("_", " ").title()
    arn = image_set_arn(runtime.settings, version["datastore_id"], version["image_set_id"])
    runtime.events.send(SOURCE, f"Image Set {event}", [arn], detail)
