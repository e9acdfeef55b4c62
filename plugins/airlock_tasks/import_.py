"""Import: one HealthImaging, HealthLake or data-transformation job per batch; mapped over the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock_tasks.batch_job import BatchJobOperator
from healthaws.hooks.healthimaging_import_jobs import HealthImagingDicomImportJobHook
from healthaws.hooks.healthlake_import_jobs import HealthLakeFhirImportJobHook
from healthaws.hooks.healthlake_transformation_jobs import HealthLakeDataTransformationJobHook
from healthaws.operators.healthimaging_import_jobs import HealthImagingStartDicomImportJobOperator
from healthaws.operators.healthlake_import_jobs import HealthLakeStartFhirImportJobOperator
from healthaws.operators.healthlake_transformation_jobs import HealthLakeStartDataTransformationJobOperator

if TYPE_CHECKING:
    from airlock.ledger import Job
    from airlock.pipelines import CcdaPipeline, HealthImaging, HealthLake, ImagingPipeline, Transformation
    from airlock.run import Run
    from airlock.stages.batches import Batch


def _reaching(store: HealthImaging | HealthLake) -> dict[str, Any]:
    """Return how the service is reached, and how patiently."""
    return {
        "aws_conn_id": store.aws_conn_id,
        "region_name": store.region_name,
        "backoff_initial_delay": store.backoff_seconds,
    }


def _waiting(job: HealthImaging | HealthLake | Transformation) -> dict[str, Any]:
    """Return how long a job is waited for, and how often it is started."""
    return {
        "max_generations": job.max_generations,
        "waiter_delay": job.poll_seconds,
        "waiter_max_attempts": max(1, round(job.job_timeout_minutes * 60 / job.poll_seconds)),
    }


class ImportOperator(BatchJobOperator[HealthImagingDicomImportJobHook], HealthImagingStartDicomImportJobOperator):
    """Imports one batch of DICOM files.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    **kwargs
        Of :class:`BatchJobOperator`.
    """

    pipeline: ImagingPipeline

    def __init__(self, *, pipeline: ImagingPipeline, **kwargs: Any) -> None:
        store = pipeline.healthimaging
        super().__init__(
            pipeline=pipeline,
            datastore_id=store.datastore_id,
            data_access_role_arn=store.data_access_role_arn,
            input_s3_uri="",  # known once the run is open; may hold names, so it is not rendered
            output_s3_uri=store.output_uri,
            input_owner_account_id=store.input_owner_account_id,
            **_reaching(store),
            **_waiting(store),
            **kwargs,
        )

    def check_prefix(self, run: Run[Any], batch: Batch) -> None:
        """Refuse a prefix that does not hold the batch."""
        from airlock.imaging.import_ import check_prefix

        check_prefix(run, batch)

    def record(self, run: Run[Any], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
        """Keep how the job ended, and return what goes to XCom."""
        from airlock.imaging.import_ import record

        return record(run, job, properties, output_uri)


class FhirImportOperator(BatchJobOperator[HealthLakeFhirImportJobHook], HealthLakeStartFhirImportJobOperator):
    """Imports one batch of FHIR resources, and leaves what the service refused of it to the audit.

    Parameters
    ----------
    healthlake
        The data store and how jobs are run against it.
    validation_level
        How deep HealthLake looks.
    **kwargs
        Of :class:`BatchJobOperator`.
    """

    def __init__(self, *, healthlake: HealthLake, validation_level: str, **kwargs: Any) -> None:
        super().__init__(
            datastore_id=healthlake.datastore_id,
            data_access_role_arn=healthlake.data_access_role_arn,
            input_s3_uri="",  # known once the run is open
            output_s3_uri=healthlake.output_uri,
            kms_key_id=healthlake.kms_key_id,
            validation_level=validation_level,
            completed_with_errors="return",
            queued_timeout=healthlake.queued_timeout_minutes * 60,
            **_reaching(healthlake),
            **_waiting(healthlake),
            **kwargs,
        )

    def check_prefix(self, run: Run[Any], batch: Batch) -> None:
        """Refuse a prefix that does not hold the batch."""
        from airlock.clinical.import_ import check_prefix

        check_prefix(run, batch)

    def record(self, run: Run[Any], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
        """Keep how the job ended, and return what goes to XCom."""
        from airlock.clinical.import_ import record

        return record(run, job, properties, output_uri)


class CcdaImportOperator(
    BatchJobOperator[HealthLakeDataTransformationJobHook], HealthLakeStartDataTransformationJobOperator
):
    """Converts one batch of C-CDA documents with the profile version that the pipeline names, and no other.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    **kwargs
        Of :class:`BatchJobOperator`.
    """

    def __init__(self, *, pipeline: CcdaPipeline, **kwargs: Any) -> None:
        store, settings = pipeline.healthlake, pipeline.transformation
        super().__init__(
            pipeline=pipeline,
            profile_id=settings.profile_id,
            profile_version=settings.profile_version,
            source_format="CCDA",
            drift_detection=settings.drift_detection,
            data_access_role_arn=store.data_access_role_arn,
            input_s3_uri="",  # known once the run is open
            output_s3_uri=settings.output_uri,
            kms_key_id=store.kms_key_id,
            completed_with_errors="return",
            queued_timeout=store.queued_timeout_minutes * 60,
            **_reaching(store),
            **_waiting(settings),
            **kwargs,
        )

    def check_prefix(self, run: Run[Any], batch: Batch) -> None:
        """Refuse a prefix that does not hold the batch."""
        from airlock.ccda.import_ import check_prefix

        check_prefix(run, batch)

    def record(self, run: Run[Any], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
        """Keep how the job ended, and return what goes to XCom."""
        from airlock.ccda.import_ import record

        return record(run, job, properties, output_uri)
