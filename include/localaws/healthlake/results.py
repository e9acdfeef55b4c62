"""What an import job writes to its output folder: the manifest and the result lines (developer guide)."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from localaws.healthlake.counts import FLAGGED, IMPORTED, MEGABYTE, REJECTED, UNREADABLE
from localaws.imaging.objects import split_uri

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from localaws.faults import Fault
    from localaws.healthlake.counts import Counts

SUCCESS, FAILURE, FLAGGED_SUCCESS = "SUCCESS/", "FAILURE/", "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/"


def folders(flagged_in_success: bool) -> dict[str, tuple[str, ...]]:
    """Return the sub-folders of the output, each with the outcomes of the lines that it lists."""
    return {
        SUCCESS: (IMPORTED, FLAGGED) if flagged_in_success else (IMPORTED,),
        FLAGGED_SUCCESS: (FLAGGED,),
        FAILURE: (REJECTED, UNREADABLE),
    }


def result_name(input_uri: str, key: str) -> str:
    """Return the name of an input file's result: its key below the input prefix, sub-folders kept."""
    above = split_uri(input_uri)[1].rpartition("/")[0]
    return key.removeprefix(above).lstrip("/")


def is_ndjson(key: str) -> bool:
    """Say whether the service reads an object of this key."""
    return PurePosixPath(key).suffix == ".ndjson"


def result_lines(
    connection: sqlite3.Connection,
    job_id: str,
    file: int,
    outcomes: Sequence[str],
    faults: Sequence[Fault],
) -> Iterator[dict[str, Any]]:
    """Yield the lines about one input file; ``manifest_partial`` takes lines about stored resources out."""
    gaps = [fault for fault in faults if fault.kind == "manifest_partial"]
    rows = connection.execute(
        "SELECT * FROM fhir_import_line WHERE job_id = ? AND file = ? "
        "AND outcome IN (SELECT value FROM json_each(?)) ORDER BY line",
        (job_id, file, json.dumps(outcomes)),
    )
    for row in rows:
        is_stored = row["outcome"] in {IMPORTED, FLAGGED}
        if not (is_stored and any(gap.touches(f"{row['resource_type']}/{row['resource_id']}") for gap in gaps)):
            yield _line(row)


def _line(row: sqlite3.Row) -> dict[str, Any]:
    if row["outcome"] == UNREADABLE:
        return {"lineId": row["line"], "errorMessage": row["detail"]}
    return {
        "lineId": row["line"],
        "resourceId": row["resource_id"],
        "resourceType": row["resource_type"],
        "UpdateResourceResponse": json.loads(row["detail"]),
    }


def manifest(job: sqlite3.Row, counts: Counts, folder: str) -> bytes:
    """Return the manifest; `folder` is the job's output folder with its trailing slash."""
    document = {
        "inputDataConfig": {"s3Uri": job["input_uri"]},
        "outputDataConfig": {"s3Uri": folder, "encryptionKeyID": job["kms_key_id"]},
        "successOutput": {"successOutputS3Uri": f"{folder}{SUCCESS}"},
        "failureOutput": {"failureOutputS3Uri": f"{folder}{FAILURE}"},
        "numberOfScannedFiles": counts.read_files + counts.unread_files,
        "numberOfFilesImported": counts.read_files,
        "sizeOfScannedFilesInMB": round(counts.scanned_bytes / MEGABYTE, 6),
        "sizeOfDataImportedSuccessfullyInMB": round(counts.imported_bytes / MEGABYTE, 6),
        "numberOfResourcesScanned": counts.scanned,
        "numberOfResourcesImportedSuccessfully": counts.imported,
        "numberOfResourcesWithCustomerError": counts.customer_errors,
        "numberOfResourcesWithServerError": counts.server_errors,
    }
    return json.dumps(document, indent=2).encode()
