"""AWS HealthLake hook: the base of hooks that start jobs of one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from typing_extensions import override

from healthaws.exceptions import IncompleteReplyError, RequestRejectedError
from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.jobs import JobHook
from healthaws.jobs import CANCELLED, COMPLETED, COMPLETED_WITH_ERRORS, FAILED, JobKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

QUEUED_JOB_STATUS = frozenset({"SUBMITTED", "QUEUED"})
RUNNING_JOB_STATUS = frozenset({"IN_PROGRESS", "CANCEL_SUBMITTED", "CANCEL_IN_PROGRESS"})
ACTIVE_JOB_STATUS = QUEUED_JOB_STATUS | RUNNING_JOB_STATUS
TERMINAL_JOB_STATUS = frozenset({COMPLETED, COMPLETED_WITH_ERRORS, FAILED}) | CANCELLED


def job_kind(
    name: str, running: frozenset[str] = RUNNING_JOB_STATUS, ended: frozenset[str] = TERMINAL_JOB_STATUS
) -> JobKind:
    """
    Return a kind of HealthLake jobs.

    Parameters
    ----------
    name : str
        As in "FHIR import job".
    running, ended : frozenset of str
        Statuses, where they are not those of import and export jobs.
    """
    members = ("JobId", "JobStatus", "Message", "DatastoreId")
    return JobKind(name, "HealthLake", members, QUEUED_JOB_STATUS, running, ended)


class HealthLakeJobHook(HealthLakeHook, JobHook):
    """
    Base of hooks that start, describe, list and find the HealthLake jobs of one kind.

    Attributes
    ----------
    output_member : str
        The member that holds the output, in a start request and in the job's properties.
    output_suffix : str
        The end of the name of a job's output folder, a format string over the job's properties.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthLakeHook`.
    """

    output_member: ClassVar[str] = "OutputDataConfig"
    output_suffix: ClassVar[str]

    @classmethod
    @override
    def output_folder(cls, properties: Mapping[str, Any]) -> str:
        output = properties.get(cls.output_member)
        if not output:
            raise IncompleteReplyError(f"The properties of job {properties['JobId']} name no output.")
        uri, suffix = output["S3Configuration"]["S3Uri"].rstrip("/"), cls.output_suffix.format_map(properties)
        if uri.endswith(suffix):
            return f"{uri}/"
        return f"{uri}/{properties.get('DatastoreId', '')}".rstrip("/") + f"{suffix}/"

    def _start_job(self, operation: str, output_s3_uri: str, kms_key_id: str, **request: Any) -> str:
        """Start a job and return its id."""
        if not kms_key_id:
            raise RequestRejectedError("HealthLake encrypts what it writes to S3: name a KMS key in kms_key_id.")
        output = {"S3Configuration": {"S3Uri": output_s3_uri, "KmsKeyId": kms_key_id}}
        return str(self._ask(operation, "JobId", **{self.output_member: output}, **request))


HealthLakeJobHookT = TypeVar("HealthLakeJobHookT", bound=HealthLakeJobHook)


def latest_job(jobs: Iterable[dict[str, Any]], job_name: str) -> dict[str, Any] | None:
    """
    Return the job with a name that was submitted last; None if none has it.

    Parameters
    ----------
    jobs : Iterable of dict
        Jobs, as the service lists them; its filter by name is not trusted.
    job_name : str
        The name.
    """
    named = (job for job in jobs if job.get("JobName") == job_name)
    return max(named, key=lambda job: job["SubmitTime"], default=None)
