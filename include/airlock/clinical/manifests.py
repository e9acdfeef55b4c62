"""What a FHIR import job left in its output folder: the manifest, and the result lines, one per resource.

Nothing here is trusted beyond its declared fields. A file that is not there is an empty one; a line that cannot be read
is counted. Source: HealthLake developer guide, "Importing FHIR data" (output of an import job). The shape of the result
lines is on no AWS page: `airlock.clinical.result_lines` says in which order their evidence is taken.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from airlock.records import schema
from airlock.stages.outputs import (
    DETAIL_LENGTH,
    as_number,
    as_object,
    as_objects,
    as_text,
    count_shape,
    read_until_whole,
    shape_of,
)
from airlock.storage.lines import split
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airlock.storage.s3 import S3, ListedObject
    from airlock.storage.workspace import Workspace

# AWS's pages have the name in lower case, live stores write the capital.
MANIFESTS = ("Manifest.json", "manifest.json")
RESULTS = {
    "success": "SUCCESS/",
    "failure": "FAILURE/",
    "warning": "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/",  # minimal validation only
}
ERROR_STATUS = 400  # an HTTP status from here on says that a resource is not stored
_STATUS = re.compile("[1-5][0-9]{2}")
LINE_BYTES = 16 * 1024**2  # of the longest result line that is read
OUTCOME_LENGTH = 64 * 1024  # characters of an OperationOutcome that are kept; the whole of it stays in the job's folder
_AT_ONCE = 20_000  # lines that are held as Python objects
_TOO_LONG = {"severity": "error", "code": "too-long", "diagnostics": "see the result line in the job's output folder"}

LINES = schema(
    {
        "kind": pl.String,  # success, failure or warning; read where the resource itself was read
        "file": pl.String,  # the import file, as the result file's place below its folder has it
        "resource_type": pl.String,
        "resource_id": pl.String,  # null where the line has a lineId alone
        "line_id": pl.Int64,
        "status_code": pl.Int64,
        "detail": pl.String,
        "outcome": pl.String,  # JSON of the OperationOutcome; null for a success
    }
)


class Shape(NamedTuple):
    """What can be told of lines that name no resource."""

    folder: str
    fields: str  # names, never values
    stored: bool  # whether the folder and the status say that a resource is in the store


Seen = dict[tuple[str, str], tuple[pl.DataFrame, Counter[Shape]]]  # by key and etag: rows, and lines that name nothing


@dataclass(frozen=True)
class Counters:
    """The service's own counts; None where it gives none."""

    scanned: int | None = None
    imported: int | None = None
    customer_errors: int | None = None
    server_errors: int | None = None
    files_scanned: int | None = None


@dataclass(frozen=True)
class JobOutput:
    """One job's output folder as it was found."""

    manifest_found: bool
    counters: Counters
    lines: pl.DataFrame
    unread: Mapping[Shape, int] = field(default_factory=dict)

    @property
    def unreadable_lines(self) -> int:
        """How many lines cannot be read or name no resource."""
        return sum(self.unread.values())

    @property
    def named(self) -> int:
        """How many resources the lines name."""
        line_id = pl.when(pl.col("resource_id").is_null()).then("line_id")
        return self.lines.select("file", "resource_type", "resource_id", line_id).n_unique()


def read_output(
    s3: S3,
    folder: S3Uri,
    wait_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> JobOutput:
    """Read a job's output, again and again until it is whole or the wait is over: it may come after COMPLETED.

    Parameters
    ----------
    s3
        Where the output bucket is.
    folder
        The job's own folder, ending in ``/``.
    wait_seconds
        How long to wait for a manifest, and for as many lines as it counts.
    clock, pause
        Monotonic seconds, and how to wait for some.
    """
    seen: Seen = {}
    return read_until_whole(lambda: _read_once(s3, folder, seen), _is_whole, wait_seconds, clock=clock, pause=pause)


def read_kept(workspace: Workspace, batch_id: str, job_id: str) -> JobOutput | None:
    """Return what `keep_output` wrote of this job, None if it never did."""
    try:
        content = json.loads(workspace.s3.get(workspace.root.join(_kept_name(batch_id))))
    except FileNotFoundError:
        return None
    if content["job_id"] != job_id:
        return None
    unread = {Shape(*shape): count for *shape, count in content.get("unread", [])}
    if unread or "unread" in content:
        lines = workspace.read(content["lines"], LINES)
    else:  # the older form; a reading that is not whole is made again
        if content["unreadable_lines"]:
            return None
        older = pl.Schema({name: kind for name, kind in LINES.items() if name != "line_id"})
        lines = workspace.read(content["lines"], older).with_columns(line_id=pl.lit(None, pl.Int64))
    return JobOutput(content["manifest_found"], Counters(**content["counters"]), lines.select(LINES.names()), unread)


def keep_output(workspace: Workspace, batch_id: str, job_id: str, output: JobOutput) -> None:
    """Keep in the workspace what a job's output proved: the output bucket may forget it, the audit must not."""
    lines = f"outputs/{batch_id}/{job_id}"
    workspace.write(lines, LINES, output.lines)
    kept = {
        "job_id": job_id,
        "manifest_found": output.manifest_found,
        "counters": asdict(output.counters),
        "unread": [[*shape, count] for shape, count in output.unread.items()],
        "lines": lines,
    }
    workspace.write_json(_kept_name(batch_id), kept)


def _kept_name(batch_id: str) -> str:
    return f"outputs/{batch_id}.json"


def keep_progress(workspace: Workspace, batch_id: str, properties: dict[str, Any]) -> None:
    """Keep the counts of a job that has ended, for `read_progress`.

    Parameters
    ----------
    workspace
        The run's.
    batch_id
        Whose job it is.
    properties
        ``ImportJobProperties`` of DescribeFHIRImportJob.
    """
    report = as_object(properties.get("JobProgressReport"))
    names = (
        "TotalNumberOfResourcesScanned",
        "TotalNumberOfResourcesImported",
        "TotalNumberOfResourcesWithCustomerError",
        None,  # there is none for the service's own errors
        "TotalNumberOfScannedFiles",
    )
    workspace.write_json(_progress_name(batch_id), asdict(_counters(report, names)))


def read_progress(workspace: Workspace, batch_id: str) -> Counters:
    """Return the job's own report of its progress, as far as `keep_progress` was given it."""
    try:
        return Counters(**json.loads(workspace.s3.get(workspace.root.join(_progress_name(batch_id)))))
    except FileNotFoundError:
        return Counters()


def _progress_name(batch_id: str) -> str:
    return f"progress/{batch_id}.json"


def is_final(output: JobOutput) -> bool:
    """Say whether nothing can follow: the manifest counts the resources, and as many are named."""
    counted = output.counters.scanned
    return output.manifest_found and not output.unreadable_lines and counted is not None and output.named >= counted


def proves_more(one: JobOutput, other: JobOutput) -> bool:
    """Say whether one reading of a job's output holds more than another."""
    return (one.manifest_found, one.lines.height) > (other.manifest_found, other.lines.height)


def _is_whole(output: JobOutput) -> bool:
    counted = output.counters
    if not output.manifest_found or not all(shape.stored for shape in output.unread):
        return False
    # What the service lost by its own fault may have no line at all.
    told = output.named + output.unreadable_lines
    return counted.scanned is None or told >= counted.scanned - (counted.server_errors or 0)


def _read_once(s3: S3, folder: S3Uri, seen: Seen) -> JobOutput:
    manifest = _manifest(s3, folder)
    frames: list[pl.DataFrame] = [LINES.to_frame()]
    unread: Counter[Shape] = Counter()
    for kind, name in RESULTS.items():
        below = folder.join(name)
        for item in s3.list_objects(below):
            place = item.key, item.etag
            if place not in seen:
                seen[place] = _read_results(s3, below, item, kind)
            frames.append(seen[place][0])
            unread += seen[place][1]
    names = (
        "numberOfResourcesScanned",
        "numberOfResourcesImportedSuccessfully",
        "numberOfResourcesWithCustomerError",
        "numberOfResourcesWithServerError",
        "numberOfScannedFiles",
    )
    return JobOutput(manifest is not None, _counters(manifest or {}, names), pl.concat(frames), unread)


def _manifest(s3: S3, folder: S3Uri) -> dict[str, Any] | None:
    for name in MANIFESTS:
        try:
            content = _parsed(s3.get(folder.join(name)))
        except FileNotFoundError:
            continue
        if isinstance(content, dict):
            return content
    return None  # not there, or not whole yet: the caller waits, and then accounts for every resource without it


def _counters(content: dict[str, Any], names: tuple[str | None, ...]) -> Counters:
    return Counters(*(as_number(content.get(name)) if name else None for name in names))


def _parsed(content: bytes | str) -> Any:
    try:
        return json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None  # as a line that names no resource


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _read_results(s3: S3, below: S3Uri, item: ListedObject, kind: str) -> tuple[pl.DataFrame, Counter[Shape]]:
    """Read one result file: its rows, and its lines that name no resource, by their shapes."""
    file, unread = item.key.removeprefix(below.key), Counter[Shape]()
    portions = _portions(s3, S3Uri(below.bucket, item.key), kind, file, unread)
    frames = [pl.DataFrame(rows, schema=LINES, orient="row") for rows in portions]
    return pl.concat([LINES.to_frame(), *frames]), unread


def _portions(s3: S3, where: S3Uri, kind: str, file: str, unread: Counter[Shape]) -> Iterator[list[tuple[Any, ...]]]:
    rows: list[tuple[Any, ...]] = []
    for line in split(s3.stream(where), LINE_BYTES):
        found = _row(kind, file, None if line.text is None else _parsed(line.text))
        if isinstance(found, Shape):
            count_shape(unread, found, Shape(RESULTS[kind], "other fields", stored=False))
            continue
        rows.append(found)
        if len(rows) == _AT_ONCE:
            yield rows
            rows = []
    yield rows


def _row(kind: str, file: str, content: object) -> tuple[Any, ...] | Shape:
    """Return a line's row; its shape where it names no resource and has no lineId, or names two resources."""
    line = as_object(content)
    response = as_object(line.get("UpdateResourceResponse"))
    blob = response.get("jsonBlob")
    blob = as_object(_parsed(blob) if isinstance(blob, str) else blob)
    is_outcome = blob.get("resourceType") == "OperationOutcome"
    own = as_text(line.get("resourceType")), as_text(line.get("resourceId"))
    stored = (None, None) if is_outcome else (as_text(blob.get("resourceType")), as_text(blob.get("id")))
    names = {name for name in (own, stored) if None not in name}
    line_id, said = as_number(line.get("lineId")), response.get("statusCode")
    status = int(said) if isinstance(said, str) and _STATUS.fullmatch(said) else as_number(said)
    if kind == "success" and ((said is not None and not status) or (is_outcome and _errors(blob))):
        status = ERROR_STATUS  # the line denies what its folder says
    if len(names) > 1 or not (names or line_id is not None):
        is_stored = bool(line) and not names and kind == "success" and (status or 0) < ERROR_STATUS
        return Shape(RESULTS[kind], shape_of(content), is_stored)
    resource_type, resource_id = names.pop() if names else (own[0] or stored[0], None)
    outcome = blob if is_outcome and kind != "success" else {}
    return kind, file, resource_type, resource_id, line_id, status, _detail(outcome), _kept_outcome(outcome)


def _errors(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    return [issue for issue in as_objects(outcome.get("issue")) if issue.get("severity") in ("fatal", "error")]


def _detail(outcome: dict[str, Any]) -> str | None:
    """Return what the first error says, and where."""
    issues = as_objects(outcome.get("issue"))
    for issue in _errors(outcome) or issues:
        said = as_text(issue.get("diagnostics")) or as_text(as_object(issue.get("details")).get("text"))
        # HealthLake documents `location` where FHIR R4 prefers `expression`.
        place = next((as_text(each) for each in _list(issue.get("expression")) or _list(issue.get("location"))), None)
        if said or place:
            return ": ".join(part for part in (place, said) if part)[:DETAIL_LENGTH]
    return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _kept_outcome(outcome: dict[str, Any]) -> str | None:
    if not outcome:
        return None
    kept = json.dumps(outcome, separators=(",", ":"))
    if len(kept) <= OUTCOME_LENGTH:
        return kept
    return json.dumps({"resourceType": "OperationOutcome", "issue": [_TOO_LONG]}, separators=(",", ":"))
