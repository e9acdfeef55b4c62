"""Things that pipelines name and a run needs: data stores, conversion profiles, pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import HealthImaging, HealthLake, Pipeline

AwsService = Literal["medical-imaging", "healthlake"]

_SLOTS: dict[AwsService, int] = {"medical-imaging": 20, "healthlake": 1}  # HealthLake: one import of an account
_MOST_STAGING_SLOTS = 4  # each with staging.copies_in_flight: S3's own limit per prefix is near

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


@dataclass(frozen=True, order=True)
class Pool:
    """An Airflow pool as it is made; an existing one keeps its own slots."""

    name: str
    slots: int
    description: str


def pools_of(pipelines: Iterable[Pipeline], parallelism: int) -> list[Pool]:
    """Return the pools that pipelines name.

    Parameters
    ----------
    pipelines
        The pipelines.
    parallelism
        The tasks that Airflow runs at the same time. Fewer stage, so that some import meanwhile.
    """
    pools = set()
    for pipeline in pipelines:
        for service, section in _sections(pipeline):
            pools.add(Pool(section.pool, _SLOTS[service], f"{service} import jobs at a time"))
        if isinstance(pipeline, ImagingPipeline):
            slots = max(1, min(_MOST_STAGING_SLOTS, parallelism // 2))
            pools.add(Pool(pipeline.staging.pool, slots, "batches copied at a time"))
    return sorted(pools)


def _sections(pipeline: Pipeline) -> Iterator[tuple[AwsService, HealthImaging | HealthLake]]:
    if isinstance(pipeline, ImagingPipeline):
        yield "medical-imaging", pipeline.healthimaging
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        yield "healthlake", pipeline.healthlake
