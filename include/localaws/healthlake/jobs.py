"""FHIR import and export jobs as the API shows them: Start, Describe and List of each."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError, invalid, not_found
from localaws.faults import FHIR_EXPORT, FHIR_IMPORT
from localaws.healthlake.announcements import announce_job
from localaws.healthlake.counts import counts_of, progress_report
from localaws.healthlake.datastores import find_active_datastore, find_datastore
from localaws.healthlake.resources import PAGE_MEMBERS
from localaws.paging import cut_page
from localaws.resources import new_id
from localaws.rows import find_row, require_row
from localaws.shapes import drop_none
from localaws.tokens import find_replayed, remember_token

if TYPE_CHECKING:
    import sqlite3

    from localaws.healthlake.objects import Objects
    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Settings

IMPORT, EXPORT = "IMPORT", "EXPORT"
INSERT = """
INSERT INTO fhir_job (
    id, kind, datastore_id, name, status, role_arn, input_uri, output_uri, kms_key_id, validation_level, client_token,
    submitted_at, phase, faults
) VALUES (
    :id, :kind, :datastore, :name, 'SUBMITTED', :role, :input, :output, :key, :level, :token, :now, 'waiting', :faults
)
"""
LISTED = """
SELECT * FROM fhir_job WHERE kind = ? AND datastore_id = ? AND status LIKE ? AND (? IS NULL OR name = ?)
AND submitted_at < ? AND submitted_at > ? ORDER BY number DESC
"""


def enqueue_step(kind: str) -> str:
    """Return the name of the step that puts a submitted job into its queue."""
    return f"fhir-{kind.lower()}-submitted"


def job_folder(job: sqlite3.Row) -> str:
    """Return the S3 URI of a job's own output folder, with its trailing slash."""
    return f"{job['output_uri'].rstrip('/')}/{job['datastore_id']}-FHIR_{job['kind']}-{job['id']}/"


def describe_job(settings: Settings, connection: sqlite3.Connection, job: sqlite3.Row) -> dict[str, Any]:
    """Return a job as its Describe operation answers it."""
    uri = job_folder(job) if settings.choice("output_uri") == "job_folder" else job["output_uri"]
    output = {"S3Configuration": {"S3Uri": uri, "KmsKeyId": job["kms_key_id"]}}
    members: dict[str, Any] = {
        "JobId": job["id"],
        "JobName": job["name"],
        "JobStatus": job["status"],
        "SubmitTime": job["submitted_at"],
        "EndTime": job["ended_at"],
        "DatastoreId": job["datastore_id"],
        "DataAccessRoleArn": job["role_arn"],
        "Message": job["message"],
    }
    if job["kind"] == EXPORT:
        return drop_none({**members, "OutputDataConfig": output})
    members["InputDataConfig"] = {"S3Uri": job["input_uri"]}
    members["JobOutputDataConfig"] = output
    members["ValidationLevel"] = job["validation_level"]
    if job["started_at"] is not None:
        members["JobProgressReport"] = progress_report(job, counts_of(connection, job["id"]))
    return drop_none(members)


class Jobs:
    """The six operations on import and export jobs."""

    def __init__(self, runtime: Runtime, objects: Objects) -> None:
        self._runtime = runtime
        self._objects = objects

    def start_import(self, params: Params) -> Result:
        """Answer StartFHIRImportJob; the same client token and parameters again answer the first job."""
        if "ProfileId" in params or "InputFormat" in params:
            # AWS does not say where such a job writes its converted files.
            message = "StartFHIRImportJob with ProfileId or InputFormat is not emulated by localaws."
            raise AwsError("NotImplementedException", message, 501)
        return self._start(IMPORT, params, params["JobOutputDataConfig"]["S3Configuration"])

    def start_export(self, params: Params) -> Result:
        """Answer StartFHIRExportJob; the same client token and parameters again answer the first job."""
        return self._start(EXPORT, params, params["OutputDataConfig"]["S3Configuration"])

    def _start(self, kind: str, params: Params, output: dict[str, str]) -> Result:
        operation, settings = f"StartFHIR{kind.title()}Job", self._runtime.settings
        refused = invalid if settings.choice("reused_token") == "refused" else None
        with self._runtime.state.read() as connection:
            first = find_replayed(connection, operation, params, refused)
            if first is None:
                find_active_datastore(connection, params["DatastoreId"], self._runtime.settings)
        if first is None:
            inputs = [params["InputDataConfig"]["S3Uri"]] if kind == IMPORT else []
            self._objects.check(inputs, output["S3Uri"])
        with self._runtime.state.write() as connection:
            job_id = find_replayed(connection, operation, params, refused)
            is_new = job_id is None
            if job_id is None:
                job_id = self._make(connection, kind, params, output)
                remember_token(connection, operation, params, job_id)
            job = require_row(connection, "fhir_job", job_id, "job")
        if is_new:
            self._runtime.schedule.wake()
            announce_job(self._runtime, job)
        return {"JobId": job["id"], "JobStatus": job["status"], "DatastoreId": job["datastore_id"]}

    def _make(self, connection: sqlite3.Connection, kind: str, params: Params, output: dict[str, str]) -> str:
        find_active_datastore(connection, params["DatastoreId"], self._runtime.settings)
        self._check_queue(connection, kind, params["DatastoreId"])
        job_id, input_uri = new_id(), params.get("InputDataConfig", {}).get("S3Uri")
        kinds = FHIR_IMPORT if kind == IMPORT else FHIR_EXPORT
        faults = self._runtime.faults.for_job(connection, kinds, *subject_of(params))
        values = {
            "id": job_id,
            "kind": kind,
            "datastore": params["DatastoreId"],
            "name": params.get("JobName"),
            "role": params["DataAccessRoleArn"],
            "input": input_uri,
            "output": output["S3Uri"],
            "key": output["KmsKeyId"],
            "level": params.get("ValidationLevel", "strict") if kind == IMPORT else None,
            "token": params.get("ClientToken"),
            "now": time.time(),
            "faults": json.dumps([asdict(fault) for fault in faults]),
        }
        connection.execute(INSERT, values)
        self._runtime.schedule.add(connection, enqueue_step(kind), job_id, self._runtime.settings.submitted_seconds)
        return job_id

    def _check_queue(self, connection: sqlite3.Connection, kind: str, datastore_id: str) -> None:
        limit = self._runtime.settings.max_queued_imports
        query = "SELECT count(*) FROM fhir_job WHERE kind = ? AND datastore_id = ? AND started_at IS NULL"
        (count,) = connection.execute(f"{query} AND ended_at IS NULL", (kind, datastore_id)).fetchone()
        if count >= limit:
            raise invalid(f"The data store {datastore_id} has {count} waiting jobs; {limit} are allowed.")

    def describe_import(self, params: Params) -> Result:
        """Answer DescribeFHIRImportJob."""
        return {"ImportJobProperties": self._describe(IMPORT, params)}

    def describe_export(self, params: Params) -> Result:
        """Answer DescribeFHIRExportJob."""
        return {"ExportJobProperties": self._describe(EXPORT, params)}

    def _describe(self, kind: str, params: Params) -> Result:
        with self._runtime.state.read() as connection:
            find_datastore(connection, params["DatastoreId"])
            job = find_row(connection, "fhir_job", params["JobId"])
            if job is None or (job["kind"], job["datastore_id"]) != (kind, params["DatastoreId"]):
                raise not_found(f"{kind.lower()} job", params["JobId"])
            return describe_job(self._runtime.settings, connection, job)

    def list_imports(self, params: Params) -> Result:
        """Answer ListFHIRImportJobs, newest first."""
        return self._list(IMPORT, "ImportJobPropertiesList", params)

    def list_exports(self, params: Params) -> Result:
        """Answer ListFHIRExportJobs, newest first."""
        return self._list(EXPORT, "ExportJobPropertiesList", params)

    def _list(self, kind: str, member: str, params: Params) -> Result:
        name = params.get("JobName")
        values = (
            kind,
            params["DatastoreId"],
            params.get("JobStatus", "%"),
            *(name, name),
            params.get("SubmittedBefore", float("inf")),
            params.get("SubmittedAfter", float("-inf")),
        )
        with self._runtime.state.read() as connection:
            find_datastore(connection, params["DatastoreId"])
            jobs = connection.execute(LISTED, values).fetchall()
            shown, token = cut_page(jobs, params, *PAGE_MEMBERS)
            return {member: [describe_job(self._runtime.settings, connection, job) for job in shown], **token}

    def started(self) -> list[dict[str, str]]:
        """Return every job, oldest first, with the members that tell jobs apart."""
        with self._runtime.state.read() as connection:
            jobs = connection.execute("SELECT * FROM fhir_job ORDER BY number").fetchall()
        return [
            {
                "jobId": job["id"],
                "jobName": job["name"] or "",
                "datastoreId": job["datastore_id"],
                "jobStatus": job["status"],
                "clientToken": job["client_token"] or "",
                "inputS3Uri": job["input_uri"] or "",
            }
            for job in jobs
        ]

    def subject(self, params: Params) -> tuple[str, str]:
        """Return name and S3 URI of the job that a call is about, for matching faults; empty for other calls."""
        if "JobId" not in params:
            return subject_of(params)
        with self._runtime.state.read() as connection:
            job = find_row(connection, "fhir_job", params["JobId"])
        return (job["name"] or "", job["input_uri"] or job["output_uri"]) if job else ("", "")


def subject_of(params: Params) -> tuple[str, str]:
    """Return name and input URI of the job that is started; of an export, its output URI."""
    location = params.get("InputDataConfig") or params.get("OutputDataConfig", {}).get("S3Configuration", {})
    return params.get("JobName", ""), location.get("S3Uri", "")
