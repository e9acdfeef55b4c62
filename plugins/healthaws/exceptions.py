"""What can go wrong with a HealthImaging import, as far as a DAG author may want to tell it apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Mapping


class RequestRejectedError(AirflowFailException):
    """The service rejected a request for a reason that no retry can cure; the text is the service's own."""


class ServiceBusyError(AirflowException):
    """The service still throttles or refuses for a quota after the whole time allowed for backing off."""


class IncompleteReplyError(AirflowException):
    """A reply broke off on its way. The request may have been carried out; a retry repeats it with the same token."""


class HealthImagingImportJobFailedError(AirflowException):
    """An import job ended in FAILED; a retry of the task may start a new one."""

    @classmethod
    def of(cls, properties: Mapping[str, Any], advice: str = "") -> Self:
        """
        Tell a failed job in one sentence: job id, data store, status and the service's message.

        Parameters
        ----------
        properties : Mapping
            ``jobProperties`` of GetDICOMImportJob.
        advice : str
            A further sentence that says what to do.
        """
        reason = properties.get("message", "the service gave no message")
        return cls(f"{_subject(properties)} ended as {properties['jobStatus']}: {reason}. {advice}".strip())


class HealthImagingImportJobFinallyFailedError(HealthImagingImportJobFailedError, AirflowFailException):
    """An import job ended in FAILED, and no retry may start another."""


class HealthImagingImportJobUnfinishedError(AirflowException):
    """Waiting ended before the import job did; a retry of the task reconnects to the job."""

    @classmethod
    def of(cls, properties: Mapping[str, Any], reason: str) -> Self:
        """
        Tell which job is unfinished, in which state, and why waiting ended.

        Parameters
        ----------
        properties : Mapping
            ``jobProperties`` of GetDICOMImportJob.
        reason : str
            Why waiting ended.
        """
        return cls(
            f"{_subject(properties)} is still {properties['jobStatus']}, but waiting ended: {reason}. "
            "The job goes on, and a retry reconnects to it; if jobs take this long, let the task wait longer."
        )


class HealthImagingUnknownJobStatusError(AirflowFailException):
    """The service reported a job status that this package does not know."""

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Self:
        """
        Tell the job and its unknown status.

        Parameters
        ----------
        properties : Mapping
            ``jobProperties`` of GetDICOMImportJob.
        """
        return cls(
            f"{_subject(properties)} has the status {properties['jobStatus']!r}, which is not one of SUBMITTED, "
            "IN_PROGRESS, COMPLETED, FAILED. Look at the job in the AWS console and update this package."
        )


def _subject(properties: Mapping[str, Any]) -> str:
    return f"DICOM import job {properties['jobId']} of data store {properties['datastoreId']}"
