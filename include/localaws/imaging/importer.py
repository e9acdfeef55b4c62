"""The work of an import job.

``waiting`` → ``reading``: reading parses every file and then, in one transaction, writes the image sets and the job's
results; from there on nothing is read again.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from localaws.imaging.announcements import announce_image_set, announce_job
from localaws.imaging.assumed import assume_instance
from localaws.imaging.documents import add_instance, new_document
from localaws.imaging.grouping import Group, group_instances
from localaws.imaging.hierarchy import find_primaries
from localaws.imaging.jobs import ADVANCE, describe_job, job_folder
from localaws.imaging.part10 import Instance, RejectedFileError, read_instance
from localaws.imaging.results import MANIFEST, SERVER_ERROR, Outcome, Results, write_manifest, write_result_files
from localaws.imaging.store import (
    Status,
    add_frames,
    add_image_set,
    add_version,
    document_of,
    version_row,
)
from localaws.objects import split_uri
from localaws.resources import new_id
from localaws.steps import JobFailedError, JobKind, JobSteps, s3_error_code, writes_manifest, writes_results

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from localaws.faults import Fault
    from localaws.imaging.pixel_files import PixelFiles
    from localaws.objects import InputFile, Objects
    from localaws.runtime import Runtime


log = logging.getLogger(__name__)


@dataclass
class Parsed:
    """A file after reading: its outcome so far, and the instance if it is one."""

    outcome: Outcome
    instance: Instance | None = None
    pixel_file: str = ""


class Importer(JobSteps):
    """Advances import jobs."""

    def __init__(self, runtime: Runtime, objects: Objects, pixel_files: PixelFiles) -> None:
        super().__init__(runtime, JobKind("import job", "import_job", ADVANCE))
        self._objects = objects
        self._pixel_files = pixel_files
        self._limits = runtime.settings.limits()

    def phases(self) -> Mapping[str, Callable[[sqlite3.Row, Sequence[Fault]], float | None]]:
        """Return the step of each phase; a submitted job is ``waiting``."""
        return {"waiting": self._begin, **super().phases()}

    def _begin(self, job: sqlite3.Row, _faults: Sequence[Fault]) -> float:
        self.update(job, status="IN_PROGRESS", phase="reading")
        return 0.0

    def read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Parse every file, and then store the image sets and the job's results."""
        files = self._list_files(job)
        with ThreadPoolExecutor(self.runtime.settings.readers, thread_name_prefix="localaws-reader") as readers:
            parsed = list(readers.map(self._parse, repeat(job), range(len(files)), files, repeat(faults)))
        self._store(job, parsed)
        failed = sum(item.outcome.exception_type is not None for item in parsed)
        log.info("import job %s: %d files imported, %d failed", job["id"], len(parsed) - failed, failed)
        return len(files) * self.runtime.settings.seconds_per_file

    def _list_files(self, job: sqlite3.Row) -> list[InputFile]:
        files = sorted(self._objects.list(job["input_uri"], job["input_owner"]), key=lambda file: file.key)
        settings = self.runtime.settings
        above = split_uri(job["input_uri"])[1].rpartition("/")[0]
        folders = {
            folder for file in files for folder in PurePosixPath(file.key.removeprefix(above).lstrip("/")).parents
        }
        for what, count, limit in (
            ("files", len(files), settings.max_files_per_job),
            ("bytes", sum(file.size for file in files), settings.max_bytes_per_job),
            ("nested folders", len(folders - {PurePosixPath()}), settings.max_folders_per_job),
        ):
            if count > limit:
                raise JobFailedError(f"The input has {count} {what} and {limit} are allowed per import job")
        return files

    def _parse(self, job: sqlite3.Row, number: int, file: InputFile, faults: Sequence[Fault]) -> Parsed:
        self.runtime.schedule.check()
        outcome = Outcome(file.key)
        for fault in faults:
            if fault.kind == "all_files_rejected" and fault.touches(file.key):
                outcome.reject("ValidationException", "DICOM attribute SOPClassUID does not exist")
            elif fault.kind == "server_error_on_files" and fault.touches(file.key):
                outcome.reject(SERVER_ERROR, "Internal server error")
        if outcome.exception_type:
            return Parsed(outcome)
        try:
            return self._read_instance(job, number, file, outcome)
        except RejectedFileError as rejection:
            outcome.reject("ValidationException", str(rejection))
        except ClientError as error:
            denied = s3_error_code(error) in {"AccessDenied", "403"}
            exception_type = "AccessDeniedException" if denied else "ValidationException"
            outcome.reject(exception_type, f"The object could not be read - {s3_error_code(error)}")
        except BotoCoreError as error:
            outcome.reject(SERVER_ERROR, f"The object could not be read - {s3_error_code(error)}")
        except Exception as error:  # noqa: BLE001 - RecursionError, MemoryError: one file must not cost the job
            outcome.reject("ValidationException", f"DICOM file could not be read - {type(error).__name__}")
        return Parsed(outcome)

    def _read_instance(self, job: sqlite3.Row, number: int, file: InputFile, outcome: Outcome) -> Parsed:
        if assumed := self.runtime.settings.assumed_image_set_files:
            return Parsed(outcome, assume_instance(job["input_uri"], file.key, number // assumed + 1))
        if file.size > self.runtime.settings.max_file_bytes:
            raise RejectedFileError(f"The file is larger than {self.runtime.settings.max_file_bytes} bytes")
        body, encoding = self._objects.read(job["input_uri"], file.key)
        if "gzip" in encoding:
            raise RejectedFileError("The object has the Content-Encoding gzip")
        instance = read_instance(body, self._limits)
        outcome.warnings = instance.warnings
        frames = instance.pixels.frames
        name = self._pixel_files.put([frame.data for frame in frames]) if frames else ""
        instance.pixels.frames = [frame.without_data() for frame in frames]
        return Parsed(outcome, instance, name)

    def _store(self, job: sqlite3.Row, parsed: Sequence[Parsed]) -> None:
        """Write image sets and results in one transaction: a crash leaves both or neither."""
        by_instance = {id(item.instance): item for item in parsed if item.instance}
        instances = [item.instance for item in parsed if item.instance]
        with self.runtime.state.write() as connection:
            uids = [(instance.study_instance_uid, instance.series_instance_uid) for instance in instances]
            existing = find_primaries(connection, job["datastore_id"], uids)
            image_sets = [
                self._store_group(connection, job["datastore_id"], group, by_instance)
                for group in group_instances(instances, existing)
            ]
            results = Results([item.outcome for item in parsed], image_sets)
            connection.execute(
                "UPDATE import_job SET phase = 'writing', results = ? WHERE id = ?", (results.dump(), job["id"])
            )
            touched = [version_row(connection, job["datastore_id"], item["imageSetId"]) for item in image_sets]
        for row in touched:
            announce_image_set(self.runtime, row)

    @staticmethod
    def _store_group(
        connection: sqlite3.Connection, datastore_id: str, group: Group, by_instance: dict[int, Parsed]
    ) -> dict[str, Any]:
        image_set_id = group.image_set_id or new_id()
        latest = version_row(connection, datastore_id, image_set_id) if group.image_set_id else None
        document = document_of(latest) if latest else new_document(datastore_id, image_set_id)
        items = [by_instance[id(instance)] for instance in group.instances]
        frames = [
            frame for item in items if item.instance for frame in add_instance(document, item.instance, item.pixel_file)
        ]
        version = 1
        if latest:
            version = add_version(connection, latest, document, Status("UPDATED"))
        else:
            add_image_set(connection, document, group.is_primary, Status("CREATED"))
        add_frames(connection, image_set_id, frames)
        for item in items:
            item.outcome.image_set_id = image_set_id
            item.outcome.image_set_version, item.outcome.is_primary = version, group.is_primary
        return {
            "imageSetId": image_set_id,
            "imageSetVersion": version,
            "isPrimary": group.is_primary,
            "numberOfMatchedSOPInstances": len({instance.sop_instance_uid for instance in group.instances}),
        }

    def write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        """Write the result files that have lines, then the manifest."""
        if not writes_results(faults):
            return
        results, folder = Results.load(job["results"]), job_folder(job)
        for path, body in write_result_files(results, faults, job["input_uri"], self.runtime.settings):
            self._objects.write(f"{folder}{path}", body)
        if writes_manifest(faults):
            body = write_manifest(results, job["id"], job["datastore_id"], job["input_uri"], folder)
            self._objects.write(f"{folder}{MANIFEST}", body)

    def outcome(self, _job: sqlite3.Row, faults: Sequence[Fault]) -> tuple[str, str | None]:
        """Return COMPLETED, whatever became of the files, unless a fault fails the job."""
        if any(fault.kind == "job_failed_with_output" for fault in faults):
            return "FAILED", "The import job failed after some files were processed"
        return "COMPLETED", None

    def announce(self, job: sqlite3.Row) -> None:
        """Send the event of a job's status."""
        announce_job(self.runtime, describe_job(self.runtime.settings, job))

    def describe_s3_error(self, error: BotoCoreError | ClientError) -> str:
        """Return the code of an error alone."""
        return s3_error_code(error)
