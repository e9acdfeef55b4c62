"""The work of an import job, in steps that can each be repeated after a crash.

``waiting`` → ``reading``: the job is IN_PROGRESS. Reading parses every file and then, in one transaction, writes the
image sets and the job's results; from there on nothing is read again. ``writing`` puts the output folder on S3 from
those results and ends the job. ``late`` is ``writing`` after the job has ended: the manifest lags behind.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from localaws.errors import log_defect
from localaws.faults import Fault
from localaws.imaging.announcements import announce_image_set, announce_job
from localaws.imaging.documents import add_instance, new_document
from localaws.imaging.grouping import Group, group_instances
from localaws.imaging.hierarchy import primaries
from localaws.imaging.jobs import ADVANCE, job_folder, job_row, properties
from localaws.imaging.part10 import Instance, RejectedFileError, read_instance
from localaws.imaging.results import MANIFEST, SERVER_ERROR, Outcome, Results, manifest, result_files
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
from localaws.schedule import InterruptedStepError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from localaws.imaging.pixel_files import PixelFiles
    from localaws.objects import InputFile, Objects
    from localaws.runtime import Runtime

log = logging.getLogger(__name__)

STUCK_LOOK_SECONDS = 0.1


class JobFailedError(Exception):
    """The job as a whole fails.

    Parameters
    ----------
    message : str
        What GetDICOMImportJob answers; within the model's pattern for messages.
    """


@dataclass
class Parsed:
    """A file after reading: its outcome so far, and the instance if it is one."""

    outcome: Outcome
    instance: Instance | None = None
    pixel_file: str = ""


class Importer:
    """Advances import jobs."""

    def __init__(self, runtime: Runtime, objects: Objects, pixel_files: PixelFiles) -> None:
        self._runtime = runtime
        self._objects = objects
        self._pixel_files = pixel_files
        self._limits = runtime.settings.limits()
        runtime.schedule.on(ADVANCE, self.advance)

    def advance(self, job_id: str) -> float | None:
        """Do the next step of a job; returns the seconds until the one after, or None at the end."""
        with self._runtime.state.read() as connection:
            job = job_row(connection, job_id)
        if job is None:
            return None
        steps = {"waiting": self._begin, "reading": self._read, "writing": self._write, "late": self._write_late}
        faults = [Fault(**fault) for fault in json.loads(job["faults"])]
        try:
            return steps[job["phase"]](job, faults) if job["phase"] in steps else None
        except InterruptedStepError:
            raise
        except JobFailedError as failure:
            self._end(job, "FAILED", str(failure))
        except (BotoCoreError, ClientError) as error:
            self._end(job, "FAILED", f"Amazon S3 could not be used - {_reason(error)}")
        except Exception as error:  # noqa: BLE001 - whatever breaks, the job must end and say so
            log_defect(f"job {job_id}", error)
            self._end(job, "FAILED", f"Internal error - {type(error).__name__}")
        return None

    def _begin(self, job: sqlite3.Row, _faults: Sequence[Fault]) -> float:
        self._update(job, status="IN_PROGRESS", phase="reading")
        return 0.0

    def _read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        if self._is_stuck(job, faults):
            return STUCK_LOOK_SECONDS
        if any(fault.kind == "job_failed_without_output" for fault in faults):
            raise JobFailedError("The import job failed")
        files = self._listing(job)
        with ThreadPoolExecutor(self._runtime.settings.readers, thread_name_prefix="localaws-reader") as readers:
            parsed = list(readers.map(lambda file: self._parse(job, file, faults), files))
        self._store(job, parsed)
        return len(files) * self._runtime.settings.seconds_per_file

    def _is_stuck(self, job: sqlite3.Row, faults: Sequence[Fault]) -> bool:
        age = time.time() - job["submitted_at"]
        return any(
            fault.kind == "stuck_in_progress"
            and self._runtime.faults.is_on(fault.id)
            and (fault.seconds is None or age < fault.seconds)
            for fault in faults
        )

    def _listing(self, job: sqlite3.Row) -> list[InputFile]:
        files = sorted(self._objects.list(job["input_uri"], job["input_owner"]), key=lambda file: file.key)
        settings = self._runtime.settings
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

    def _parse(self, job: sqlite3.Row, file: InputFile, faults: Sequence[Fault]) -> Parsed:
        self._runtime.schedule.check()
        outcome = Outcome(file.key)
        for fault in faults:
            if fault.kind == "all_files_rejected" and fault.touches(file.key):
                outcome.reject("ValidationException", "DICOM attribute SOPClassUID does not exist")
            elif fault.kind == "server_error_on_files" and fault.touches(file.key):
                outcome.reject(SERVER_ERROR, "Internal server error")
        if outcome.exception_type:
            return Parsed(outcome)
        try:
            return self._instance(job, file, outcome)
        except RejectedFileError as rejection:
            outcome.reject("ValidationException", str(rejection))
        except ClientError as error:
            denied = _reason(error) in {"AccessDenied", "403"}
            exception_type = "AccessDeniedException" if denied else "ValidationException"
            outcome.reject(exception_type, f"The object could not be read - {_reason(error)}")
        except BotoCoreError as error:
            outcome.reject(SERVER_ERROR, f"The object could not be read - {_reason(error)}")
        except Exception as error:  # noqa: BLE001 - RecursionError, MemoryError: one file must not cost the job
            outcome.reject("ValidationException", f"DICOM file could not be read - {type(error).__name__}")
        return Parsed(outcome)

    def _instance(self, job: sqlite3.Row, file: InputFile, outcome: Outcome) -> Parsed:
        if file.size > self._runtime.settings.max_file_bytes:
            raise RejectedFileError(f"The file is larger than {self._runtime.settings.max_file_bytes} bytes")
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
        with self._runtime.state.write() as connection:
            uids = [(instance.study_instance_uid, instance.series_instance_uid) for instance in instances]
            existing = primaries(connection, job["datastore_id"], uids)
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
            announce_image_set(self._runtime, row)

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

    def _write(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        late = next((fault for fault in faults if fault.kind == "manifest_late"), None)
        if late is None:
            self._write_output(job, faults)
        self._finish(job, faults, phase="late" if late else "done")
        return late.duration if late else None

    def _write_late(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        self._write_output(job, faults)
        self._update(job, announce=False, phase="done")

    def _write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        missing = next((fault for fault in faults if fault.kind == "manifest_missing"), None)
        if missing and not missing.keep_results:
            return
        results, folder = Results.load(job["results"]), job_folder(job)
        for path, body in result_files(results, faults, job["input_uri"], self._runtime.settings):
            self._objects.write(f"{folder}{path}", body)
        if not missing:
            body = manifest(results, job["id"], job["datastore_id"], job["input_uri"], folder)
            self._objects.write(f"{folder}{MANIFEST}", body)

    def _finish(self, job: sqlite3.Row, faults: Sequence[Fault], phase: str) -> None:
        if any(fault.kind == "job_failed_with_output" for fault in faults):
            self._end(job, "FAILED", "The import job failed after some files were processed", phase)
        else:
            self._end(job, "COMPLETED", None, phase)

    def _end(self, job: sqlite3.Row, status: str, message: str | None, phase: str = "done") -> None:
        if job["ended_at"] is not None:
            log.warning("job %s has ended, but its late output was not written: %s", job["id"], message)
            self._update(job, announce=False, phase="done")
            return
        outcomes = Results.load(job["results"]).outcomes if job["results"] else []
        counts = Counter("failed" if outcome.exception_type else "imported" for outcome in outcomes)
        log.info("job %s is %s: %d imported, %d failed", job["id"], status, counts["imported"], counts["failed"])
        self._update(job, status=status, message=message, ended_at=time.time(), phase=phase)

    def _update(self, job: sqlite3.Row, *, announce: bool = True, **columns: object) -> None:
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        with self._runtime.state.write() as connection:
            query = f"UPDATE import_job SET {assignments} WHERE id = :id"  # noqa: S608 - names of our own
            connection.execute(query, {**columns, "id": job["id"]})
            changed = job_row(connection, job["id"])
        if announce and changed is not None:
            announce_job(self._runtime, properties(self._runtime.settings, changed))


def _reason(error: BotoCoreError | ClientError) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
