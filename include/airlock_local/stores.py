"""The data stores that pipelines name, and the pools that hold a slot for each of their import jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airlock.pipelines import ClinicalPipeline, ImagingPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import HealthImaging, HealthLake, Pipeline

AwsService = Literal["medical-imaging", "healthlake"]

SLOTS: dict[AwsService, int] = {"medical-imaging": 20, "healthlake": 1}
"""Slots of a new pool; a pool that is there keeps its own. HealthLake runs one import of an account at a time."""


@dataclass(frozen=True)
class Store:
    """A data store, as botocore calls its service, and the name that it gets where it is made."""

    service: AwsService
    datastore_id: str
    name: str


def stores_of(pipelines: Iterable[Pipeline]) -> list[Store]:
    """Return the data stores of pipelines, each once, under the name of the first pipeline that has it."""
    found: dict[tuple[AwsService, str], Store] = {}
    for pipeline in pipelines:
        for service, section in _sections(pipeline):
            found.setdefault((service, section.datastore_id), Store(service, section.datastore_id, pipeline.name))
    return sorted(found.values(), key=lambda store: (store.service, store.datastore_id))


def pools_of(pipelines: Iterable[Pipeline]) -> dict[str, AwsService]:
    """Return the import pools of pipelines, each with the service whose jobs it limits."""
    return {section.pool: service for pipeline in pipelines for service, section in _sections(pipeline)}


def _sections(pipeline: Pipeline) -> Iterator[tuple[AwsService, HealthImaging | HealthLake]]:
    if isinstance(pipeline, ImagingPipeline):
        yield "medical-imaging", pipeline.healthimaging
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        yield "healthlake", pipeline.healthlake
