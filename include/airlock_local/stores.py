"""Things that pipelines name and a run needs: data stores, conversion profiles, pools of import jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import HealthImaging, HealthLake, Pipeline

AwsService = Literal["medical-imaging", "healthlake"]

SLOTS: dict[AwsService, int] = {"medical-imaging": 20, "healthlake": 1}
"""Slots of a new pool; an existing pool keeps its own. HealthLake runs one import of an account at a time."""

_FLAGS: dict[AwsService, str] = {"medical-imaging": "--datastore", "healthlake": "--healthlake-datastore"}


def seeds_of(pipelines: Iterable[Pipeline]) -> list[str]:
    """Return the emulator's flags that make the stores and profiles of pipelines, each once and named for its users."""
    users: dict[str, list[str]] = {}
    for pipeline in pipelines:
        for seed in _list_seeds(pipeline):
            users.setdefault(seed, []).append(pipeline.name)
    return [f"{seed}:{'-'.join(names)}" for seed, names in sorted(users.items())]


def _list_seeds(pipeline: Pipeline) -> Iterator[str]:
    for service, section in _sections(pipeline):
        yield f"{_FLAGS[service]}={section.datastore_id}"
    if isinstance(pipeline, CcdaPipeline):
        yield f"--transformation-profile={pipeline.transformation.profile_id}"


def pools_of(pipelines: Iterable[Pipeline]) -> dict[str, AwsService]:
    """Return the import pools of pipelines, each with the service whose jobs it limits."""
    return {section.pool: service for pipeline in pipelines for service, section in _sections(pipeline)}


def _sections(pipeline: Pipeline) -> Iterator[tuple[AwsService, HealthImaging | HealthLake]]:
    if isinstance(pipeline, ImagingPipeline):
        yield "medical-imaging", pipeline.healthimaging
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        yield "healthlake", pipeline.healthlake
