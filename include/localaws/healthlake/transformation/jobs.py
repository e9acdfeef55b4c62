"""Data-transformation jobs as the API shows them: start, describe, list."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from localaws.errors import conflict, invalid
from localaws.faults import DATA_TRANSFORMATION
from localaws.healthlake.transformation.profiles import DRAFT, latest_version, profile_row
from localaws.healthlake.transformation.results import Results
from localaws.paging import cut_page
from localaws.resources import new_id
from localaws.rows import find_row, require_row
from localaws.shapes import drop_none

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Settings

ADVANCE = "transformation"
JOB = "data transformation job"
KMS_KEY = re.compile(r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?((key/)?[A-Za-z0-9-]+|alias/[A-Za-z0-9:/_-]+)")
"""The pattern of a key identifier (AWS KMS, "Key identifiers"); the model has one for imports only."""

INSERT = """
INSERT INTO transformation_job (
    id, name, status, role_arn, profile_id, profile_name, source_format, input_uri, output_uri, kms_key_id,
    client_token, drift, provenance, submitted_at, phase, faults, results
) VALUES (
    :id, :name, 'SUBMITTED', :role, :profile, :profile_name, :format, :input, :output, :key,
    :token, :drift, :provenance, :now, 'waiting', :faults, :results
)
"""
MATCHING = """
SELECT * FROM transformation_job
WHERE status LIKE :status AND (:name IS NULL OR name = :name) AND submitted_at > :after AND submitted_at < :before
ORDER BY number DESC
"""


def job_folder(job: sqlite3.Row) -> str:
    """Return the S3 URI of a job's own output folder, with its trailing slash."""
    return f"{job['output_uri'].rstrip('/')}/{job['id']}/"


def describe_job(settings: Settings, job: sqlite3.Row) -> dict[str, Any]:
    """Return a job as DescribeDataTransformationJob answers it; counters come with the first file."""
    output = job_folder(job) if settings.choice("output_uri") == "job_folder" else job["output_uri"]
    results = Results.load(job["results"])
    members = {
        "JobId": job["id"],
        "JobName": job["name"],
        "JobStatus": job["status"],
        "InputDataConfig": {"S3Uri": job["input_uri"], "SourceFormat": job["source_format"]},
        "OutputDataConfig": {"S3Configuration": {"S3Uri": output, "KmsKeyId": job["kms_key_id"]}},
        "DataAccessRoleArn": job["role_arn"],
        "SubmitTime": job["submitted_at"],
        "EndTime": job["ended_at"],
        "ProfileId": job["profile_id"],
        "ProfileName": job["profile_name"],
        "ProfileVersion": job["profile_version"],
        "DriftDetectionEnabled": bool(job["drift"]),
        "ProvenanceEnabled": bool(job["provenance"]),
        "Message": job["message"],
        "JobProgressReport": results.progress() if results.scanned else None,
    }
    return drop_none(members)


class TransformationJobs:
    """The three operations on data-transformation jobs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def start(self, params: Params) -> Result:
        """Answer StartDataTransformationJob; a client token that was used before answers its job, as AWS says."""
        query = "SELECT * FROM transformation_job WHERE client_token = ?"
        with self._runtime.state.write() as connection:
            job = connection.execute(query, (params["ClientToken"],)).fetchone()
            if job is not None and self._runtime.settings.choice("reused_transformation_token") == "refused":
                _check_same(job, params)
            if job is None:
                job = self._insert(connection, params)
                self._runtime.schedule.add(connection, ADVANCE, job["id"], self._runtime.settings.submitted_seconds)
        self._runtime.schedule.wake()
        return {"JobId": job["id"], "JobStatus": job["status"]}

    def _insert(self, connection: sqlite3.Connection, params: Params) -> sqlite3.Row:
        profile = profile_row(connection, params["ProfileId"])
        output = params["OutputDataConfig"]["S3Configuration"]
        self._check(connection, profile, params["InputDataConfig"], output["KmsKeyId"])
        job_id, input_uri = new_id(), params["InputDataConfig"]["S3Uri"]
        name = params.get("JobName", "")
        faults = self._runtime.faults.for_job(connection, DATA_TRANSFORMATION, name, input_uri)
        values = {
            "id": job_id,
            "name": params.get("JobName"),
            "role": params["DataAccessRoleArn"],
            "profile": profile["id"],
            "profile_name": profile["name"],
            "format": profile["source_format"],
            "input": input_uri,
            "output": output["S3Uri"],
            "key": output["KmsKeyId"],
            "token": params["ClientToken"],
            "drift": params.get("DriftDetectionEnabled", False),
            "provenance": params.get("ProvenanceEnabled", True),
            "now": time.time(),
            "faults": json.dumps([asdict(fault) for fault in faults]),
            "results": Results().dump(),
        }
        connection.execute(INSERT, values)
        return require_row(connection, "transformation_job", job_id, JOB)

    @staticmethod
    def _check(connection: sqlite3.Connection, profile: sqlite3.Row, source: Params, key: str) -> None:
        if latest_version(connection, profile["id"]) == DRAFT:
            raise invalid(f"$.ProfileId: the profile {profile['id']} has no published version; publish it first")
        if source.get("SourceFormat", profile["source_format"]) != profile["source_format"]:
            wanted = profile["source_format"]
            raise invalid(f"$.InputDataConfig.SourceFormat: the profile {profile['id']} is for {wanted}")
        if "/" not in source["S3Uri"].removeprefix("s3://"):
            raise invalid("$.InputDataConfig.S3Uri: must name a prefix, not a whole bucket")
        if not KMS_KEY.fullmatch(key):
            raise invalid(
                "$.OutputDataConfig.S3Configuration.KmsKeyId: must be ID or ARN of a key, or name or ARN of an alias"
            )

    def describe(self, params: Params) -> Result:
        """Answer DescribeDataTransformationJob."""
        with self._runtime.state.read() as connection:
            job = require_row(connection, "transformation_job", params["JobId"], JOB)
        return {"TransformationJobProperties": describe_job(self._runtime.settings, job)}

    def list_jobs(self, params: Params) -> Result:
        """Answer ListDataTransformationJobs, newest first."""
        filters = {
            "status": params.get("JobStatus", "%"),
            "name": params.get("JobName"),
            "after": params.get("SubmittedAfter", float("-inf")),
            "before": params.get("SubmittedBefore", float("inf")),
        }
        with self._runtime.state.read() as connection:
            jobs = connection.execute(MATCHING, filters).fetchall()
        shown, token = cut_page(jobs, params, "MaxResults", "NextToken")
        return {"Items": [_summary(job) for job in shown], **token}

    def started(self) -> list[dict[str, str]]:
        """Return every job, oldest first, with the members that tell jobs apart."""
        with self._runtime.state.read() as connection:
            jobs = connection.execute("SELECT * FROM transformation_job ORDER BY number").fetchall()
        return [
            {
                "jobId": job["id"],
                "jobName": job["name"] or "",
                "datastoreId": "",
                "jobStatus": job["status"],
                "clientToken": job["client_token"],
                "inputS3Uri": job["input_uri"],
            }
            for job in jobs
        ]

    def subject(self, params: Params) -> tuple[str, str]:
        """Return name and input URI of the job that a call asks about, for matching faults; empty for other calls."""
        with self._runtime.state.read() as connection:
            job = find_row(connection, "transformation_job", params.get("JobId", ""))
        return (job["name"] or "", job["input_uri"]) if job else ("", "")


def _summary(job: sqlite3.Row) -> Result:
    members = {
        "JobId": job["id"],
        "JobName": job["name"],
        "JobStatus": job["status"],
        "SubmitTime": job["submitted_at"],
        "EndTime": job["ended_at"],
        "SourceFormat": job["source_format"],
    }
    return drop_none(members)


def _check_same(job: sqlite3.Row, params: Params) -> None:
    """Refuse a client token that has made a job with other parameters."""
    output = params["OutputDataConfig"]["S3Configuration"]
    asked = (params["DataAccessRoleArn"], params["InputDataConfig"]["S3Uri"], output["S3Uri"], output["KmsKeyId"])
    if asked != (job["role_arn"], job["input_uri"], job["output_uri"], job["kms_key_id"]):
        raise conflict("This client token was used before, with other parameters; use a new token for a new request.")
