"""AWS HealthLake hook: data transformation jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from healthaws.hooks.healthlake import given
from healthaws.hooks.healthlake_jobs import TERMINAL_JOB_STATUS, HealthLakeJobHook, job_kind, latest_job
from healthaws.jobs import CANCELLED

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA_TRANSFORMATION_JOB = job_kind(
    "data transformation job", frozenset({"IN_PROGRESS"}), TERMINAL_JOB_STATUS - CANCELLED
)


class HealthLakeDataTransformationJobHook(HealthLakeJobHook):
    """
    Start, describe, list and find the data transformation jobs of AWS HealthLake, which belong to no data store.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthLakeJobHook`.
    """

    output_suffix = "/{JobId}"

    def start_data_transformation_job(
        self,
        *,
        profile_id: str,
        data_access_role_arn: str,
        input_s3_uri: str,
        output_s3_uri: str,
        kms_key_id: str,
        client_token: str,
        source_format: str | None = None,
        job_name: str | None = None,
        drift_detection: bool | None = None,
        provenance: bool | None = None,
    ) -> str:
        """
        Start a data transformation job, which runs the latest published version of its profile.

        Parameters
        ----------
        profile_id : str
            The profile; the service takes no version.
        data_access_role_arn : str
            Role that the service assumes to read the input and to write the output.
        input_s3_uri : str
            Prefix to convert, not a bare bucket.
        output_s3_uri : str
            Prefix below which the service makes a folder for the job's results.
        kms_key_id : str
            Key with which the service encrypts the results.
        client_token : str
            Identifies the request; see :meth:`HealthLakeFhirImportJobHook.start_fhir_import_job`. boto3 has no default
            here.
        source_format : str, optional
            ``CCDA`` or ``CSV``.
        job_name : str, optional
            1 to 64 letters, digits, spaces and ``_.:/=+-%@``.
        drift_detection : bool, optional
            Whether to report input that the profile leaves out. (default: the service's)
        provenance : bool, optional
            Whether to write Provenance resources. (default: the service's)

        Returns
        -------
        str
            The job id.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_StartDataTransformationJob.html
        """
        source = {"S3Uri": input_s3_uri, "SourceFormat": source_format}
        return self._start_job(
            "StartDataTransformationJob",
            output_s3_uri,
            kms_key_id,
            ProfileId=profile_id,
            DataAccessRoleArn=data_access_role_arn,
            InputDataConfig=given(source),
            ClientToken=client_token,
            JobName=job_name,
            DriftDetectionEnabled=drift_detection,
            ProvenanceEnabled=provenance,
        )

    def describe_data_transformation_job(self, job_id: str) -> dict[str, Any]:
        """
        Get the properties of a data transformation job.

        Parameters
        ----------
        job_id : str
            The job; it belongs to no data store.

        Returns
        -------
        dict
            ``TransformationJobProperties``. ``ProfileVersion`` is the version that the job ran.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_DescribeDataTransformationJob.html
        """
        properties: dict[str, Any] = self._ask(
            "DescribeDataTransformationJob", "TransformationJobProperties", JobId=job_id
        )
        return properties

    def list_data_transformation_jobs(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """
        List the data transformation jobs of the account, page after page.

        Parameters
        ----------
        **filters
            As for :meth:`HealthLakeFhirImportJobHook.list_fhir_import_jobs`; at most 100 to a page.

        Yields
        ------
        dict
            ``JobId``, ``JobStatus``, ``SubmitTime`` and more of each job.
        """
        return self._pages("ListDataTransformationJobs", "Items", **filters)

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """
        Find the data transformation job with a name; the latest, if several have it.

        Parameters
        ----------
        job_name : str
            The name that the job was started with.

        Returns
        -------
        dict or None
            ``TransformationJobProperties``; None if there is no such job.
        """
        found = latest_job(self.list_data_transformation_jobs(JobName=job_name), job_name)
        return None if found is None else self.describe_data_transformation_job(found["JobId"])

    def profile_version(self, profile_id: str) -> int:
        """
        Get the latest published version of a data transformation profile, which the next job would run.

        Parameters
        ----------
        profile_id : str
            The profile.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_GetDataTransformationProfile.html
        """
        return int(self._ask("GetDataTransformationProfile", "Version", ProfileId=profile_id))
