"""Import: one HealthImaging, HealthLake or data-transformation job per batch; mapped over the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException
from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ImagingPipeline, Pipeline
from airlock_tasks.batch_job import BatchJobOperator, ImportStage
from healthaws.hooks.healthimaging_import_jobs import HealthImagingDicomImportJobHook
from healthaws.hooks.healthlake_import_jobs import HealthLakeFhirImportJobHook
from healthaws.hooks.healthlake_transformation_jobs import HealthLakeDataTransformationJobHook
from healthaws.operators.healthimaging_import_jobs import HealthImagingStartDicomImportJobOperator
from healthaws.operators.healthlake_import_jobs import HealthLakeStartFhirImportJobOperator
from healthaws.operators.healthlake_transformation_jobs import HealthLakeStartDataTransformationJobOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.pipelines import HealthImaging, HealthLake, Transformation
    from airlock.run import Run
    from airlock.stages.batches import Batch


def _reach_settings(store: HealthImaging | HealthLake) -> dict[str, Any]:
    """Return how to reach the service, and how long to pause after a refusal."""
    return {
        "aws_conn_id": store.aws_conn_id,
        "region_name": store.region_name,
        "backoff_initial_delay": store.backoff_seconds,
    }


def _wait_settings(job: HealthImaging | HealthLake | Transformation) -> dict[str, Any]:
    """Return how long to wait for a job, and how many jobs to start for a batch."""
    return {
        "max_generations": job.max_generations,
        "waiter_delay": job.poll_seconds,
        "waiter_max_attempts": max(1, round(job.job_timeout_minutes * 60 / job.poll_seconds)),
    }


class ImportOperator(
    BatchJobOperator[HealthImagingDicomImportJobHook, ImagingPipeline], HealthImagingStartDicomImportJobOperator
):
    """Imports one batch of DICOM files.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    **kwargs
        Of :class:`BatchJobOperator`.
    """

    def __init__(self, *, pipeline: ImagingPipeline, **kwargs: Any) -> None:
        store = pipeline.healthimaging
        super().__init__(
            pipeline=pipeline,
            datastore_id=store.datastore_id,
            data_access_role_arn=store.data_access_role_arn,
            input_s3_uri="",  # take_up sets it; the prefix may hold names, so it is not rendered
            output_s3_uri=store.output_uri,
            input_owner_account_id=store.input_owner_account_id,
            **_reach_settings(store),
            **_wait_settings(store),
            **kwargs,
        )

    @property
    @override
    def import_stage(self) -> ImportStage[ImagingPipeline]:
        from airlock.imaging import import_

        return import_

    @override
    def find_batch(self, run: Run) -> Batch:
        from airlock.imaging.stage import find_staged

        return find_staged(run, self.batch_id)


class FhirImportOperator(BatchJobOperator[HealthLakeFhirImportJobHook, Pipeline], HealthLakeStartFhirImportJobOperator):
    """Imports one batch of FHIR resources; audit accounts for the resources that the service refuses.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    healthlake
        The data store, and the settings of its jobs.
    validation_level
        HealthLake's validation level.
    **kwargs
        Of :class:`BatchJobOperator`.
    """

    def __init__(self, *, pipeline: Pipeline, healthlake: HealthLake, validation_level: str, **kwargs: Any) -> None:
        super().__init__(
            pipeline=pipeline,
            datastore_id=healthlake.datastore_id,
            data_access_role_arn=healthlake.data_access_role_arn,
            input_s3_uri="",  # take_up sets it
            output_s3_uri=healthlake.output_uri,
            kms_key_id=pipeline.choose_output_key(healthlake.output_uri, healthlake.kms_key_id),
            validation_level=validation_level,
            completed_with_errors="return",
            queued_timeout=healthlake.queued_timeout_minutes * 60,
            **_reach_settings(healthlake),
            **_wait_settings(healthlake),
            **kwargs,
        )

    @property
    @override
    def import_stage(self) -> ImportStage[Pipeline]:
        from airlock.clinical import import_

        return import_


class CcdaImportOperator(
    BatchJobOperator[HealthLakeDataTransformationJobHook, CcdaPipeline], HealthLakeStartDataTransformationJobOperator
):
    """Converts one batch of C-CDA documents, by a signed version of the profile.

    It fails before the job if nobody has signed for the version, and after it if the job ran another version.

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
            data_access_role_arn=pipeline.conversion_role,
            input_s3_uri="",  # take_up sets it
            output_s3_uri=settings.output_uri,
            kms_key_id=pipeline.conversion_key,
            completed_with_errors="return",
            queued_timeout=store.queued_timeout_minutes * 60,
            **_reach_settings(store),
            **_wait_settings(settings),
            **kwargs,
        )

    @override
    def take_up(self, context: Context, *args: Any, **kwargs: Any) -> Any:
        if self.load_job(context) is None:  # a begun job stands
            self._require_signed_profile(self._run(context))
        return super().take_up(context, *args, **kwargs)

    def _require_signed_profile(self, run: Run[CcdaPipeline]) -> None:
        from airlock.ccda.sign_off import UnsignedProfileError, require_signed

        try:
            signed = require_signed(run)
        except UnsignedProfileError as error:
            raise AirflowFailException(str(error)) from None
        try:
            published = self.hook.profile_version(signed.profile_id)
        except self.hook.conn.exceptions.ResourceNotFoundException:
            raise AirflowFailException(
                f"HealthLake has no published version of profile {signed.profile_id}, which was signed on "
                f"{signed.decided_at:%Y-%m-%d}: it was deleted. Name another profile under transformation, sign for "
                f"its version, and clear this task."
            ) from None
        if published != signed.profile_version:
            raise AirflowFailException(
                f"A job would convert with version {published} of profile {signed.profile_id}, the latest published "
                f"one, but version {signed.profile_version} was signed. Name version {published} under transformation, "
                f"sign for it (airlock sign-off), and clear this task."
            )

    @property
    @override
    def import_stage(self) -> ImportStage[CcdaPipeline]:
        from airlock.ccda import import_

        return import_
