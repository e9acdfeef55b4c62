"""The work of an export job: every current resource of a data store, by type, as NDJSON on S3."""

from __future__ import annotations

import json
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from localaws.healthlake.jobs import EXPORT, job_folder
from localaws.healthlake.ndjson import open_ndjson
from localaws.healthlake.steps import QueuedJobSteps
from localaws.steps import writes_manifest, writes_results

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from localaws.faults import Fault
    from localaws.healthlake.objects import Objects
    from localaws.healthlake.store import ResourceStore, Stored
    from localaws.runtime import Runtime

MANIFEST = "Manifest.json"


class Exporter(QueuedJobSteps):
    """Advances export jobs."""

    def __init__(self, runtime: Runtime, objects: Objects, store: ResourceStore) -> None:
        super().__init__(EXPORT, runtime, objects)
        self._store = store

    def transfer(self, _job: sqlite3.Row, _faults: Sequence[Fault]) -> float:
        """Do nothing: resources are read while the output is written."""
        return 0.0

    def result(self, _job: sqlite3.Row) -> tuple[str, str | None]:
        """Return COMPLETED."""
        return "COMPLETED", None

    def forget(self, _connection: sqlite3.Connection, _job_id: str) -> None:
        """Do nothing: an export keeps no results."""

    def write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        """Write the files from one snapshot of the data store, then the manifest."""
        if not writes_results(faults):
            return
        folder = job_folder(job)
        with self.runtime.state.read() as connection:
            resources = drop_unreached(self._store.each(connection, job["datastore_id"]), faults)
            by_type = groupby(resources, key=lambda resource: resource.resource_type)
            files = [file for name, found in by_type for file in self._write_type(folder, name, found)]
        if not writes_manifest(faults):
            return
        document = {
            "outputDataConfig": {"s3Uri": folder, "encryptionKeyID": job["kms_key_id"]},
            "output": files,
            "numberOfResourcesExported": sum(file["count"] for file in files),
        }
        self.objects.write(f"{folder}{MANIFEST}", json.dumps(document, indent=2).encode())

    def _write_type(self, folder: str, name: str, resources: Iterator[Stored]) -> Iterator[dict[str, Any]]:
        """Write the files of one resource type; yield the manifest's entry of each."""
        most, number = self.runtime.settings.export_resources_per_file, 1
        for first in resources:
            self.runtime.schedule.check()
            part = [first, *islice(resources, most - 1)]
            uri = f"{folder}{name}/{name}-{number}.ndjson"
            with open_ndjson(resource.body for resource in part) as body:
                if body is not None:
                    self.objects.upload(uri, body)
            yield {"type": name, "url": uri, "count": len(part)}
            number += 1


def drop_unreached(resources: Iterable[Stored], faults: Sequence[Fault]) -> Iterator[Stored]:
    """Yield the resources that are exported before a fault cancels the job."""
    ends = [fault for fault in faults if fault.kind == "cancelled"]
    for resource in resources:
        if not any(end.touches(f"{resource.resource_type}/{resource.id}") for end in ends):
            yield resource
