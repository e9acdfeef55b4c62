"""The HealthImaging service put together: which method answers which operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.imaging.copies import Copies
from localaws.imaging.datastores import Datastores
from localaws.imaging.image_sets import ImageSets
from localaws.imaging.importer import Importer
from localaws.imaging.jobs import ImportJobs
from localaws.imaging.pixel_files import PixelFiles
from localaws.imaging.search import Search
from localaws.imaging.tags import Tags
from localaws.imaging.updates import Updates
from localaws.objects import Objects
from localaws.protocol import Params, Service

if TYPE_CHECKING:
    from localaws.runtime import Runtime

NAME = "medical-imaging"


class Imaging(Service):
    """botocore's ``medical-imaging``, with a handler for each of its operations."""

    def __init__(self, runtime: Runtime) -> None:
        pixel_files = PixelFiles(runtime.state.path.with_name(f"{runtime.state.path.name}.pixels"))
        datastores, tags, search = Datastores(runtime), Tags(runtime), Search(runtime)
        self._jobs = ImportJobs(runtime)
        image_sets = ImageSets(runtime, pixel_files)
        Importer(runtime, Objects(runtime.settings), pixel_files)
        for seed in runtime.settings.datastore:
            datastores.seed(seed)
        super().__init__(
            NAME,
            {
                "CreateDatastore": datastores.create,
                "GetDatastore": datastores.get,
                "ListDatastores": datastores.list_datastores,
                "DeleteDatastore": datastores.delete,
                "StartDICOMImportJob": self._jobs.start,
                "GetDICOMImportJob": self._jobs.get,
                "ListDICOMImportJobs": self._jobs.list_jobs,
                "SearchImageSets": search.search,
                "GetImageSet": image_sets.get,
                "ListImageSetVersions": image_sets.versions,
                "GetImageSetMetadata": image_sets.metadata,
                "GetImageFrame": image_sets.frame,
                "UpdateImageSetMetadata": Updates(runtime).update,
                "CopyImageSet": Copies(runtime).copy,
                "DeleteImageSet": image_sets.delete,
                "TagResource": tags.tag,
                "ListTagsForResource": tags.list_tags,
                "UntagResource": tags.untag,
            },
        )

    def subject(self, params: Params) -> tuple[str, str]:
        """Return name and input URI of the import job that a call is about."""
        return self._jobs.subject(params)

    def jobs(self) -> list[dict[str, str]]:
        """Return every import job that was ever started."""
        return self._jobs.started()
