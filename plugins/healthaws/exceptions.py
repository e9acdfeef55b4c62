"""What can go wrong with the health services, as far as a DAG author may want to tell it apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from healthaws.jobs import JobReport
    from healthaws.outcomes import Issue


_KEYS = re.compile(r"(s3://|arn:aws[a-z-]*:s3:::)([^/\s]+)/.*", re.DOTALL)


def without_keys(text: str) -> str:
    """
    Return a service's text up to the key of an S3 address: the key may name a patient, and may hold blanks.

    Parameters
    ----------
    text : str
        What the service says.
    """
    return _KEYS.sub(r"\1\2/...", text)


class RequestRejectedError(AirflowFailException):
    """The service rejected a request for a reason that no retry can cure; the text is the service's, without keys."""


class ServiceBusyError(AirflowException):
    """The service still throttles or refuses for a quota after the whole time allowed for backing off."""


class IncompleteReplyError(AirflowException):
    """A reply broke off on its way. The request may have been carried out; a retry repeats it with the same token."""


class UnknownOperationError(AirflowFailException):
    """The installed botocore is older than an operation of the service."""


class DatastoreNotReadyError(AirflowException):
    """A data store cannot be read or written in the state that it is in."""


class JobConflictError(AirflowException):
    """A client token was refused, and the job that it has made was not found; a retry asks again."""


class JobFailedError(AirflowException):
    """A job ended in FAILED; a retry of the task may start a new one."""

    @classmethod
    def of(cls, job: JobReport, advice: str = "") -> Self:
        """
        Tell a failed job in one sentence: kind, job id, data store, status and the service's message.

        Parameters
        ----------
        job : JobReport
            What the service says of the job.
        advice : str
            A further sentence that says what to do.
        """
        reason = without_keys(job.message or "the service gave no message")
        return cls(f"{job.subject} ended as {job.status}: {reason}. {advice}".strip())


class JobFinallyFailedError(JobFailedError, AirflowFailException):
    """A job ended in FAILED, and no retry may start another."""


class JobCancelledError(JobFailedError, AirflowFailException):
    """A job was cancelled; no retry starts another, since whoever cancelled it wanted none."""


class JobCompletedWithErrorsError(JobFailedError, AirflowFailException):
    """A job ended with part of its input refused; no retry can change that."""


class JobUnfinishedError(AirflowException):
    """Waiting ended before the job did; a retry of the task reconnects to the job."""

    @classmethod
    def of(cls, job: JobReport, reason: str) -> Self:
        """
        Tell which job is unfinished, in which state, and why waiting ended.

        Parameters
        ----------
        job : JobReport
            What the service says of the job.
        reason : str
            Why waiting ended.
        """
        return cls(
            f"{job.subject} is still {job.status}, but waiting ended: {reason}. "
            "The job goes on, and a retry reconnects to it; if jobs take this long, let the task wait longer."
        )


class UnknownJobStatusError(AirflowFailException):
    """The service reported a job status that this package does not know."""

    @classmethod
    def of(cls, job: JobReport) -> Self:
        """
        Tell the job and its unknown status.

        Parameters
        ----------
        job : JobReport
            What the service says of the job.
        """
        known = ", ".join(sorted(job.kind.statuses))
        return cls(
            f"{job.subject} has the status {job.status!r}, which is not one of {known}. "
            "Look at the job in the AWS console and update this package."
        )


class ProfileVersionError(AirflowFailException):
    """A data transformation job ran another version of its profile than the one that was reviewed."""


class FhirRequestError(AirflowException):
    """
    A FHIR request was not carried out.

    The text holds the interaction, the resource type, the HTTP status and the codes of the OperationOutcome: no
    address, no id and no diagnostics, which all may tell who the patient is.

    Parameters
    ----------
    interaction : str
        What was asked, as in ``read Patient``.
    status : int or None
        The HTTP status; None if there was no answer.
    issues : Sequence of Issue
        What the OperationOutcome of the answer says.
    reason : str
        Why, if no answer says it.
    """

    def __init__(
        self, interaction: str, status: int | None = None, issues: Sequence[Issue] = (), reason: str = ""
    ) -> None:
        self.interaction = interaction
        self.status = status
        self.issues = tuple(issues)
        told = ", ".join(dict.fromkeys(str(issue) for issue in self.issues)) or reason or "no OperationOutcome"
        super().__init__(f"{interaction}: {f'HTTP {status}' if status else 'no answer'}: {told}")


class FhirRejectedError(FhirRequestError, AirflowFailException):
    """HealthLake rejected a FHIR request for its content or for want of access; no retry can cure it."""


class FhirConflictError(FhirRequestError):
    """The resource is not in the state that the request supposed: HTTP 409 or 412. Read it and decide again."""


class FhirUnavailableError(FhirRequestError):
    """HealthLake did not answer, was busy or failed, and went on so for as many attempts as were allowed."""


class ResourceInvalidError(AirflowFailException):
    """A resource does not conform; the text holds the codes and elements of the findings, not the values."""
