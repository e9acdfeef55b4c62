"""AWS HealthLake operators."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields

from healthaws.exceptions import ProfileVersionError, ResourceInvalidError
from healthaws.fhir_json import load
from healthaws.hooks.healthlake import (
    DATA_TRANSFORMATION_JOB,
    FHIR_EXPORT_JOB,
    FHIR_IMPORT_JOB,
    HealthLakeHook,
)
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.jobs import COMPLETED, COMPLETED_WITH_ERRORS
from healthaws.links.healthlake import HealthLakeConsoleLink
from healthaws.operators.jobs import StartJobOperator
from healthaws.outcomes import issues_of
from healthaws.triggers.healthlake import (
    HealthLakeDataTransformationJobCompletedTrigger,
    HealthLakeFhirExportJobCompletedTrigger,
    HealthLakeFhirImportJobCompletedTrigger,
    HealthLakeJobCompletedTrigger,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from healthaws.jobs import JobReport

JOB_TEMPLATE_FIELDS = (
    "data_access_role_arn",
    "output_s3_uri",
    "kms_key_id",
    "job_name",
    "idempotency_key",
    "generation",
)


class HealthLakeStartJobOperator(StartJobOperator[HealthLakeHook]):
    """
    Base of operators that start a HealthLake job and wait for it.

    Not to be used in DAGs directly; :class:`healthaws.operators.jobs.StartJobOperator` says what happens.

    Few jobs run at a time, imports one by one: those after them are QUEUED, for hours if the first is large. That is
    ``queued_timeout``; ``waiter_max_attempts`` are counted from IN_PROGRESS.

    Parameters
    ----------
    data_access_role_arn : str
        Role that the service assumes to read the input and to write the output. (templated)
    output_s3_uri : str
        Prefix below which the service makes a folder for the job's results. (templated)
    kms_key_id : str
        Key with which the service encrypts the results; it writes none without. (templated)
    completed_with_errors : {"fail", "return"}
        What COMPLETED_WITH_ERRORS comes to, where part of the input was refused: the task fails, or it returns what
        :meth:`complete` makes of it, and what follows must look at the status. (default: "fail")
    queued_timeout : float
        How long a job may wait for others before the try gives up, in seconds. (default: 86400)
    **kwargs
        Of :class:`healthaws.operators.jobs.StartJobOperator`: how to name, count, await and remember the job.
    """

    aws_hook_class = HealthLakeHook
    job_link = HealthLakeConsoleLink
    trigger_class: ClassVar[type[HealthLakeJobCompletedTrigger]]
    output_member: ClassVar[str] = "OutputDataConfig"  # of the job's properties
    illegal_in_job_name = re.compile(r"[^\w .:/=+%@-]+")
    operator_extra_links = (HealthLakeConsoleLink(),)

    def __init__(
        self,
        *,
        data_access_role_arn: str,
        output_s3_uri: str,
        kms_key_id: str,
        completed_with_errors: Literal["fail", "return"] = "fail",
        queued_timeout: float = 24 * 60 * 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(queued_timeout=queued_timeout, **kwargs)
        if completed_with_errors not in ("fail", "return"):
            raise ValueError(f'completed_with_errors must be "fail" or "return", not {completed_with_errors!r}')
        self.data_access_role_arn = data_access_role_arn
        self.output_s3_uri = output_s3_uri
        self.kms_key_id = kms_key_id
        self.completed_with_errors = completed_with_errors

    def complete(self, context: Context, properties: dict[str, Any]) -> Any:  # noqa: ARG002 - for subclasses
        """
        Make the task's result from a job that has done its work.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            The job's properties.

        Returns
        -------
        Any
            Goes to XCom; here ``{"job_id": ..., "status": ...}``.
        """
        return {"job_id": properties["JobId"], "status": properties["JobStatus"]}

    def job_completed_with_errors(self, context: Context, properties: dict[str, Any]) -> Any:
        """
        Fail the task because part of the input was refused, or take that for a result, as told.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            The job's properties.

        Returns
        -------
        Any
            What :meth:`complete` returns, if ``completed_with_errors`` is "return".
        """
        if self.completed_with_errors == "return":
            return self.complete(context, properties)
        return super().job_completed_with_errors(context, properties)

    @property
    def parameters(self) -> dict[str, Any]:
        """The role and the key."""
        key = f"{self.output_member}.S3Configuration.KmsKeyId"
        return {"DataAccessRoleArn": self.data_access_role_arn, key: self.kms_key_id}

    def completed_trigger(self, job_id: str, **settings: Any) -> HealthLakeJobCompletedTrigger:
        """Make the trigger that fires when the job has ended."""
        store = {"datastore_id": self.datastore_id} if hasattr(self, "datastore_id") else {}
        return self.trigger_class(job_id=job_id, **store, **settings)

    def _settle(self, context: Context, report: JobReport, waited: str) -> Any:
        if progress := report.properties.get("JobProgressReport"):
            self.log.info("Progress of %s: %s", report.subject, progress)
        return super()._settle(context, report, waited)


class HealthLakeStartFhirImportJobOperator(HealthLakeStartJobOperator):
    """
    Import FHIR resources from S3 into a HealthLake data store.

    Returns ``{"job_id": ..., "status": ...}``. COMPLETED says that the job ran, not that its resources went in: the
    manifest in :meth:`HealthLakeHook.output_folder` does, and it alone counts the resources that the service failed
    on.

    Parameters
    ----------
    datastore_id : str
        The data store to import into. (templated)
    input_s3_uri : str
        Prefix to import; every ``.ndjson`` object below it goes in. (templated)
    validation_level : str, optional
        ``strict`` (the profiles in ``meta.profile``, else base R4), ``structure-only`` (base R4) or ``minimal``
        (stores what does not conform, and marks it). (default: the service's, ``strict``) (templated)
    **kwargs
        Of :class:`HealthLakeStartJobOperator`: role, output, key, and what errors come to.
    """

    job_kind = FHIR_IMPORT_JOB
    job_key = "healthlake_fhir_import_job"
    trigger_class = HealthLakeFhirImportJobCompletedTrigger
    output_member = "JobOutputDataConfig"
    template_fields: Sequence[str] = aws_template_fields(
        *JOB_TEMPLATE_FIELDS, "datastore_id", "input_s3_uri", "validation_level"
    )

    def __init__(
        self, *, datastore_id: str, input_s3_uri: str, validation_level: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id
        self.input_s3_uri = input_s3_uri
        self.validation_level = validation_level

    @property
    def place(self) -> str:
        """The data store and the input prefix."""
        return f"{self.datastore_id}|{self.input_s3_uri}"

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the import; see :meth:`HealthLakeHook.start_fhir_import_job`."""
        return self.hook.start_fhir_import_job(
            datastore_id=self.datastore_id,
            data_access_role_arn=self.data_access_role_arn,
            input_s3_uri=self.input_s3_uri,
            output_s3_uri=self.output_s3_uri,
            kms_key_id=self.kms_key_id,
            client_token=client_token,
            job_name=job_name,
            validation_level=self.validation_level,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``ImportJobProperties`` of DescribeFHIRImportJob."""
        return self.hook.describe_fhir_import_job(self.datastore_id, job_id)

    @property
    def identity(self) -> dict[str, Any]:
        """The data store and the input prefix."""
        return {"DatastoreId": self.datastore_id, "InputDataConfig.S3Uri": self.input_s3_uri}

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the job by its name; see :meth:`HealthLakeHook.find_job`."""
        return self.hook.find_job(self.datastore_id, job_name)

    @property
    def parameters(self) -> dict[str, Any]:
        """Role, key and validation level."""
        return super().parameters | {"ValidationLevel": self.validation_level}


class HealthLakeStartFhirExportJobOperator(HealthLakeStartJobOperator):
    """
    Export a HealthLake data store to S3.

    Returns ``{"job_id": ..., "status": ...}``; the files lie in :meth:`HealthLakeHook.output_folder`.

    Parameters
    ----------
    datastore_id : str
        The data store to export. (templated)
    **kwargs
        Of :class:`HealthLakeStartJobOperator`: role, output, key, and what errors come to.
    """

    job_kind = FHIR_EXPORT_JOB
    job_key = "healthlake_fhir_export_job"
    trigger_class = HealthLakeFhirExportJobCompletedTrigger
    template_fields: Sequence[str] = aws_template_fields(*JOB_TEMPLATE_FIELDS, "datastore_id")

    def __init__(self, *, datastore_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id

    @property
    def place(self) -> str:
        """The data store and the output prefix."""
        return f"{self.datastore_id}|{self.output_s3_uri}"

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the export; see :meth:`HealthLakeHook.start_fhir_export_job`."""
        return self.hook.start_fhir_export_job(
            datastore_id=self.datastore_id,
            data_access_role_arn=self.data_access_role_arn,
            output_s3_uri=self.output_s3_uri,
            kms_key_id=self.kms_key_id,
            client_token=client_token,
            job_name=job_name,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``ExportJobProperties`` of DescribeFHIRExportJob."""
        return self.hook.describe_fhir_export_job(self.datastore_id, job_id)

    @property
    def identity(self) -> dict[str, Any]:
        """The data store."""
        return {"DatastoreId": self.datastore_id}

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the job by its name; see :meth:`HealthLakeHook.find_export_job`."""
        return self.hook.find_export_job(self.datastore_id, job_name)


class HealthLakeStartDataTransformationJobOperator(HealthLakeStartJobOperator):
    """
    Convert C-CDA documents or CSV files on S3 to FHIR resources on S3, by HealthLake's data transformation agent.

    The service is in preview, and takes no version of a profile: a job runs the version that was published last. Name
    the one that was reviewed in ``profile_version``; a job that ran another fails the task, whatever became of it.

    Returns ``{"job_id": ..., "status": ...}``. What it writes is not validated: let a strict import or ``$validate``
    follow, and a person.

    Parameters
    ----------
    profile_id : str
        The data transformation profile. (templated)
    input_s3_uri : str
        Prefix to convert, not a bare bucket. (templated)
    profile_version : int or str, optional
        The version of the profile that the job must run. (templated)
    source_format : {"CCDA", "CSV"}, optional
        What the input is. (default: that of the profile)
    drift_detection : bool, optional
        Whether to report what the profile leaves out. (default: the service's)
    provenance : bool, optional
        Whether to write Provenance resources. (default: the service's)
    **kwargs
        Of :class:`HealthLakeStartJobOperator`: role, output, key, and what errors come to.
    """

    job_kind = DATA_TRANSFORMATION_JOB
    job_key = "healthlake_data_transformation_job"
    trigger_class = HealthLakeDataTransformationJobCompletedTrigger
    template_fields: Sequence[str] = aws_template_fields(
        *JOB_TEMPLATE_FIELDS, "profile_id", "profile_version", "input_s3_uri"
    )

    def __init__(
        self,
        *,
        profile_id: str,
        input_s3_uri: str,
        profile_version: int | str | None = None,
        source_format: Literal["CCDA", "CSV"] | None = None,
        drift_detection: bool | None = None,
        provenance: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.profile_id = profile_id
        self.input_s3_uri = input_s3_uri
        self.profile_version = profile_version
        self.source_format = source_format
        self.drift_detection = drift_detection
        self.provenance = provenance

    @property
    def place(self) -> str:
        """The profile and the input prefix."""
        return f"{self.profile_id}|{self.input_s3_uri}"

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the conversion; see :meth:`HealthLakeHook.start_data_transformation_job`."""
        return self.hook.start_data_transformation_job(
            profile_id=self.profile_id,
            data_access_role_arn=self.data_access_role_arn,
            input_s3_uri=self.input_s3_uri,
            output_s3_uri=self.output_s3_uri,
            kms_key_id=self.kms_key_id,
            client_token=client_token,
            source_format=self.source_format,
            job_name=job_name,
            drift_detection=self.drift_detection,
            provenance=self.provenance,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``TransformationJobProperties`` of DescribeDataTransformationJob."""
        return self.hook.describe_data_transformation_job(job_id)

    @property
    def identity(self) -> dict[str, Any]:
        """The profile and the input prefix."""
        return {"ProfileId": self.profile_id, "InputDataConfig.S3Uri": self.input_s3_uri}

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the job by its name; see :meth:`HealthLakeHook.find_data_transformation_job`."""
        return self.hook.find_data_transformation_job(job_name)

    def _settle(self, context: Context, report: JobReport, waited: str) -> Any:
        if report.status in (COMPLETED, COMPLETED_WITH_ERRORS):
            self._check_profile_version(report)
        return super()._settle(context, report, waited)

    def _check_profile_version(self, report: JobReport) -> None:
        ran, wanted = report.properties.get("ProfileVersion"), self.profile_version
        if wanted is not None and str(ran) != str(wanted).strip():
            raise ProfileVersionError(
                f"{report.subject} ran version {ran} of profile {self.profile_id}, not {wanted}. Review that version "
                "and name it in profile_version, or publish the old one again and raise generation for a new job."
            )


class HealthLakeValidateResourceOperator(AwsBaseOperator[HealthLakeFhirHook]):
    """
    Let a HealthLake data store validate a resource without storing it; fail if it does not conform.

    Returns ``{"valid": True, "issues": {"warning": 1, ...}}``: the issues of each severity, counted.

    Parameters
    ----------
    datastore_id : str
        The data store, which knows the profiles. (templated)
    resource : dict or str
        The resource, or its JSON. It may hold templates and XComs, which are rendered when the task runs; it is none
        of ``template_fields``, because Airflow keeps those in its database and shows them.
    profile : str, optional
        The canonical URL of a profile. (default: those in ``meta.profile``, else the base definition) (templated)
    mode : {"create", "update"}, optional
        For which interaction to validate. (templated)
    **kwargs
        Of the amazon provider's operators (``aws_conn_id``, ``region_name``, ``verify``, ``botocore_config``) and of
        :class:`airflow.sdk.BaseOperator`.
    """

    aws_hook_class = HealthLakeFhirHook
    template_fields: Sequence[str] = aws_template_fields("datastore_id", "profile", "mode")
    ui_color = "#66c3ff"

    def __init__(
        self,
        *,
        datastore_id: str,
        resource: dict[str, Any] | str,
        profile: str | None = None,
        mode: Literal["create", "update"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id
        self.resource = resource
        self.profile = profile
        self.mode = mode

    @property
    def _hook_parameters(self) -> dict[str, Any]:
        return {**super()._hook_parameters, "datastore_id": self.datastore_id}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Validate the resource.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        dict
            ``valid`` and the number of ``issues`` by severity.

        Raises
        ------
        ResourceInvalidError
            If the resource does not conform.
        FhirRejectedError
            If the service does not know the resource type or the profile.
        """
        resource = self._rendered(context)
        issues = issues_of(self.hook.validate(resource, self.profile, self.mode))
        errors = dict.fromkeys(str(issue) for issue in issues if issue.is_error)
        if errors or not issues:
            told = "; ".join(errors) or "the service gave no verdict"
            raise ResourceInvalidError(f"The {resource['resourceType']} does not conform: {told}.")
        return {"valid": True, "issues": dict(Counter(issue.severity for issue in issues))}

    def _rendered(self, context: Context) -> dict[str, Any]:
        resource = self.render_template(self.resource, context, self.get_template_env())
        if isinstance(resource, str):
            try:
                resource = load(resource)
            except ValueError:
                raise ResourceInvalidError("The resource is no JSON.") from None
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            raise ResourceInvalidError("The resource names no resourceType.")
        return resource
