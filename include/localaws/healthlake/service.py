"""The HealthLake service put together: which method answers which operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.fhir import Validator
from localaws.healthlake.bundles import Limits
from localaws.healthlake.datastores import Datastores
from localaws.healthlake.exporter import Exporter
from localaws.healthlake.importer import Importer
from localaws.healthlake.jobs import Jobs
from localaws.healthlake.objects import Objects
from localaws.healthlake.plane import FhirPlane
from localaws.healthlake.rest import FhirEndpoint
from localaws.healthlake.store import ResourceStore
from localaws.healthlake.tags import Tags
from localaws.healthlake.transformation.jobs import TransformationJobs
from localaws.healthlake.transformation.service import handlers as transformation_handlers
from localaws.json_protocol import JsonService

if TYPE_CHECKING:
    from localaws.protocol import Call, Params, Plane
    from localaws.runtime import Runtime

NAME = "healthlake"


class HealthLake(JsonService):
    """botocore's ``healthlake``, and the FHIR REST plane of its data stores."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        datastores, tags, objects = Datastores(runtime), Tags(runtime), Objects(settings)
        store = ResourceStore(runtime.state, settings.search_lag)
        validator = Validator(settings.choice("structure_only"))
        self._jobs, self._transformations = Jobs(runtime, objects), TransformationJobs(runtime)
        Importer(runtime, objects, store, validator)
        Exporter(runtime, objects, store)
        endpoint = FhirEndpoint(
            runtime.state,
            store,
            validator,
            schedule=runtime.schedule,
            exists=datastores.is_active,
            base_url=settings.base_url,
            limits=Limits(settings.max_batch_entries, settings.max_transaction_entries, settings.max_async_entries),
        )
        self._fhir = FhirPlane(endpoint)
        for seed in settings.healthlake_datastore:
            datastores.seed(seed)
        super().__init__(
            NAME,
            {
                "CreateFHIRDatastore": datastores.create,
                "DescribeFHIRDatastore": datastores.describe,
                "ListFHIRDatastores": datastores.list_datastores,
                "UpdateFHIRDatastore": datastores.update,
                "DeleteFHIRDatastore": datastores.delete,
                "StartFHIRImportJob": self._jobs.start_import,
                "DescribeFHIRImportJob": self._jobs.describe_import,
                "ListFHIRImportJobs": self._jobs.list_imports,
                "StartFHIRExportJob": self._jobs.start_export,
                "DescribeFHIRExportJob": self._jobs.describe_export,
                "ListFHIRExportJobs": self._jobs.list_exports,
                "TagResource": tags.tag,
                "ListTagsForResource": tags.list_tags,
                "UntagResource": tags.untag,
                **transformation_handlers(runtime, self._transformations),
            },
        )

    def plane(self, call: Call) -> Plane:
        """Return the FHIR REST plane for addresses of data stores, else the control plane."""
        return self._fhir if call.raw_path.startswith("/datastore/") else self

    def subject(self, params: Params) -> tuple[str, str]:
        """Return name and S3 URI of the job that a call is about."""
        name, uri = self._jobs.subject(params)
        return (name, uri) if uri else self._transformations.subject(params)

    def jobs(self) -> list[dict[str, str]]:
        """Return every import, export and data-transformation job that was ever started."""
        return [*self._jobs.started(), *self._transformations.started()]
