"""The work of an import job: every line of every file under the input prefix, upserted by type and id.

Lines are stored in batches, each in one transaction with its outcomes: an import that was killed goes on after the
last batch, and stores nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from localaws.fhir import Level, operation_outcome
from localaws.healthlake.counts import FLAGGED, IMPORTED, SERVER_ERROR, UNREACHED, UNREADABLE, counts_of
from localaws.healthlake.jobs import IMPORT, job_folder
from localaws.healthlake.judgement import Judge
from localaws.healthlake.ndjson import batch_lines, open_ndjson, read_lines
from localaws.healthlake.results import is_ndjson, list_result_lines, result_folders, result_name, write_manifest
from localaws.healthlake.steps import QueuedJobSteps
from localaws.steps import JobFailedError, writes_manifest, writes_results

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from localaws.faults import Fault
    from localaws.fhir import Validator
    from localaws.healthlake.judgement import Judgement
    from localaws.healthlake.ndjson import Line
    from localaws.healthlake.objects import Objects
    from localaws.healthlake.store import ResourceStore
    from localaws.runtime import Runtime

GZIP_MAGIC = b"\x1f\x8b"


class Importer(QueuedJobSteps):
    """Advances import jobs."""

    def __init__(self, runtime: Runtime, objects: Objects, store: ResourceStore, validator: Validator) -> None:
        super().__init__(IMPORT, runtime, objects)
        self._store = store
        self._validator = validator

    def transfer(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Import every file that is not imported yet."""
        self._list_files(job)
        files = self._files(job["id"])
        for file in files:
            if file["state"] == "waiting":
                state = self._read_file(job, file, faults)
                self._set_state(file, state)
        return len(files) * self.runtime.settings.seconds_per_file

    def _files(self, job_id: str) -> list[sqlite3.Row]:
        with self.runtime.state.read() as connection:
            query = "SELECT * FROM fhir_import_file WHERE job_id = ? ORDER BY number"
            return connection.execute(query, (job_id,)).fetchall()

    def _list_files(self, job: sqlite3.Row) -> None:
        """Record the objects under the prefix once: objects that come later are not imported."""
        if self._files(job["id"]):
            return
        files = sorted(self.objects.list(job["input_uri"], None), key=lambda file: file.key)
        settings = self.runtime.settings
        for what, count, limit in (
            ("files", len(files), settings.max_fhir_files_per_job),
            ("bytes", sum(file.size for file in files), settings.max_fhir_bytes_per_job),
        ):
            if count > limit:
                raise JobFailedError(f"The input has {count} {what} and {limit} are allowed per import job")
        rows = [(job["id"], number, file.key, file.size) for number, file in enumerate(files)]
        with self.runtime.state.write() as connection:
            query = "INSERT INTO fhir_import_file (job_id, number, key, size, state) VALUES (?, ?, ?, ?, 'waiting')"
            connection.executemany(query, rows)

    def _set_state(self, file: sqlite3.Row, state: str) -> None:
        with self.runtime.state.write() as connection:
            query = "UPDATE fhir_import_file SET state = ? WHERE job_id = ? AND number = ?"
            connection.execute(query, (state, file["job_id"], file["number"]))

    def _read_file(self, job: sqlite3.Row, file: sqlite3.Row, faults: Sequence[Fault]) -> str:
        if not is_ndjson(file["key"]) or file["size"] > self.runtime.settings.max_fhir_file_bytes:
            return "unreadable"
        try:
            stream, encoding = self.objects.open(job["input_uri"], file["key"])
        except ClientError:
            return "unreadable"
        with stream:
            head = stream.read(len(GZIP_MAGIC))
            if "gzip" in encoding or head == GZIP_MAGIC:
                return "unreadable"
            self._read_lines(job, file, faults, read_lines(stream, self.runtime.settings.max_resource_bytes, head))
        return "read"

    def _read_lines(self, job: sqlite3.Row, file: sqlite3.Row, faults: Sequence[Fault], found: Iterator[Line]) -> None:
        judge = Judge(self._validator, Level(job["validation_level"]), faults, file["key"])
        done = self._last_line(file)
        for batch in batch_lines(line for line in found if line.number > done):
            self.runtime.schedule.check()
            judgements = [judge.judge(line) for line in batch]
            self._store_batch(job, file, [found for found in judgements if found.outcome != UNREACHED])

    def _last_line(self, file: sqlite3.Row) -> int:
        query = "SELECT max(line) FROM fhir_import_line WHERE job_id = ? AND file = ?"
        with self.runtime.state.read() as connection:
            (number,) = connection.execute(query, (file["job_id"], file["number"])).fetchone()
        return number or 0

    def _store_batch(self, job: sqlite3.Row, file: sqlite3.Row, judgements: Sequence[Judgement]) -> None:
        """Write resources and outcomes in one transaction: a crash leaves both or neither."""
        with self.runtime.state.write() as connection:
            rows = [
                (
                    *(job["id"], file["number"], judgement.line.number, judgement.outcome),
                    *(judgement.resource_type, judgement.resource_id),
                    self._store_resource(connection, job, judgement),
                )
                for judgement in judgements
            ]
            connection.executemany("INSERT INTO fhir_import_line VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._add_counts(connection, file, judgements)

    def _store_resource(self, connection: sqlite3.Connection, job: sqlite3.Row, judgement: Judgement) -> str | None:
        """Store the resource, if there is one; return the content of the result line."""
        if judgement.outcome == UNREADABLE:
            return judgement.message
        if judgement.outcome == SERVER_ERROR:
            return None
        answer: dict[str, Any] = {"jsonBlob": operation_outcome(judgement.issues), "statusCode": 400}
        if judgement.resource is not None:
            stored = self._store.put(connection, job["datastore_id"], judgement.resource)
            answer["statusCode"] = 201 if stored.version == 1 else 200
            if judgement.outcome == IMPORTED:
                meta = {"versionId": str(stored.version), "lastUpdated": stored.last_updated}
                answer["jsonBlob"] = {"resourceType": stored.resource_type, "id": stored.id, "meta": meta}
        return json.dumps(answer)

    @staticmethod
    def _add_counts(connection: sqlite3.Connection, file: sqlite3.Row, judgements: Sequence[Judgement]) -> None:
        outcomes = Counter(judgement.outcome for judgement in judgements)
        connection.executemany(
            "INSERT INTO fhir_import_count VALUES (?, ?, ?) "
            "ON CONFLICT (job_id, outcome) DO UPDATE SET count = count + excluded.count",
            [(file["job_id"], outcome, count) for outcome, count in outcomes.items()],
        )
        imported = sum(judgement.line.size for judgement in judgements if judgement.outcome in {IMPORTED, FLAGGED})
        connection.execute(
            "UPDATE fhir_import_file SET imported_bytes = imported_bytes + ? WHERE job_id = ? AND number = ?",
            (imported, file["job_id"], file["number"]),
        )

    def result(self, job: sqlite3.Row) -> tuple[str, str | None]:
        """Return COMPLETED_WITH_ERRORS for customer errors alone: the API has no number for the service's own."""
        with self.runtime.state.read() as connection:
            counts = counts_of(connection, job["id"])
        if not counts.customer_errors and not counts.unread_files:
            return "COMPLETED", None
        message = f"{counts.customer_errors} resources and {counts.unread_files} files have customer errors"
        return "COMPLETED_WITH_ERRORS", message

    def write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        """Write the result files that have lines, then the manifest."""
        if not writes_results(faults):
            return
        folder = job_folder(job)
        for file in self._files(job["id"]):
            self._write_results(job, file, faults)
        if writes_manifest(faults):
            with self.runtime.state.read() as connection:
                body = write_manifest(job, counts_of(connection, job["id"]), folder)
            self.objects.write(f"{folder}{self.runtime.settings.choice('fhir_manifest')}", body)

    def _write_results(self, job: sqlite3.Row, file: sqlite3.Row, faults: Sequence[Fault]) -> None:
        name = result_name(job["input_uri"], file["key"])
        for sub_folder, outcomes in result_folders(self.runtime.settings.choice("warned_in_success") == "yes").items():
            self.runtime.schedule.check()
            with self.runtime.state.read() as connection:
                found = list_result_lines(connection, file, outcomes, faults, self.runtime.settings)
                with open_ndjson(found) as body:
                    if body is not None:
                        self.objects.upload(f"{job_folder(job)}{sub_folder}{name}", body)

    def forget(self, connection: sqlite3.Connection, job_id: str) -> None:
        """Drop the outcome of each line; their counts stay."""
        connection.execute("DELETE FROM fhir_import_line WHERE job_id = ?", (job_id,))
