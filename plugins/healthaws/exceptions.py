"""
The errors of the health services that a DAG author may want to tell apart.

Hooks raise :class:`HealthServiceError`, which knows nothing of Airflow. The errors about the end of a job are raised by
operators and sensors only, and tell Airflow whether to retry.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from healthaws.jobs import JobReport
    from healthaws.outcomes import Issue


_KEYS = re.compile(r"(s3://|arn:aws[a-z-]*:s3:::)([^/\s]+)/.*", re.DOTALL)


def without_keys(text: str) -> str:
    """
    Return a service's text cut off at the key of its first S3 address, which may name a patient and hold spaces.

    Parameters
    ----------
    text : str
        The service's text.
    """
    return _KEYS.sub(r"\1\2/...", text)


class HealthServiceError(Exception):
    """Base of the errors that hooks raise."""


class FinalError(HealthServiceError):
    """Base of the errors of hooks that no retry can help."""


@contextmanager
def fail_without_retry() -> Iterator[None]:
    """
    Fail a task at once, without its retries, for what no retry can help; for operators and sensors that call a hook.

    Raises
    ------
    AirflowFailException
        For a :class:`FinalError`, with its text and with it as the cause.
    """
    try:
        yield
    except FinalError as error:
        raise AirflowFailException(str(error)) from error


class RequestRejectedError(FinalError):
    """The service rejected a request, and no retry can help; the text is the service's, without keys."""


class ServiceBusyError(HealthServiceError):
    """The service still throttles or refuses for a quota after ``backoff_timeout``."""


class IncompleteReplyError(HealthServiceError):
    """A reply broke off. The request may have been carried out; a retry repeats it with the same token."""


class UnknownOperationError(FinalError):
    """The installed botocore is older than an operation of the service."""


class DatastoreNotReadyError(HealthServiceError):
    """A data store cannot be read or written in its present state."""


class JobConflictError(HealthServiceError):
    """The service refused a client token, and the token's job was not found; a retry asks again."""


class JobFailedError(AirflowException):
    """A job ended in FAILED; a retry of the task may start a new one."""

    @classmethod
    def of(cls, job: JobReport, advice: str = "") -> Self:
        """
        Return the error for a job, with its kind, id, data store, status and the service's message.

        Parameters
        ----------
        job : JobReport
            The service's report on the job.
        advice : str
            A sentence that says what to do.
        """
        reason = without_keys(job.message or "the service gave no message")
        return cls(f"{job.subject} ended as {job.status}: {reason}. {advice}".strip())


class JobFinallyFailedError(JobFailedError, AirflowFailException):
    """A job ended in FAILED, and no retry may start another."""


class JobCancelledError(JobFailedError, AirflowFailException):
    """A job was cancelled; no retry starts another, because a person decided so."""


class JobCompletedWithErrorsError(JobFailedError, AirflowFailException):
    """A job ended with part of its input refused; no retry can help."""


class JobUnfinishedError(AirflowException):
    """Waiting ended before the job did; a retry of the task reconnects to the job."""

    @classmethod
    def of(cls, job: JobReport, reason: str) -> Self:
        """
        Return the error for a job that is not finished, with its status and the reason why waiting ended.

        Parameters
        ----------
        job : JobReport
            The service's report on the job.
        reason : str
            Why waiting ended.
        """
        return cls(
            f"{job.subject} is still {job.status}, but waiting ended: {reason}. "
            "The job goes on, and a retry reconnects to it. If jobs take this long, let the task wait longer."
        )


class UnknownJobStatusError(AirflowFailException):
    """The service reported a job status that this package does not know."""

    @classmethod
    def of(cls, job: JobReport) -> Self:
        """
        Return the error for a job with an unknown status.

        Parameters
        ----------
        job : JobReport
            The service's report on the job.
        """
        known = ", ".join(sorted(job.kind.statuses))
        return cls(
            f"{job.subject} has the status {job.status!r}, which is not one of {known}. "
            "Look at the job in the AWS console, and update this package."
        )


class ProfileVersionError(AirflowFailException):
    """A data transformation job ran another version of its profile than the one that was reviewed."""


class FhirRequestError(HealthServiceError):
    """
    A FHIR request was not carried out.

    The text holds the interaction, the resource type, the HTTP status and the codes of the OperationOutcome. It holds
    no address, id or diagnostics, which may identify a patient.

    Parameters
    ----------
    interaction : str
        The name of the request, as in ``read Patient``.
    status : int or None
        The HTTP status; None if there was no answer.
    issues : Sequence of Issue
        The issues of the answer's OperationOutcome.
    reason : str
        The reason, if there is no answer.
    """

    def __init__(
        self, interaction: str, status: int | None = None, issues: Sequence[Issue] = (), reason: str = ""
    ) -> None:
        self.interaction = interaction
        self.status = status
        self.issues = tuple(issues)
        details = ", ".join(dict.fromkeys(str(issue) for issue in self.issues)) or reason or "no OperationOutcome"
        super().__init__(f"{interaction}: {f'HTTP {status}' if status else 'no answer'}: {details}")


class FhirRejectedError(FhirRequestError, FinalError):
    """HealthLake rejected a FHIR request for its content or missing access; no retry can help."""


class FhirConflictError(FhirRequestError):
    """The resource is not in the state that the request expects: HTTP 409 or 412. Read it and decide again."""


class FhirUnavailableError(FhirRequestError):
    """HealthLake did not answer, was busy or failed in every allowed attempt."""


class ResourceInvalidError(AirflowFailException):
    """A resource does not conform; the text has the codes and elements of the findings, not the values."""
