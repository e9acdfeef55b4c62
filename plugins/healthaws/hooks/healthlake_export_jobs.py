"""AWS HealthLake hook: FHIR export jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthaws.hooks.healthlake_jobs import HealthLakeJobHook, job_kind, latest_job

if TYPE_CHECKING:
    from collections.abc import Iterator

FHIR_EXPORT_JOB = job_kind("FHIR export job")


class HealthLakeFhirExportJobHook(HealthLakeJobHook):
    """
    Start, describe, list and find the FHIR export jobs of AWS HealthLake.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthLakeJobHook`.
    """

    output_suffix = "-FHIR_EXPORT-{JobId}"

    def start_fhir_export_job(
        self,
        *,
        datastore_id: str,
        data_access_role_arn: str,
        output_s3_uri: str,
        kms_key_id: str,
        client_token: str,
        job_name: str | None = None,
    ) -> str:
        """
        Start a FHIR export job.

        Parameters
        ----------
        datastore_id : str
            The data store to export.
        data_access_role_arn : str
            Role that the service assumes to write the output.
        output_s3_uri : str
            Prefix below which the service makes a folder for the export.
        kms_key_id : str
            Key with which the service encrypts the export.
        client_token : str
            Identifies the request; see :meth:`HealthLakeFhirImportJobHook.start_fhir_import_job`.
        job_name : str, optional
            1 to 64 letters, digits, spaces and ``_.:/=+-%@``.

        Returns
        -------
        str
            The job id.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_StartFHIRExportJob.html
        """
        return self._start_job(
            "StartFHIRExportJob",
            output_s3_uri,
            kms_key_id,
            DatastoreId=datastore_id,
            DataAccessRoleArn=data_access_role_arn,
            ClientToken=client_token,
            JobName=job_name,
        )

    def describe_fhir_export_job(self, datastore_id: str, job_id: str) -> dict[str, Any]:
        """
        Get the properties of a FHIR export job.

        Parameters
        ----------
        datastore_id : str
            The data store of the job.
        job_id : str
            The job.

        Returns
        -------
        dict
            ``ExportJobProperties``.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_DescribeFHIRExportJob.html
        """
        properties: dict[str, Any] = self._ask(
            "DescribeFHIRExportJob", "ExportJobProperties", DatastoreId=datastore_id, JobId=job_id
        )
        return properties

    def list_fhir_export_jobs(self, datastore_id: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """
        List the FHIR export jobs of a data store, page after page.

        Parameters
        ----------
        datastore_id : str
            The data store.
        **filters
            As for :meth:`HealthLakeFhirImportJobHook.list_fhir_import_jobs`.

        Yields
        ------
        dict
            ``ExportJobProperties`` of each job.
        """
        return self._pages("ListFHIRExportJobs", "ExportJobPropertiesList", DatastoreId=datastore_id, **filters)

    def find_job(self, datastore_id: str, job_name: str) -> dict[str, Any] | None:
        """
        Find the FHIR export job with a name; the latest, if several have it.

        Parameters
        ----------
        datastore_id, job_name : str
            The data store, and the name that the job was started with.
        """
        return latest_job(self.list_fhir_export_jobs(datastore_id, JobName=job_name), job_name)
