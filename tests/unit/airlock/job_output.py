"""What a job writes, in the shapes that AWS documents and in those that were observed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.imaging.manifests import LINES, Counters, JobOutput, read_output
from airlock.records import BATCHES
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.world import frame

if TYPE_CHECKING:
    import polars as pl

    from tests.unit.airlock.world import World

FOLDER = S3Uri("work", f"output/{'d' * 32}-DicomImport-j1/")
FILES = {"success": "SUCCESS/success.ndjson", "failure": "FAILURE/failure.ndjson", "warning": "WARNING/warning.ndjson"}


def success(key: str, **response: Any) -> dict[str, Any]:
    return {"inputFile": key, "importResponse": {"imageSetId": "i1", "isPrimary": True} | response}


def failure(
    key: str, kind: str = "ValidationException", message: str = "DICOM attributes does not exist"
) -> dict[str, Any]:
    return {"inputFile": key, "exception": {"exceptionType": kind, "message": message}}


def warning(key: str, *types: str, **response: Any) -> dict[str, Any]:
    found = [{"warning_reason_code": 45330, "type": each, "message": f"about {each}"} for each in types]
    return success(key, imageSetVersion=1, warnings=found, **response)


def summary(
    scanned: int | None = None, imported: int | None = None, customer: int = 0, server: int = 0, **more: Any
) -> dict[str, Any]:
    """Return a manifest."""
    counts = {"numberOfScannedFiles": scanned, "numberOfImportedFiles": scanned if imported is None else imported}
    counts |= {"numberOfFilesWithCustomerError": customer, "numberOfFilesWithServerError": server}
    return {
        "jobSummary": {"jobId": "j1", **{name: value for name, value in counts.items() if value is not None}, **more}
    }


def leave(world: World, manifest: Any = None, **results: list[Any] | bytes) -> None:
    """Write a job's output folder: each result file as lines, or as raw bytes."""
    if manifest is not None:
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        world.s3.put(FOLDER.join("job-output-manifest.json"), body)
    for kind, lines in results.items():
        body = lines if isinstance(lines, bytes) else b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        world.s3.put(FOLDER.join(FILES[kind]), body)


def read(world: World) -> JobOutput:
    """Read the output once, without waiting."""
    return read_output(world.s3, FOLDER, 0)


def files(*keys: str, **changes: Any) -> pl.DataFrame:
    """Return a batch's list."""
    rows = [
        {"batch_id": "b1", "arrival_id": f"a-{key}", "staged_key": key, "size": 1, "SOPInstanceUID": f"1.1.1.{key}"}
        | {"SeriesInstanceUID": "1.1.1", "StudyInstanceUID": "1.1"} | changes
        for key in keys
    ]  # fmt: skip
    return frame(rows, BATCHES)


def output(*lines: dict[str, Any], found: bool = True, unreadable: int = 0, **counts: int | None) -> JobOutput:
    """Return a job's output as it was read."""
    base: dict[str, Any] = {"is_primary": True, "image_set_id": "i1", "warnings": []}
    rows = [base | line if line["kind"] != "failure" else {"warnings": []} | line for line in lines]
    return JobOutput(found, Counters(**counts), frame(rows, LINES), unreadable)
