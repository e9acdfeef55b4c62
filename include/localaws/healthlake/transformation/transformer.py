"""The work of a data-transformation job.

``waiting``: one job of the account runs, the others are QUEUED in their order. ``reading`` converts the input files and
writes the output of each; the same document gives the same output, so that doing it again changes nothing. ``writing``
writes the files that sum the job up.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from localaws.errors import AwsError, log_defect
from localaws.healthlake.transformation.ccda import UnconvertibleError
from localaws.healthlake.transformation.convert import Origin, convert, hash_document
from localaws.healthlake.transformation.jobs import ADVANCE, JOB, job_folder
from localaws.healthlake.transformation.profiles import latest_version, profile_row
from localaws.healthlake.transformation.results import (
    JOB_DRIFT,
    MANIFEST,
    FileResult,
    Results,
    name_output_files,
    write_error_file,
    write_file_drift,
    write_job_drift,
    write_manifest,
)
from localaws.objects import split_uri
from localaws.steps import LOOK_SECONDS, JobFailedError, JobKind, JobSteps, writes_manifest, writes_results

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from localaws.faults import Fault
    from localaws.healthlake.transformation.convert import Conversion
    from localaws.objects import InputFile, Objects
    from localaws.runtime import Runtime

PROGRESS_SECONDS = 1.0


class Transformer(JobSteps):
    """Advances data-transformation jobs."""

    def __init__(self, runtime: Runtime, objects: Objects) -> None:
        super().__init__(runtime, JobKind(JOB, "transformation_job", ADVANCE))
        self._objects = objects

    def phases(self) -> Mapping[str, Callable[[sqlite3.Row, Sequence[Fault]], float | None]]:
        """Return the step of each phase; a submitted or queued job is ``waiting``."""
        return {"waiting": self._begin, **super().phases()}

    def _begin(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Begin the job once no other one of the account runs, with the profile's latest version at this moment."""
        ahead = "SELECT 1 FROM transformation_job WHERE ended_at IS NULL AND number < ?"
        with self.runtime.state.write() as connection:
            if self.is_held_up("queued_long", job, faults) or connection.execute(ahead, (job["number"],)).fetchone():
                self.set_columns(connection, job, status="QUEUED")
                return LOOK_SECONDS
            version = _find_published_version(connection, job["profile_id"])
            self.set_columns(connection, job, status="IN_PROGRESS", phase="reading", profile_version=version)
        return 0.0

    def read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Convert every input file."""
        if job["source_format"] != "CCDA":
            raise JobFailedError("The conversion of CSV is not emulated by localaws")
        files = self._list_files(job)
        names = name_output_files([file.key for file in files], split_uri(job["input_uri"])[1])
        results, documents, saved_at = Results(scanned=len(files)), Counter[str](), 0.0
        for file in files:
            self.runtime.schedule.check()
            if time.monotonic() - saved_at >= PROGRESS_SECONDS:
                self.update(job, results=results.dump())
                saved_at = time.monotonic()
            results.files.append(self._process_file(job, file, names[file.key], faults, documents))
        self.update(job, results=results.dump(), phase="writing")
        return len(files) * self.runtime.settings.seconds_per_file

    def _list_files(self, job: sqlite3.Row) -> list[InputFile]:
        files = sorted(self._objects.list(job["input_uri"], None), key=lambda file: file.key)
        size, limit = sum(file.size for file in files), self.runtime.settings.max_ccda_bytes_per_job
        if size > limit:
            raise JobFailedError(f"The input has {size} bytes and {limit} are allowed per data transformation job")
        return files

    def _process_file(
        self, job: sqlite3.Row, file: InputFile, name: str, faults: Sequence[Fault], documents: Counter[str]
    ) -> FileResult:
        """Convert one file and write its output; no fault of the file may fail the job."""
        try:
            conversion = self._convert_file(job, file, faults, documents)
        except UnconvertibleError as error:
            message = str(error)
        except (BotoCoreError, ClientError) as error:
            message = f"The object could not be read: {self.describe_s3_error(error)}"
        except Exception as error:  # noqa: BLE001 - see above
            log_defect(f"conversion in job {job['id']}", error)
            message = f"Internal error: {type(error).__name__}"
        else:
            return self._write_converted(job, file, name, faults, conversion)
        result = FileResult(file.key, f"ERROR/{name}.json", message)
        self._write_file(job, file, faults, result.output, write_error_file(file.key, message))
        return result

    def _convert_file(
        self, job: sqlite3.Row, file: InputFile, faults: Sequence[Fault], documents: Counter[str]
    ) -> Conversion:
        """Convert one file; `documents` counts how often each document came before, so that no identifier recurs."""
        _apply_faults(faults, file)
        limit = self.runtime.settings.max_ccda_document_bytes
        if file.size > limit:
            raise UnconvertibleError(f"The document has more than {limit} bytes.")
        body, _encoding = self._objects.read(job["input_uri"], file.key)
        document = hash_document(body)
        conversion = convert(body, f"{document}/{documents[document]}", _find_origin(job, file))
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
        self._write_file(job, file, faults, result.output, conversion.ndjson)
        if job["drift"]:
            path = f"driftDetectionPerFileResults/{name}_driftMetrics.json"
            self._write_file(job, file, faults, path, write_file_drift(result, conversion.issues))
        return result

    def _write_file(self, job: sqlite3.Row, file: InputFile, faults: Sequence[Fault], path: str, body: bytes) -> None:
        left_out = any(fault.kind == "manifest_partial" and fault.touches(file.key) for fault in faults)
        if not left_out and writes_results(faults):
            self._objects.write(f"{job_folder(job)}{path}", body)

    def write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        """Write the files that sum the job up; those of each input file are written with it."""
        results, folder = _drop_left_out(Results.load(job["results"]), faults), job_folder(job)
        if job["drift"] and writes_results(faults):
            self._objects.write(f"{folder}{JOB_DRIFT}", write_job_drift(results))
        if writes_manifest(faults):
            self._objects.write(f"{folder}{MANIFEST}", write_manifest(results, job, folder))

    def announce(self, job: sqlite3.Row) -> None:
        """Do nothing: AWS documents no event of these jobs."""

    def outcome(self, job: sqlite3.Row, faults: Sequence[Fault]) -> tuple[str, str | None]:
        """Return the status of the job's faults, or the one that the files have earned."""
        kinds = {fault.kind for fault in faults}
        if "job_failed_with_output" in kinds:
            return "FAILED", f"The {self.kind.name} failed after some files were processed"
        if Results.load(job["results"]).failed or "completed_with_errors" in kinds:
            return "COMPLETED_WITH_ERRORS", None
        return "COMPLETED", None


def _find_published_version(connection: sqlite3.Connection, profile_id: str) -> int:
    try:
        profile_row(connection, profile_id)
    except AwsError as error:
        raise JobFailedError(f"The profile {profile_id} was deleted before the job began") from error
    return latest_version(connection, profile_id)


def _apply_faults(faults: Sequence[Fault], file: InputFile) -> None:
    """Raise the error of a fault that touches the file."""
    for fault in faults:
        if fault.kind == "all_files_rejected" and fault.touches(file.key):
            raise UnconvertibleError("The document could not be converted.")
        if fault.kind == "server_error_on_files" and fault.touches(file.key):
            raise UnconvertibleError("Internal server error")


def _find_origin(job: sqlite3.Row, file: InputFile) -> Origin | None:
    if not job["provenance"]:
        return None
    recorded = datetime.fromtimestamp(job["submitted_at"], UTC).isoformat(timespec="milliseconds")
    return Origin(f"s3://{split_uri(job['input_uri'])[0]}/{file.key}", recorded)


def _drop_left_out(results: Results, faults: Sequence[Fault]) -> Results:
    """Return the results without the files that ``manifest_partial`` leaves out."""
    gaps = [fault for fault in faults if fault.kind == "manifest_partial"]
    files = [file for file in results.files if not any(gap.touches(file.key) for gap in gaps)]
    return Results(files, results.scanned)
