"""DICOM import jobs as the API shows them: StartDICOMImportJob, GetDICOMImportJob, ListDICOMImportJobs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError, conflict, not_found
from localaws.faults import DICOM_IMPORT
from localaws.imaging.announcements import announce_job
from localaws.imaging.datastores import find_active_datastore, find_datastore
from localaws.paging import cut_page
from localaws.resources import new_id
from localaws.rows import find_row, require_row
from localaws.shapes import drop_none
from localaws.tokens import find_replayed, remember_token

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Settings

ADVANCE = "import"
INSERT = """
INSERT INTO import_job (
    id, datastore_id, name, status, role_arn, input_uri, output_uri, input_owner, client_token, submitted_at, phase,
    faults
) VALUES (:id, :datastoreId, :name, 'SUBMITTED', :role, :input, :output, :owner, :token, :now, 'waiting', :faults)
"""


def job_folder(job: sqlite3.Row) -> str:
    """Return the S3 URI of a job's own output folder, with its trailing slash."""
    return f"{job['output_uri'].rstrip('/')}/{job['datastore_id']}-DicomImport-{job['id']}/"


def describe_job(settings: Settings, job: sqlite3.Row) -> dict[str, Any]:
    """Return a job as GetDICOMImportJob answers it."""
    members = {
        "jobId": job["id"],
        "jobName": job["name"],
        "jobStatus": job["status"],
        "datastoreId": job["datastore_id"],
        "dataAccessRoleArn": job["role_arn"],
        "submittedAt": job["submitted_at"],
        "endedAt": job["ended_at"],
        "inputS3Uri": job["input_uri"],
        "outputS3Uri": job_folder(job) if settings.choice("output_uri") == "job_folder" else job["output_uri"],
        "message": job["message"],
    }
    return drop_none(members)


class ImportJobs:
    """The three operations on import jobs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def start(self, params: Params) -> Result:
        """Answer StartDICOMImportJob; the same client token and parameters again answer the first job."""
        if "importConfiguration" in params:
            # AWS publishes no schema for the files that it names.
            message = "StartDICOMImportJob with importConfiguration is not emulated by localaws."
            raise AwsError("NotImplementedException", message, 501)
        with self._runtime.state.write() as connection:
            refused = conflict if self._runtime.settings.choice("reused_token") == "refused" else None
            job_id = find_replayed(connection, "StartDICOMImportJob", params, refused)
            is_new = job_id is None
            if job_id is None:
                find_active_datastore(connection, params["datastoreId"])
                self._check_quota(connection, params["datastoreId"])
                job_id = self._insert(connection, params)
                remember_token(connection, "StartDICOMImportJob", params, job_id)
                self._runtime.schedule.add(connection, ADVANCE, job_id, self._runtime.settings.submitted_seconds)
            job = require_row(connection, "import_job", job_id, "import job")
        if is_new:
            self._runtime.schedule.wake()
            announce_job(self._runtime, describe_job(self._runtime.settings, job))
        return {
            "datastoreId": job["datastore_id"],
            "jobId": job["id"],
            "jobStatus": job["status"],
            "submittedAt": job["submitted_at"],
        }

    def _check_quota(self, connection: sqlite3.Connection, datastore_id: str) -> None:
        limit = self._runtime.settings.max_jobs_per_datastore
        query = "SELECT count(*) FROM import_job WHERE datastore_id = ? AND ended_at IS NULL"
        (count,) = connection.execute(query, (datastore_id,)).fetchone()
        if count >= limit:
            message = f"The data store {datastore_id} has {count} unfinished import jobs; {limit} are allowed."
            raise AwsError("ServiceQuotaExceededException", message)

    def _insert(self, connection: sqlite3.Connection, params: Params) -> str:
        job_id = new_id()
        name = params.get("jobName", job_id)
        faults = self._runtime.faults.for_job(connection, DICOM_IMPORT, name, params["inputS3Uri"])
        values = {
            "id": job_id,
            "datastoreId": params["datastoreId"],
            "name": name,
            "role": params["dataAccessRoleArn"],
            "input": params["inputS3Uri"],
            "output": params["outputS3Uri"],
            "owner": params.get("inputOwnerAccountId"),
            "token": params["clientToken"],
            "now": time.time(),
            "faults": json.dumps([asdict(fault) for fault in faults]),
        }
        connection.execute(INSERT, values)
        return job_id

    def get(self, params: Params) -> Result:
        """Answer GetDICOMImportJob."""
        with self._runtime.state.read() as connection:
            find_datastore(connection, params["datastoreId"])
            job = find_row(connection, "import_job", params["jobId"])
        if job is None or job["datastore_id"] != params["datastoreId"]:
            raise not_found("import job", params["jobId"])
        return {"jobProperties": describe_job(self._runtime.settings, job)}

    def list_jobs(self, params: Params) -> Result:
        """Answer ListDICOMImportJobs, newest first."""
        with self._runtime.state.read() as connection:
            find_datastore(connection, params["datastoreId"])
            jobs = connection.execute(
                "SELECT * FROM import_job WHERE datastore_id = ? AND status LIKE ? ORDER BY submitted_at DESC, id",
                (params["datastoreId"], params.get("jobStatus", "%")),
            ).fetchall()
        shown, token = cut_page(jobs, params)
        return {"jobSummaries": [self._summary(job) for job in shown], **token}

    def _summary(self, job: sqlite3.Row) -> Result:
        members = (
            "jobId",
            "jobName",
            "jobStatus",
            "datastoreId",
            "dataAccessRoleArn",
            "endedAt",
            "submittedAt",
            "message",
        )
        return {name: value for name, value in describe_job(self._runtime.settings, job).items() if name in members}

    def started(self) -> list[dict[str, str]]:
        """Return every job, oldest first, with the members that tell jobs apart."""
        with self._runtime.state.read() as connection:
            jobs = connection.execute("SELECT * FROM import_job ORDER BY submitted_at, id").fetchall()
        return [
            {
                "jobId": job["id"],
                "jobName": job["name"],
                "datastoreId": job["datastore_id"],
                "jobStatus": job["status"],
                "clientToken": job["client_token"],
                "inputS3Uri": job["input_uri"],
            }
            for job in jobs
        ]

    def subject(self, params: Params) -> tuple[str, str]:
        """Return name and input URI of the job that a call is about, for matching faults; empty for other calls."""
        if "inputS3Uri" in params:
            return params.get("jobName", ""), params["inputS3Uri"]
        if "jobId" not in params:
            return "", ""
        with self._runtime.state.read() as connection:
            job = find_row(connection, "import_job", params["jobId"])
        return (job["name"], job["input_uri"]) if job else ("", "")
