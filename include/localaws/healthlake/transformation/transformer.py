"""The work of a data-transformation job, in steps that can each be repeated after a crash.

``waiting``: one job of the account works, the others are QUEUED in their order. ``converting`` goes through the input
files and writes what comes of each; the same document gives the same output, so that doing it again changes nothing.
``ending`` writes the files that sum the job up and ends it. ``late`` is their writing after the job has ended.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from localaws.errors import AwsError, log_defect
from localaws.healthlake.steps import LOOK_SECONDS, JobFailedError, faults_of, reason
from localaws.healthlake.transformation.ccda import UnconvertibleError
from localaws.healthlake.transformation.convert import Origin, convert, fingerprint
from localaws.healthlake.transformation.jobs import ADVANCE, job_folder, job_row
from localaws.healthlake.transformation.profiles import latest_version, profile_row
from localaws.healthlake.transformation.results import (
    JOB_DRIFT,
    MANIFEST,
    FileResult,
    Results,
    error_file,
    file_drift,
    file_names,
    job_drift,
    manifest,
)
from localaws.objects import split_uri
from localaws.schedule import InterruptedStepError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from localaws.faults import Fault
    from localaws.healthlake.transformation.convert import Conversion
    from localaws.objects import InputFile, Objects
    from localaws.runtime import Runtime

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0


class Transformer:
    """Advances data-transformation jobs."""

    def __init__(self, runtime: Runtime, objects: Objects) -> None:
        self._runtime = runtime
        self._objects = objects
        runtime.schedule.on(ADVANCE, self.advance)

    def advance(self, job_id: str) -> float | None:
        """Do the next step of a job; returns the seconds until the one after, or None at the end."""
        with self._runtime.state.read() as connection:
            job = job_row(connection, job_id)
        if job is None:
            return None
        steps = {"waiting": self._begin, "converting": self._convert, "ending": self._finish, "late": self._write_late}
        try:
            return steps[job["phase"]](job, faults_of(job)) if job["phase"] in steps else None
        except InterruptedStepError:
            raise
        except JobFailedError as failure:
            self._end(job, "FAILED", str(failure))
        except (BotoCoreError, ClientError) as error:
            self._end(job, "FAILED", f"Amazon S3 could not be used - {reason(error)}")
        except Exception as error:  # noqa: BLE001 - whatever breaks, the job must end and say so
            log_defect(f"job {job_id}", error)
            self._end(job, "FAILED", f"Internal error: {type(error).__name__}")
        return None

    def _begin(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Take the one place, with the profile's latest version at this moment."""
        ahead = "SELECT 1 FROM transformation_job WHERE ended_at IS NULL AND number < ?"
        with self._runtime.state.write() as connection:
            if self._delayed(job, faults, "queued_long") or connection.execute(ahead, (job["number"],)).fetchone():
                _set(connection, job, status="QUEUED")
                return LOOK_SECONDS
            version = _published(connection, job["profile_id"])
            _set(connection, job, status="IN_PROGRESS", phase="converting", profile_version=version)
        return 0.0

    def _delayed(self, job: sqlite3.Row, faults: Sequence[Fault], kind: str) -> bool:
        age = time.time() - job["submitted_at"]
        return any(
            fault.kind == kind
            and self._runtime.faults.is_on(fault.id)
            and (fault.seconds is None or age < fault.seconds)
            for fault in faults
        )

    def _convert(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        if self._delayed(job, faults, "stuck_in_progress"):
            return LOOK_SECONDS
        if any(fault.kind == "job_failed_without_output" for fault in faults):
            raise JobFailedError("The data transformation job failed")
        if job["source_format"] != "CCDA":
            raise JobFailedError("The conversion of CSV is not emulated by localaws")
        files = self._listing(job)
        names = file_names([file.key for file in files], split_uri(job["input_uri"])[1])
        results, documents, saved_at = Results(scanned=len(files)), Counter[str](), 0.0
        for file in files:
            self._runtime.schedule.check()
            if time.monotonic() - saved_at >= PROGRESS_SECONDS:
                self._update(job, results=results.dump())
                saved_at = time.monotonic()
            results.files.append(self._transform(job, file, names[file.key], faults, documents))
        self._update(job, results=results.dump(), phase="ending")
        return len(files) * self._runtime.settings.seconds_per_file

    def _listing(self, job: sqlite3.Row) -> list[InputFile]:
        files = sorted(self._objects.list(job["input_uri"], None), key=lambda file: file.key)
        size, limit = sum(file.size for file in files), self._runtime.settings.max_ccda_bytes_per_job
        if size > limit:
            raise JobFailedError(f"The input has {size} bytes and {limit} are allowed per data transformation job")
        return files

    def _transform(
        self, job: sqlite3.Row, file: InputFile, name: str, faults: Sequence[Fault], documents: Counter[str]
    ) -> FileResult:
        """Convert one file and write what comes of it; whatever is wrong with it must not cost the job."""
        try:
            conversion = self._conversion(job, file, faults, documents)
        except UnconvertibleError as error:
            message = str(error)
        except (BotoCoreError, ClientError) as error:
            message = f"The object could not be read: {reason(error)}"
        except Exception as error:  # noqa: BLE001 - see above
            log_defect(f"conversion in job {job['id']}", error)
            message = f"Internal error: {type(error).__name__}"
        else:
            return self._write_converted(job, file, name, faults, conversion)
        result = FileResult(file.key, f"ERROR/{name}.json", message)
        self._write(job, file, faults, result.output, error_file(file.key, message))
        return result

    def _conversion(
        self, job: sqlite3.Row, file: InputFile, faults: Sequence[Fault], documents: Counter[str]
    ) -> Conversion:
        """Convert one file; `documents` counts how often each document came before, so that no identifier recurs."""
        _strike(faults, file)
        limit = self._runtime.settings.max_ccda_document_bytes
        if file.size > limit:
            raise UnconvertibleError(f"The document has more than {limit} bytes.")
        body, _encoding = self._objects.read(job["input_uri"], file.key)
        document = fingerprint(body)
        conversion = convert(body, f"{document}/{documents[document]}", _origin(job, file))
        documents[document] += 1
        return conversion

    def _write_converted(
        self, job: sqlite3.Row, file: InputFile, name: str, faults: Sequence[Fault], conversion: Conversion
    ) -> FileResult:
        result = FileResult(
            file.key,
            f"converted/{name}.ndjson",
            resources=len(conversion.resources),
            resources_with_issues=conversion.resources_with_issues,
            processed=conversion.processed,
            skipped=conversion.skipped,
            failed=conversion.failed,
        )
        self._write(job, file, faults, result.output, conversion.ndjson)
        if job["drift"]:
            path = f"driftDetectionPerFileResults/{name}_driftMetrics.json"
            self._write(job, file, faults, path, file_drift(result, conversion.issues))
        return result

    def _write(self, job: sqlite3.Row, file: InputFile, faults: Sequence[Fault], path: str, body: bytes) -> None:
        left_out = any(fault.kind == "manifest_partial" and fault.touches(file.key) for fault in faults)
        if not left_out and _has_results(faults):
            self._objects.write(f"{job_folder(job)}{path}", body)

    def _finish(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        late = next((fault for fault in faults if fault.kind == "manifest_late"), None)
        if late is None:
            self._write_summary(job, faults)
        status, message = _ending(Results.load(job["results"]), faults)
        self._end(job, status, message, phase="late" if late else "done")
        return late.duration if late else None

    def _write_late(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        self._write_summary(job, faults)
        self._update(job, phase="done")

    def _write_summary(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        results, folder = _shown(Results.load(job["results"]), faults), job_folder(job)
        if job["drift"] and _has_results(faults):
            self._objects.write(f"{folder}{JOB_DRIFT}", job_drift(results))
        if not any(fault.kind == "manifest_missing" for fault in faults):
            self._objects.write(f"{folder}{MANIFEST}", manifest(results, job, folder))

    def _end(self, job: sqlite3.Row, status: str, message: str | None, phase: str = "done") -> None:
        if job["ended_at"] is not None:
            log.warning("job %s has ended, but its late output was not written: %s", job["id"], message)
            self._update(job, phase="done")
            return
        log.info("job %s is %s", job["id"], status)
        self._update(job, status=status, message=message, ended_at=time.time(), phase=phase)

    def _update(self, job: sqlite3.Row, **columns: object) -> None:
        with self._runtime.state.write() as connection:
            _set(connection, job, **columns)


def _set(connection: sqlite3.Connection, job: sqlite3.Row, **columns: object) -> None:
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    query = f"UPDATE transformation_job SET {assignments} WHERE id = :id"  # noqa: S608 - names of our own
    connection.execute(query, {**columns, "id": job["id"]})


def _published(connection: sqlite3.Connection, profile_id: str) -> int:
    try:
        profile_row(connection, profile_id)
    except AwsError as error:
        raise JobFailedError(f"The profile {profile_id} was deleted before the job began") from error
    return latest_version(connection, profile_id)


def _strike(faults: Sequence[Fault], file: InputFile) -> None:
    """Do what faults do to one file."""
    for fault in faults:
        if fault.kind == "all_files_rejected" and fault.touches(file.key):
            raise UnconvertibleError("The document could not be converted.")
        if fault.kind == "server_error_on_files" and fault.touches(file.key):
            raise UnconvertibleError("Internal server error")


def _origin(job: sqlite3.Row, file: InputFile) -> Origin | None:
    if not job["provenance"]:
        return None
    recorded = datetime.fromtimestamp(job["submitted_at"], UTC).isoformat(timespec="milliseconds")
    return Origin(f"s3://{split_uri(job['input_uri'])[0]}/{file.key}", recorded)


def _has_results(faults: Sequence[Fault]) -> bool:
    missing = next((fault for fault in faults if fault.kind == "manifest_missing"), None)
    return missing is None or missing.keep_results


def _shown(results: Results, faults: Sequence[Fault]) -> Results:
    """Return the results without the files that ``manifest_partial`` leaves out."""
    gaps = [fault for fault in faults if fault.kind == "manifest_partial"]
    files = [file for file in results.files if not any(gap.touches(file.key) for gap in gaps)]
    return Results(files, results.scanned)


def _ending(results: Results, faults: Sequence[Fault]) -> tuple[str, str | None]:
    kinds = {fault.kind for fault in faults}
    if "job_failed_with_output" in kinds:
        return "FAILED", "The data transformation job failed after some files were processed"
    if results.failed or "completed_with_errors" in kinds:
        return "COMPLETED_WITH_ERRORS", None
    return "COMPLETED", None
