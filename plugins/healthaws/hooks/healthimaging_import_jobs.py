"""AWS HealthImaging hook: DICOM import jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.hooks.jobs import JobHook
from healthaws.jobs import COMPLETED, FAILED, JobKind
from healthaws.replies import member

if TYPE_CHECKING:
    from collections.abc import Mapping

DICOM_IMPORT_JOB = JobKind(
    name="DICOM import job",
    service="HealthImaging",
    members=("jobId", "jobStatus", "message", "datastoreId"),
    queued=frozenset(),
    running=frozenset({"SUBMITTED", "IN_PROGRESS"}),
    ended=frozenset({COMPLETED, FAILED}),
)


class HealthImagingDicomImportJobHook(HealthImagingHook, JobHook):
    """
    Start, describe and find the DICOM import jobs of AWS HealthImaging.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthImagingHook`.
    """

    def start_dicom_import_job(
        self,
        *,
        datastore_id: str,
        data_access_role_arn: str,
        input_s3_uri: str,
        output_s3_uri: str,
        client_token: str,
        job_name: str | None = None,
        input_owner_account_id: str | None = None,
    ) -> str:
        """
        Start a DICOM import job.

        Parameters
        ----------
        datastore_id : str
            The data store to import into.
        data_access_role_arn : str
            Role that the service assumes to read the input and to write the output.
        input_s3_uri : str
            Prefix to import, with everything below it.
        output_s3_uri : str
            Prefix below which the service makes a folder for the job's results.
        client_token : str
            Identifies the request: the service answers a repeated token with the job of the first request. There is no
            default on purpose, because boto3's is random and turns every retry into another job.
        job_name : str, optional
            1 to 64 characters of ``A-Za-z0-9._/#-``.
        input_owner_account_id : str, optional
            Account that owns the input bucket; needed across accounts.

        Returns
        -------
        str
            The job id.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_StartDICOMImportJob.html
        """
        optional = {"jobName": job_name, "inputOwnerAccountId": input_owner_account_id}
        reply = self.conn.start_dicom_import_job(
            datastoreId=datastore_id,
            dataAccessRoleArn=data_access_role_arn,
            inputS3Uri=input_s3_uri,
            outputS3Uri=output_s3_uri,
            clientToken=client_token,
            **{name: value for name, value in optional.items() if value},
        )
        return str(member(reply, "jobId", "StartDICOMImportJob"))

    def get_dicom_import_job(self, datastore_id: str, job_id: str) -> dict[str, Any]:
        """
        Get the properties of a DICOM import job.

        Parameters
        ----------
        datastore_id : str
            The data store of the job.
        job_id : str
            The job.

        Returns
        -------
        dict
            ``jobProperties``: ``jobId``, ``jobStatus``, ``datastoreId``, ``outputS3Uri`` and more. They have no counts,
            and COMPLETED does not mean that any file was imported: read the manifest in the output folder.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_GetDICOMImportJob.html
        """
        reply = self.conn.get_dicom_import_job(datastoreId=datastore_id, jobId=job_id)
        properties: dict[str, Any] = member(reply, "jobProperties", "GetDICOMImportJob")
        return properties

    def get_dicom_import_job_status(self, datastore_id: str, job_id: str) -> str:
        """
        Get the status of a DICOM import job.

        Parameters
        ----------
        datastore_id : str
            The data store of the job.
        job_id : str
            The job.

        Returns
        -------
        str
            SUBMITTED, IN_PROGRESS, COMPLETED or FAILED.
        """
        return str(self.get_dicom_import_job(datastore_id, job_id)["jobStatus"])

    def find_job(self, datastore_id: str, job_name: str) -> dict[str, Any] | None:
        """
        Find the DICOM import job with a name; the first that the service lists, if several have it.

        Parameters
        ----------
        datastore_id : str
            The data store.
        job_name : str
            The name that the job was started with.

        Returns
        -------
        dict or None
            ``jobProperties``; None if there is no such job.

        See Also
        --------
        https://docs.aws.amazon.com/healthimaging/latest/APIReference/API_ListDICOMImportJobs.html
        """
        pages = self.conn.get_paginator("list_dicom_import_jobs").paginate(datastoreId=datastore_id)
        jobs = (job for page in pages for job in page["jobSummaries"])
        found = next((job["jobId"] for job in jobs if job.get("jobName") == job_name), None)
        return None if found is None else self.get_dicom_import_job(datastore_id, found)

    @classmethod
    @override
    def output_folder(cls, properties: Mapping[str, Any]) -> str:
        uri = str(properties["outputS3Uri"]).rstrip("/")
        suffix = f"-DicomImport-{properties['jobId']}"
        return f"{uri}/" if suffix in uri else f"{uri}/{properties['datastoreId']}{suffix}/"
