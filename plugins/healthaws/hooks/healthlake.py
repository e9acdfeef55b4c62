"""AWS HealthLake hook of the control plane; the FHIR interface of a data store has its own, in healthlake_fhir."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

from healthaws.exceptions import (
    DatastoreNotReadyError,
    IncompleteReplyError,
    RequestRejectedError,
    UnknownOperationError,
)
from healthaws.jobs import CANCELLED, COMPLETED, COMPLETED_WITH_ERRORS, FAILED, JobKind
from healthaws.replies import member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

QUEUED_JOB_STATUS = frozenset({"SUBMITTED", "QUEUED"})
RUNNING_JOB_STATUS = frozenset({"IN_PROGRESS", "CANCEL_SUBMITTED", "CANCEL_IN_PROGRESS"})
ACTIVE_JOB_STATUS = QUEUED_JOB_STATUS | RUNNING_JOB_STATUS
TERMINAL_JOB_STATUS = frozenset({COMPLETED, COMPLETED_WITH_ERRORS, FAILED}) | CANCELLED


def _kind(name: str, running: frozenset[str], ended: frozenset[str]) -> JobKind:
    members = ("JobId", "JobStatus", "Message", "DatastoreId")
    return JobKind(name, "HealthLake", members, QUEUED_JOB_STATUS, running, ended)


FHIR_IMPORT_JOB = _kind("FHIR import job", RUNNING_JOB_STATUS, TERMINAL_JOB_STATUS)
FHIR_EXPORT_JOB = _kind("FHIR export job", RUNNING_JOB_STATUS, TERMINAL_JOB_STATUS)
DATA_TRANSFORMATION_JOB = _kind("data transformation job", frozenset({"IN_PROGRESS"}), TERMINAL_JOB_STATUS - CANCELLED)

UNREACHABLE_DATASTORE_STATUS = frozenset({"CREATING", "CREATE_FAILED", "DELETING", "DELETED"})


class HealthLakeHook(AwsBaseHook):
    """
    Interact with the control plane of AWS HealthLake.

    A thin wrapper around ``boto3.client("healthlake")``. It pages where boto3 cannot (ListFHIRImportJobs,
    ListFHIRExportJobs, ListFHIRDatastores), and brings waiters of its own: botocore's take COMPLETED_WITH_ERRORS for
    success, and the one for imports polls a cancelled job to the end of its attempts.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`airflow.providers.amazon.aws.hooks.base_aws.AwsBaseHook` (``aws_conn_id``, ``region_name``,
        ``verify``, ``config``).

    Notes
    -----
    boto3 puts ``datatransformation.`` before the host name of the data transformation operations. With an endpoint URL
    of one's own, set ``"config_kwargs": {"inject_host_prefix": false}`` in the extra of the connection.
    """

    client_type = "healthlake"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["client_type"] = self.client_type
        super().__init__(*args, **kwargs)

    @cached_property
    def waiter_path(self) -> Path:
        """Path of the waiter model; the base class looks inside the amazon provider only."""
        return Path(__file__).parents[1] / "waiters" / "healthlake.json"

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
            Prefix to import; every ``.ndjson`` object below it goes in.
        output_s3_uri : str
            Prefix below which the service makes a folder for the job's results.
        kms_key_id : str
            Key with which the service encrypts the results; it writes none without.
        client_token : str
            Names the request: the service answers a repeated token with the job that the first one made. There is no
            default on purpose, because boto3's is random and turns every retry into a further job. 1 to 64 letters,
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
        return str(
            self._ask(
                "StartFHIRImportJob",
                "JobId",
                DatastoreId=datastore_id,
                DataAccessRoleArn=data_access_role_arn,
                InputDataConfig={"S3Uri": input_s3_uri},
                JobOutputDataConfig=_output_config(output_s3_uri, kms_key_id),
                ClientToken=client_token,
                JobName=job_name,
                ValidationLevel=validation_level,
            )
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
            ``ImportJobProperties``. The counts in ``JobProgressReport`` leave out server errors, and COMPLETED does
            not say that any resource went in: the manifest in the output folder does.

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

        A job whose id was lost can be found by its name only.

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
        return _latest(self.list_fhir_import_jobs(datastore_id, JobName=job_name), job_name)

    def find_export_job(self, datastore_id: str, job_name: str) -> dict[str, Any] | None:
        """
        Find the FHIR export job with a name; the latest, if several have it.

        Parameters
        ----------
        datastore_id, job_name : str
            As for :meth:`find_job`.
        """
        return _latest(self.list_fhir_export_jobs(datastore_id, JobName=job_name), job_name)

    def find_data_transformation_job(self, job_name: str) -> dict[str, Any] | None:
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
        found = _latest(self.list_data_transformation_jobs(JobName=job_name), job_name)
        return None if found is None else self.describe_data_transformation_job(found["JobId"])

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
            Names the request; see :meth:`start_fhir_import_job`.
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
        return str(
            self._ask(
                "StartFHIRExportJob",
                "JobId",
                DatastoreId=datastore_id,
                DataAccessRoleArn=data_access_role_arn,
                OutputDataConfig=_output_config(output_s3_uri, kms_key_id),
                ClientToken=client_token,
                JobName=job_name,
            )
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
            As for :meth:`list_fhir_import_jobs`.

        Yields
        ------
        dict
            ``ExportJobProperties`` of each job.
        """
        return self._pages("ListFHIRExportJobs", "ExportJobPropertiesList", DatastoreId=datastore_id, **filters)

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
            Names the request; see :meth:`start_fhir_import_job`. boto3 fills in none here.
        source_format : str, optional
            ``CCDA`` or ``CSV``.
        job_name : str, optional
            1 to 64 letters, digits, spaces and ``_.:/=+-%@``.
        drift_detection : bool, optional
            Whether to report what the profile leaves out. (default: the service's)
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
        return str(
            self._ask(
                "StartDataTransformationJob",
                "JobId",
                ProfileId=profile_id,
                DataAccessRoleArn=data_access_role_arn,
                InputDataConfig=_given(source),
                OutputDataConfig=_output_config(output_s3_uri, kms_key_id),
                ClientToken=client_token,
                JobName=job_name,
                DriftDetectionEnabled=drift_detection,
                ProvenanceEnabled=provenance,
            )
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
            As for :meth:`list_fhir_import_jobs`; at most 100 to a page.

        Yields
        ------
        dict
            ``JobId``, ``JobStatus``, ``SubmitTime`` and more of each job.
        """
        return self._pages("ListDataTransformationJobs", "Items", **filters)

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

    def describe_fhir_datastore(self, datastore_id: str) -> dict[str, Any]:
        """
        Get the properties of a data store.

        Parameters
        ----------
        datastore_id : str
            The data store.

        Returns
        -------
        dict
            ``DatastoreProperties``.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_DescribeFHIRDatastore.html
        """
        properties: dict[str, Any] = self._ask("DescribeFHIRDatastore", "DatastoreProperties", DatastoreId=datastore_id)
        return properties

    def list_fhir_datastores(self, **request: Any) -> Iterator[dict[str, Any]]:
        """
        List the data stores of the account, page after page.

        Parameters
        ----------
        **request
            As boto3 names it: ``Filter``, ``MaxResults``.

        Yields
        ------
        dict
            ``DatastoreProperties`` of each data store.
        """
        return self._pages("ListFHIRDatastores", "DatastorePropertiesList", **request)

    def datastore_status(self, datastore_id: str) -> str | None:
        """
        Get the status of a data store, as in ``ACTIVE``; None if there is no such data store.

        Parameters
        ----------
        datastore_id : str
            The data store.
        """
        try:
            return str(self.describe_fhir_datastore(datastore_id)["DatastoreStatus"])
        except self.conn.exceptions.ResourceNotFoundException:
            return None

    def datastore_endpoint(self, datastore_id: str) -> str:
        """
        Get the base of a data store's FHIR interface, with the slash at the end.

        Parameters
        ----------
        datastore_id : str
            The data store.

        Raises
        ------
        DatastoreNotReadyError
            If the data store is not there yet, or not any more.
        """
        properties = self.describe_fhir_datastore(datastore_id)
        status = properties["DatastoreStatus"]
        if status in UNREACHABLE_DATASTORE_STATUS:
            raise DatastoreNotReadyError(
                f"The data store {datastore_id} is {status}; it can be used once it is ACTIVE."
            )
        return str(member(properties, "DatastoreEndpoint", "DescribeFHIRDatastore")).rstrip("/") + "/"

    @staticmethod
    def output_folder(properties: Mapping[str, Any]) -> str:
        """
        Find the folder that holds the manifest and the results of a job.

        Describe returns as output either this folder or the prefix that the job was started with.

        Parameters
        ----------
        properties : Mapping
            ``ImportJobProperties``, ``ExportJobProperties`` or ``TransformationJobProperties``.

        Returns
        -------
        str
            ``s3://.../<DatastoreId>-FHIR_IMPORT-<JobId>/`` of an import, ``...-FHIR_EXPORT-<JobId>/`` of an export,
            ``s3://.../<JobId>/`` of a data transformation.

        Raises
        ------
        IncompleteReplyError
            If the properties name no output.
        """
        job_id, store = properties["JobId"], properties.get("DatastoreId")
        output = properties.get("JobOutputDataConfig") or properties.get("OutputDataConfig")
        if not output:
            raise IncompleteReplyError(f"The properties of job {job_id} name no output.")
        kind = "IMPORT" if "JobOutputDataConfig" in properties else "EXPORT"
        suffix = f"-FHIR_{kind}-{job_id}" if store else f"/{job_id}"
        uri = output["S3Configuration"]["S3Uri"].rstrip("/")
        return f"{uri}/" if uri.endswith(suffix) else f"{uri}/{store or ''}".rstrip("/") + f"{suffix}/"

    def _reply(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        method = getattr(self.conn, botocore.xform_name(operation), None)
        if method is None:
            raise UnknownOperationError(
                f"botocore {botocore.__version__} does not know HealthLake's {operation}. Install a newer boto3 with "
                "the aiobotocore that goes with it, or switch off what needs this operation."
            )
        reply: dict[str, Any] = method(**_given(request))
        return reply

    def _ask(self, operation: str, wanted: str, **request: Any) -> Any:
        return member(self._reply(operation, request), wanted, operation)

    def _pages(self, operation: str, listed: str, **request: Any) -> Iterator[dict[str, Any]]:
        token = None
        while True:
            reply = self._reply(operation, {**request, "NextToken": token})
            yield from member(reply, listed, operation)
            token = reply.get("NextToken")
            if not token:
                return


def _latest(jobs: Iterable[dict[str, Any]], job_name: str) -> dict[str, Any] | None:
    named = (job for job in jobs if job.get("JobName") == job_name)
    return max(named, key=lambda job: job["SubmitTime"], default=None)


def _given(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if value not in (None, "")}


def _output_config(s3_uri: str, kms_key_id: str) -> dict[str, Any]:
    if not kms_key_id:
        raise RequestRejectedError("HealthLake encrypts what it writes to S3: name a KMS key in kms_key_id.")
    return {"S3Configuration": {"S3Uri": s3_uri, "KmsKeyId": kms_key_id}}
