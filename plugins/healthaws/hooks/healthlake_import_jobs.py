"""AWS HealthLake hook: FHIR import jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthaws.hooks.healthlake_jobs import HealthLakeJobHook, job_kind, latest_job

if TYPE_CHECKING:
    from collections.abc import Iterator

FHIR_IMPORT_JOB = job_kind("FHIR import job")


class HealthLakeFhirImportJobHook(HealthLakeJobHook):
    """
    Start, describe, list and find the FHIR import jobs of AWS HealthLake.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthLakeJobHook`.
    """

    output_member = "JobOutputDataConfig"
    output_suffix = "-FHIR_IMPORT-{JobId}"

    def start_fhir_import_job(
        self,
        *,
        datastore_id: str,
        data_access_role_arn: str,
        input_s3_uri: str,
        output_s3_uri: str,
        kms_key_id: str,
        client_token: str,
        job_name: str | None = None,
        validation_level: str | None = None,
    ) -> str:
        """
        Start a FHIR import job.

        Parameters
        ----------
        datastore_id : str
            The data store to import into.
        data_access_role_arn : str
            Role that the service assumes to read the input and to write the output.
        input_s3_uri : str
            Prefix to import, with every ``.ndjson`` object below it.
        output_s3_uri : str
            Prefix below which the service makes a folder for the job's results.
        kms_key_id : str
            Key with which the service encrypts the results; it needs one.
        client_token : str
            Identifies the request: the service answers a repeated token with the job of the first request. There is no
            default on purpose, because boto3's is random and turns every retry into another job. 1 to 64 letters,
            digits and ``-``.
        job_name : str, optional
            1 to 64 letters, digits, spaces and ``_.:/=+-%@``.
        validation_level : str, optional
            ``strict``, ``structure-only`` or ``minimal``. (default: the service's, ``strict``)

        Returns
        -------
        str
            The job id.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_StartFHIRImportJob.html
        """
        return self._start_job(
            "StartFHIRImportJob",
            output_s3_uri,
            kms_key_id,
            DatastoreId=datastore_id,
            DataAccessRoleArn=data_access_role_arn,
            InputDataConfig={"S3Uri": input_s3_uri},
            ClientToken=client_token,
            JobName=job_name,
            ValidationLevel=validation_level,
        )

    def describe_fhir_import_job(self, datastore_id: str, job_id: str) -> dict[str, Any]:
        """
        Get the properties of a FHIR import job.

        Parameters
        ----------
        datastore_id : str
            The data store of the job.
        job_id : str
            The job.

        Returns
        -------
        dict
            ``ImportJobProperties``. The counts in ``JobProgressReport`` leave out server errors, and COMPLETED does not
            mean that any resource was imported: read the manifest in the output folder.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_DescribeFHIRImportJob.html
        """
        properties: dict[str, Any] = self._ask(
            "DescribeFHIRImportJob", "ImportJobProperties", DatastoreId=datastore_id, JobId=job_id
        )
        return properties

    def list_fhir_import_jobs(self, datastore_id: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """
        List the FHIR import jobs of a data store, page after page.

        Parameters
        ----------
        datastore_id : str
            The data store.
        **filters
            As boto3 names them: ``JobName``, ``JobStatus``, ``SubmittedBefore``, ``SubmittedAfter``, ``MaxResults``.

        Yields
        ------
        dict
            ``ImportJobProperties`` of each job.
        """
        return self._pages("ListFHIRImportJobs", "ImportJobPropertiesList", DatastoreId=datastore_id, **filters)

    def find_job(self, datastore_id: str, job_name: str) -> dict[str, Any] | None:
        """
        Find the FHIR import job with a name; the latest, if several have it.

        A job whose id was lost can only be found by its name.

        Parameters
        ----------
        datastore_id : str
            The data store.
        job_name : str
            The name that the job was started with.

        Returns
        -------
        dict or None
            ``ImportJobProperties``; None if there is no such job.
        """
        return latest_job(self.list_fhir_import_jobs(datastore_id, JobName=job_name), job_name)
