"""The data stores that a pipeline imports into: are they ready, and the REST API of the HealthLake one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.hooks.healthimaging_image_sets import HealthImagingImageSetsHook
from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.refusals import Backoff

if TYPE_CHECKING:
    from airlock.pipelines import HealthImaging, HealthLake, Pipeline

READY = "ACTIVE"


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


def with_region(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with the region of its HealthImaging data store, where it publishes what lies there.

    Raises
    ------
    AirflowFailException
        If ``publish.dicomweb_region`` names another region.
    """
    if not isinstance(pipeline, ImagingPipeline) or pipeline.healthlake is None:
        return pipeline
    store = pipeline.healthimaging
    hook = HealthImagingHook(aws_conn_id=store.aws_conn_id, region_name=store.region_name)
    try:
        return pipeline.in_region(hook.conn_region_name)
    except ValueError as error:
        raise AirflowFailException(str(error)) from None


def check_datastores(pipeline: Pipeline) -> None:
    """Refuse a data store that cannot be imported into, before four stages have worked for it.

    Raises
    ------
    AirflowFailException
        If one does not exist or is not ACTIVE, or the regions contradict each other.
    """
    with_region(pipeline)
    if isinstance(pipeline, ImagingPipeline):
        _require(pipeline, "healthimaging", pipeline.healthimaging, _imaging_status(pipeline.healthimaging))
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        _require(pipeline, "healthlake", pipeline.healthlake, _clinical_status(pipeline.healthlake))


def _imaging_status(store: HealthImaging) -> str:
    hook = HealthImagingHook(aws_conn_id=store.aws_conn_id, region_name=store.region_name)
    try:
        return str(hook.conn.get_datastore(datastoreId=store.datastore_id)["datastoreProperties"]["datastoreStatus"])
    except hook.conn.exceptions.ResourceNotFoundException:
        return "not there"


def _clinical_status(store: HealthLake) -> str:
    hook = HealthLakeHook(aws_conn_id=store.aws_conn_id, region_name=store.region_name)
    try:
        reply = hook.conn.describe_fhir_datastore(DatastoreId=store.datastore_id)
    except hook.conn.exceptions.ResourceNotFoundException:
        return "not there"
    return str(reply["DatastoreProperties"]["DatastoreStatus"])


def _require(pipeline: Pipeline, field: str, store: HealthImaging | HealthLake, status: str) -> None:
    if status != READY:
        raise AirflowFailException(
            f"the data store {store.datastore_id} is {status}: correct {field}.datastore_id of the pipeline "
            f"{pipeline.name!r}, or its connection {store.aws_conn_id!r} and region, and clear this task"
        )
