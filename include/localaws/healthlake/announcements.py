"""HealthLake's EventBridge events (developer guide, "Monitoring HealthLake events in EventBridge")."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from localaws.healthlake.resources import datastore_arn, datastore_endpoint

if TYPE_CHECKING:
    import sqlite3

    from localaws.runtime import Runtime

SOURCE = "aws.healthlake"
WITHOUT_EVENT = frozenset({"CANCEL_SUBMITTED", "CANCEL_IN_PROGRESS", "CANCEL_COMPLETED", "CANCEL_FAILED"})
"""Job statuses that AWS documents no event for."""


def announce_datastore(runtime: Runtime, datastore: sqlite3.Row, event: str) -> None:
    """Send ``Data Store <event>``."""
    detail = {
        "datastoreId": datastore["id"],
        "datastoreName": datastore["name"],
        "datastoreTypeVersion": "R4",
        "datastoreEndpoint": datastore_endpoint(runtime.settings, datastore["id"]),
    }
    arn = datastore_arn(runtime.settings, datastore["id"])
    runtime.events.send(SOURCE, f"Data Store {event}", [arn], detail)


def announce_job(runtime: Runtime, job: sqlite3.Row) -> None:
    """Send ``Import Job <status>`` or ``Export Job <status>``; only the detail-type has the status."""
    if job["status"] in WITHOUT_EVENT:
        return
    submitted = datetime.fromtimestamp(job["submitted_at"], UTC)
    detail: dict[str, Any] = {
        "jobId": job["id"],
        "submitTime": submitted.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datastoreId": job["datastore_id"],
    }
    if job["kind"] == "IMPORT":
        detail["inputDataConfig"] = {"s3Uri": job["input_uri"]}
    else:
        detail["outputDataConfig"] = {"s3Uri": job["output_uri"]}
    words = f"{job['kind']} Job {job['status'].replace('_', ' ')}".title()
    runtime.events.send(SOURCE, words, [datastore_arn(runtime.settings, job["datastore_id"])], detail)
