"""Data transformation put together: which method answers which operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.healthlake.transformation.profiles import Profiles
from localaws.healthlake.transformation.transformer import Transformer
from localaws.objects import Objects

if TYPE_CHECKING:
    from localaws.healthlake.transformation.jobs import TransformationJobs
    from localaws.protocol import Handler
    from localaws.runtime import Runtime


def handlers(runtime: Runtime, jobs: TransformationJobs) -> dict[str, Handler]:
    """Return the handlers of data transformation, make the profiles of the settings, and have the jobs worked on.

    ``UpdateProfileWithAgent`` has none: its answer is the event stream of a language model.
    """
    profiles = Profiles(runtime)
    for seed in runtime.settings.transformation_profile:
        profiles.seed(seed)
    Transformer(runtime, Objects(runtime.settings))
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
