"""The data stores that a pipeline imports into: the hooks to reach them, and whether they are ready."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar, cast

from airflow.sdk.exceptions import AirflowFailException

from airlock.pipelines import ClinicalPipeline, ImagingPipeline, Pipeline
from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.hooks.healthimaging_image_sets import HealthImagingImageSetsHook
from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.refusals import CHANGING_DATASTORE_STATUS, Backoff

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.pipelines import HealthImaging, HealthLake

PipelineT = TypeVar("PipelineT", bound=Pipeline)

READY, UPDATE_FAILED = "ACTIVE", "UPDATE_FAILED"

log = logging.getLogger(__name__)


def fhir_store(healthlake: HealthLake) -> HealthLakeFhirHook:
    """Return the hook of a HealthLake data store's FHIR interface."""
    return HealthLakeFhirHook(
        healthlake.datastore_id, aws_conn_id=healthlake.aws_conn_id, region_name=healthlake.region_name
    )


def image_sets(healthimaging: HealthImaging) -> HealthImagingImageSetsHook:
    """Return the hook of a HealthImaging data store's image sets."""
    return HealthImagingImageSetsHook(
        healthimaging.datastore_id,
        backoff=Backoff(healthimaging.backoff_seconds, maximum=120),
        poll_seconds=min(2.0, healthimaging.poll_seconds),
        aws_conn_id=healthimaging.aws_conn_id,
        region_name=healthimaging.region_name,
    )


def with_region(pipeline: PipelineT) -> PipelineT:
    """Return a pipeline that publishes studies with the region of its HealthImaging data store filled in.

    Raises
    ------
    AirflowFailException
        If ``publish.dicomweb_region`` names another region.
    """
    if not isinstance(pipeline, ImagingPipeline) or pipeline.healthlake is None:
        return pipeline
    store = pipeline.healthimaging
    if store.region_name:
        return pipeline
    hook = HealthImagingHook(aws_conn_id=store.aws_conn_id)
    try:
        return cast("PipelineT", pipeline.in_region(hook.conn_region_name))
    except ValueError as error:
        raise AirflowFailException(str(error)) from None


def check_datastores(pipeline: Pipeline) -> str | None:
    """Refuse a data store that cannot take an import, before four stages do work in vain.

    Returns
    -------
    str or None
        A sentence without its full stop about a data store that is being created or changed; None if all are ready.

    Raises
    ------
    AirflowFailException
        If one does not exist, or needs a person to make it ready, or the regions contradict each other.
    """
    with_region(pipeline)
    stores: list[tuple[str, HealthImaging | HealthLake, type[HealthImagingHook | HealthLakeHook]]] = []
    if isinstance(pipeline, ImagingPipeline):
        stores.append(("healthimaging", pipeline.healthimaging, HealthImagingHook))
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        stores.append(("healthlake", pipeline.healthlake, HealthLakeHook))
    changing = [_check_datastore(pipeline, *store) for store in stores]
    return next(filter(None, changing), None)


def require_known_datastores(pipeline: Pipeline, ledger: Ledger) -> None:
    """Refuse a data store that the ledger does not know and that holds something, before anything is staged for it.

    Raises
    ------
    AirflowFailException
        With the two ways on: rebuild a ledger that was lost, or adopt a data store that others have filled.
    """
    from airlock.clinical.adopt import CommonResources
    from airlock.imaging.adopt import ImageSets
    from airlock.stages.adopt import UnknownStoreError, require_known

    try:
        if isinstance(pipeline, ImagingPipeline):
            store = pipeline.healthimaging
            require_known(ledger, store.datastore_id, ImageSets(image_sets(store).conn, store.datastore_id))
        if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
            records = pipeline.healthlake
            require_known(ledger, records.datastore_id, CommonResources(fhir_store(records)))
    except UnknownStoreError as error:
        raise AirflowFailException(f"{error} Then clear this task.") from None


def _check_datastore(
    pipeline: Pipeline, field: str, store: HealthImaging | HealthLake, kind: type[HealthImagingHook | HealthLakeHook]
) -> str | None:
    hook = kind(aws_conn_id=store.aws_conn_id, region_name=store.region_name)
    status = hook.datastore_status(store.datastore_id)
    if status in CHANGING_DATASTORE_STATUS:
        return f"The data store {store.datastore_id} is {status}"
    if status == UPDATE_FAILED:
        log.warning("The data store %s is UPDATE_FAILED. It is used as it was before the update.", store.datastore_id)
    elif status != READY:
        raise AirflowFailException(
            f"The data store {store.datastore_id} {f'is {status}' if status else 'does not exist'}. Correct "
            f"{field}.datastore_id of the pipeline {pipeline.name!r}, or its connection {store.aws_conn_id!r} and "
            f"region, and clear this task."
        )
    return None
