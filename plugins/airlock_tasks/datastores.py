"""The data stores that a pipeline imports into: are they ready, and the REST API of the HealthLake one."""

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
    from airlock.pipelines import HealthImaging, HealthLake

PipelineT = TypeVar("PipelineT", bound=Pipeline)

READY, UPDATE_FAILED = "ACTIVE", "UPDATE_FAILED"

log = logging.getLogger(__name__)


def fhir_store(healthlake: HealthLake) -> HealthLakeFhirHook:
    """Return the REST API of a HealthLake data store."""
    return HealthLakeFhirHook(
        healthlake.datastore_id, aws_conn_id=healthlake.aws_conn_id, region_name=healthlake.region_name
    )


def image_sets(healthimaging: HealthImaging) -> HealthImagingImageSetsHook:
    """Return the image sets of a HealthImaging data store."""
    return HealthImagingImageSetsHook(
        healthimaging.datastore_id,
        backoff=Backoff(healthimaging.backoff_seconds, maximum=120),
        poll_seconds=min(2.0, healthimaging.poll_seconds),
        aws_conn_id=healthimaging.aws_conn_id,
        region_name=healthimaging.region_name,
    )


def with_region(pipeline: PipelineT) -> PipelineT:
    """Return the pipeline with the region of its HealthImaging data store, where it publishes what lies there.

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
    """Refuse a data store that cannot be imported into, before four stages have worked for it.

    Returns
    -------
    str or None
        What to wait for: a data store that is being made or changed; None if all can be imported into.

    Raises
    ------
    AirflowFailException
        If one does not exist, or is in a state that it does not leave by itself, or the regions contradict each other.
    """
    with_region(pipeline)
    stores: list[tuple[str, HealthImaging | HealthLake, type[HealthImagingHook | HealthLakeHook]]] = []
    if isinstance(pipeline, ImagingPipeline):
        stores.append(("healthimaging", pipeline.healthimaging, HealthImagingHook))
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        stores.append(("healthlake", pipeline.healthlake, HealthLakeHook))
    waits = [_check(pipeline, *store) for store in stores]
    return next((wait for wait in waits if wait), None)


def _check(
    pipeline: Pipeline, field: str, store: HealthImaging | HealthLake, kind: type[HealthImagingHook | HealthLakeHook]
) -> str | None:
    hook = kind(aws_conn_id=store.aws_conn_id, region_name=store.region_name)
    status = hook.datastore_status(store.datastore_id)
    if status in CHANGING_DATASTORE_STATUS:
        return f"the data store {store.datastore_id} is {status}"
    if status == UPDATE_FAILED:
        log.warning("the data store %s is UPDATE_FAILED: it is used as it was before the update", store.datastore_id)
    elif status != READY:
        raise AirflowFailException(
            f"the data store {store.datastore_id} is {status or 'not there'}: correct {field}.datastore_id of the "
            f"pipeline {pipeline.name!r}, or its connection {store.aws_conn_id!r} and region, and clear this task"
        )
    return None
