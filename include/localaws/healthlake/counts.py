"""The progress of an import: the numbers of Describe's report and of the manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

MEGABYTE = 1_000_000

IMPORTED = "imported"
FLAGGED = "flagged"
REJECTED = "rejected"
UNREADABLE = "unreadable"
SERVER_ERROR = "server_error"
UNREACHED = "unreached"
"""Outcomes of a line: stored; stored with validation issues; refused; no resource at all; lost by the service; not
reached before the job was cancelled, and therefore neither counted nor listed.
"""


@dataclass(frozen=True)
class Counts:
    """Files and lines of one import job, so far."""

    files: Mapping[str, int]
    scanned_bytes: int
    imported_bytes: int
    lines: Mapping[str, int]

    @property
    def scanned(self) -> int:
        """Lines that were looked at."""
        return sum(self.lines.values())

    @property
    def imported(self) -> int:
        """Lines whose resource was stored."""
        return self.lines.get(IMPORTED, 0) + self.lines.get(FLAGGED, 0)

    @property
    def customer_errors(self) -> int:
        """Lines that were refused."""
        return self.lines.get(REJECTED, 0) + self.lines.get(UNREADABLE, 0)

    @property
    def server_errors(self) -> int:
        """Lines that the service lost."""
        return self.lines.get(SERVER_ERROR, 0)

    @property
    def unread_files(self) -> int:
        """Files of which no line was looked at."""
        return self.files.get("unreadable", 0)

    @property
    def read_files(self) -> int:
        """Files that were read to their end, whatever became of their lines."""
        return self.files.get("read", 0)


def counts_of(connection: sqlite3.Connection, job_id: str) -> Counts:
    """Return the numbers of a job."""
    files = connection.execute(
        "SELECT state, count(*) AS count, sum(size) AS size, sum(imported_bytes) AS imported FROM fhir_import_file "
        "WHERE job_id = ? AND state != 'waiting' GROUP BY state",
        (job_id,),
    ).fetchall()
    outcomes = connection.execute("SELECT outcome, count FROM fhir_import_count WHERE job_id = ?", (job_id,))
    return Counts(
        {row["state"]: row["count"] for row in files},
        sum(row["size"] for row in files),
        sum(row["imported"] for row in files),
        {row["outcome"]: row["count"] for row in outcomes},
    )


def progress_report(job: sqlite3.Row, counts: Counts) -> dict[str, Any]:
    """Return ``JobProgressReport``; it has no number for server errors, and the NonFhir members are not set."""
    seconds = max((job["ended_at"] or time.time()) - job["started_at"], 0.001)
    return {
        "TotalNumberOfScannedFiles": counts.read_files + counts.unread_files,
        "TotalSizeOfScannedFilesInMB": round(counts.scanned_bytes / MEGABYTE, 6),
        "TotalNumberOfImportedFiles": counts.read_files,
        "TotalNumberOfResourcesScanned": counts.scanned,
        "TotalNumberOfResourcesImported": counts.imported,
        "TotalNumberOfResourcesWithCustomerError": counts.customer_errors,
        "TotalNumberOfFilesReadWithCustomerError": counts.unread_files,
        "Throughput": round(counts.imported / seconds, 3),
    }
