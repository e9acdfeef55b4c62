"""Data transformation put together: which method answers which operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.healthlake.transformation.jobs import TransformationJobs
from localaws.healthlake.transformation.limits import Limits
from localaws.healthlake.transformation.profiles import Profiles
from localaws.healthlake.transformation.transformer import Transformer
from localaws.imaging.objects import Objects

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localaws.protocol import Handler
    from localaws.runtime import Runtime
    from localaws.settings import Seed


def handlers(runtime: Runtime, limits: Limits | None = None, seeds: Iterable[Seed] = ()) -> dict[str, Handler]:
    """Return the handlers of data transformation, and have its jobs worked on.

    ``UpdateProfileWithAgent`` has none: its answer is the event stream of a language model.

    Parameters
    ----------
    runtime : Runtime
    limits : Limits, optional
    seeds : iterable of Seed
        Profiles to make at start, each with a published version.
    """
    allowed = limits or Limits()
    profiles, jobs = Profiles(runtime, allowed), TransformationJobs(runtime)
    for seed in seeds:
        profiles.seed(seed)
    Transformer(runtime, Objects(runtime.settings), allowed)
    return {
        "CreateDataTransformationProfile": profiles.create,
        "UpdateDataTransformationProfile": profiles.update,
        "PublishDataTransformationProfile": profiles.publish,
        "GetDataTransformationProfile": profiles.get,
        "ListDataTransformationProfiles": profiles.list_profiles,
        "ListDataTransformationProfileVersions": profiles.list_versions,
        "DeleteDataTransformationProfile": profiles.delete,
        "StartDataTransformationJob": jobs.start,
        "DescribeDataTransformationJob": jobs.describe,
        "ListDataTransformationJobs": jobs.list_jobs,
    }
