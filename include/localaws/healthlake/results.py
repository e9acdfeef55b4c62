"""The output folder of an import job: the manifest and the result lines (developer guide)."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from localaws.healthlake.counts import FLAGGED, IMPORTED, MEGABYTE, REJECTED, UNREADABLE
from localaws.objects import split_uri

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from localaws.faults import Fault
    from localaws.healthlake.counts import Counts
    from localaws.settings import Settings

SUCCESS, FAILURE, FLAGGED_SUCCESS = "SUCCESS/", "FAILURE/", "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/"


def result_folders(flagged_in_success: bool) -> dict[str, tuple[str, ...]]:
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
    """Return whether the service reads an object of this key."""
    return PurePosixPath(key).suffix == ".ndjson"


def list_result_lines(
    connection: sqlite3.Connection,
    file: sqlite3.Row,
    outcomes: Sequence[str],
    faults: Sequence[Fault],
    settings: Settings,
) -> Iterator[dict[str, Any]]:
    """Yield the lines about one input file; ``manifest_partial`` takes lines about stored resources out."""
    shape, first = settings.choice("fhir_result_line"), int(settings.choice("fhir_line_id") == "from_1")
    gaps = [fault for fault in faults if fault.kind == "manifest_partial"]
    rows = connection.execute(
        "SELECT * FROM fhir_import_line WHERE job_id = ? AND file = ? "
        "AND outcome IN (SELECT value FROM json_each(?)) ORDER BY line",
        (file["job_id"], file["number"], json.dumps(outcomes)),
    )
    for row in rows:
        is_stored = row["outcome"] in {IMPORTED, FLAGGED}
        if not (is_stored and any(gap.touches(f"{row['resource_type']}/{row['resource_id']}") for gap in gaps)):
            yield _line(row, row["line"] - 1 + first, shape)


def _line(row: sqlite3.Row, line_id: int, shape: str) -> dict[str, Any]:
    """Return a line in a shape of the choice ``fhir_result_line``."""
    if row["outcome"] == UNREADABLE:
        return {"lineId": line_id, "errorMessage": row["detail"]}
    response = json.loads(row["detail"])
    if shape == "line_id":
        return {"lineId": line_id, "UpdateResourceResponse": _without_name(response)}
    if row["outcome"] == IMPORTED and shape == "json_blob":
        return {"UpdateResourceResponse": response}
    if row["outcome"] == IMPORTED and shape == "status":
        return {"UpdateResourceResponse": {"statusCode": response["statusCode"]}}
    return {
        "lineId": line_id,
        "resourceId": row["resource_id"],
        "resourceType": row["resource_type"],
        "UpdateResourceResponse": response,
    }


def _without_name(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without the resource that it names; an OperationOutcome stays."""
    named = response["jsonBlob"]["resourceType"] != "OperationOutcome"
    return {name: value for name, value in response.items() if not (named and name == "jsonBlob")}


def write_manifest(job: sqlite3.Row, counts: Counts, folder: str) -> bytes:
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
