"""Manifests: the output folder of a FHIR import job, with the manifest and a result line per resource.

Nothing in it is trusted beyond its declared fields. An absent file counts as an empty one; an unreadable line is
counted. Source: HealthLake developer guide, "Importing FHIR data" (output of an import job). The shape of the result
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

from airlock.clinical.records import BATCHES
from airlock.records import schema
from airlock.stages.outputs import (
    DETAIL_LENGTH,
    as_number,
    as_object,
    as_objects,
    as_text,
    count_shape,
    describe_shape,
    open_kept,
    read_until_whole,
    write_kept,
)
from airlock.storage.lines import split
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airlock.storage.s3 import S3, ListedObject
    from airlock.storage.spool import Partitions
    from airlock.storage.workspace import Workspace

# AWS's pages show the name in lower case; live stores write it with a capital.
MANIFESTS = ("Manifest.json", "manifest.json")
RESULTS = {
    "success": "SUCCESS/",
    "failure": "FAILURE/",
    "warning": "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/",  # minimal validation only
}
ERROR_STATUS = 400  # from this HTTP status on, a resource is not stored
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
    """The facts about lines that name no resource."""

    folder: str
    fields: str  # names, never values
    stored: bool  # whether the folder and the status say that a resource is in the store


# Lines of one import file are together, however much of its name a result file has.
_BY_FILE = pl.col("file").str.extract("([^/]*)$")


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
    lines: Spool  # by import file
    unread: Mapping[Shape, int] = field(default_factory=dict)

    @property
    def unreadable_lines(self) -> int:
        """How many lines cannot be read or name no resource."""
        return sum(self.unread.values())

    @property
    def named(self) -> int:
        """How many resources the lines name."""
        line_id = pl.when(pl.col("resource_id").is_null()).then("line_id")
        return sum(part.select("file", "resource_type", "resource_id", line_id).n_unique() for part in self.lines)

    def part(self, number: int) -> pl.DataFrame:
        """Return the lines of a partition."""
        return self.lines.partition(number)


def spool_lines(partitions: Partitions | None, frames: Iterable[pl.DataFrame] = ()) -> Spool:
    """Return lines by import file; without partitions all are in memory."""
    if partitions is not None:
        return partitions.spool(_BY_FILE, LINES, frames)
    spool = Spool(_BY_FILE, 1)
    for rows in (LINES.to_frame(), *frames):
        spool.add(rows)
    return spool


def spool_sent(partitions: Partitions, rows: Iterable[pl.DataFrame]) -> Spool:
    """Return a batch's list by import file, partitioned as the lines about it are."""
    return partitions.spool(pl.col("staged_key").str.extract("([^/]*)$"), BATCHES, rows)


@dataclass(frozen=True)
class Outputs:
    """How audit reads and keeps outputs (`stages.outputs.Manifests`): their lines in partitions."""

    partitions: Partitions

    def read_output(self, s3: S3, folder: S3Uri, wait_seconds: float) -> JobOutput:
        """Read a job's output folder; wait for so long until it is whole."""
        return read_output(s3, folder, wait_seconds, self.partitions)

    def read_kept(self, workspace: Workspace, batch_id: str, job_id: str) -> JobOutput | None:
        """Return what was kept of this job."""
        return read_kept(workspace, batch_id, job_id, self.partitions)

    def keep_output(self, workspace: Workspace, batch_id: str, job_id: str, output: JobOutput) -> None:
        """Keep a job's output in the workspace."""
        keep_output(workspace, batch_id, job_id, output)

    def is_final(self, output: JobOutput) -> bool:
        """Say whether nothing can follow."""
        return is_final(output)

    def proves_more(self, one: JobOutput, other: JobOutput) -> bool:
        """Return whether one reading of a job's output holds more than another."""
        return proves_more(one, other)


def read_output(
    s3: S3,
    folder: S3Uri,
    wait_seconds: float,
    partitions: Partitions | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> JobOutput:
    """Read a job's output until it is whole or the wait is over: it may be written after COMPLETED.

    Parameters
    ----------
    s3
        Where the output bucket is.
    folder
        The job's own folder, ending in ``/``.
    wait_seconds
        How long to wait for a manifest, and for as many lines as it counts.
    partitions
        Where lines are set aside; without it all are in memory.
    clock, pause
        Monotonic seconds, and how to wait for some.
    """
    reading = _Reading(s3, folder, partitions)
    return read_until_whole(reading.read, _is_whole, wait_seconds, clock=clock, pause=pause)


def read_kept(
    workspace: Workspace, batch_id: str, job_id: str, partitions: Partitions | None = None
) -> JobOutput | None:
    """Return what `keep_output` wrote of this job; None if it never did."""
    with open_kept(workspace, batch_id, LINES) as kept:
        if kept is None:
            return _read_kept_json(workspace, batch_id, job_id, partitions)
        about, lines = kept
        return _kept(about, lines, job_id, partitions)


def _read_kept_json(
    workspace: Workspace, batch_id: str, job_id: str, partitions: Partitions | None
) -> JobOutput | None:
    """Read the older form: a JSON document, and a dataset of the lines."""
    try:
        about = json.loads(workspace.s3.get(workspace.root.join(f"outputs/{batch_id}.json")))
    except FileNotFoundError:
        return None
    name, kinds = about.pop("lines"), LINES
    if "unread" not in about:  # older still; a reading that is not whole is made again
        if about["unreadable_lines"]:
            return None
        kinds = pl.Schema({column: kind for column, kind in LINES.items() if column != "line_id"})
    parts = workspace.parts(name, kinds)
    line_id = [] if "line_id" in kinds else [pl.lit(None, pl.Int64).alias("line_id")]
    return _kept(about, (rows.with_columns(line_id) for rows in parts), job_id, partitions)


def _kept(
    about: dict[str, Any], lines: Iterable[pl.DataFrame], job_id: str, partitions: Partitions | None
) -> JobOutput | None:
    if about["job_id"] != job_id:
        return None
    unread = {Shape(*shape): count for *shape, count in about.get("unread", [])}
    spool = spool_lines(partitions, (rows.select(LINES.names()) for rows in lines))
    return JobOutput(about["manifest_found"], Counters(**about["counters"]), spool, unread)


def keep_output(workspace: Workspace, batch_id: str, job_id: str, output: JobOutput) -> None:
    """Keep in the workspace what a job's output proved: the output bucket may forget it, the audit must not."""
    about = {
        "job_id": job_id,
        "manifest_found": output.manifest_found,
        "counters": asdict(output.counters),
        "unread": [[*shape, count] for shape, count in output.unread.items()],
    }
    write_kept(workspace, batch_id, output.lines, LINES, about)


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
    """Return the counts that `keep_progress` kept of a batch's job; empty counts if there are none."""
    try:
        return Counters(**json.loads(workspace.s3.get(workspace.root.join(_progress_name(batch_id)))))
    except FileNotFoundError:
        return Counters()


def _progress_name(batch_id: str) -> str:
    return f"progress/{batch_id}.json"


def is_final(output: JobOutput) -> bool:
    """Return whether nothing can follow: the manifest counts the resources, and the lines name as many."""
    counted = output.counters.scanned
    return output.manifest_found and not output.unreadable_lines and counted is not None and output.named >= counted


def proves_more(one: JobOutput, other: JobOutput) -> bool:
    """Return whether one reading of a job's output holds more than another."""
    return (one.manifest_found, one.lines.rows) > (other.manifest_found, other.lines.rows)


def _is_whole(output: JobOutput) -> bool:
    counted = output.counters
    if not output.manifest_found or not all(shape.stored for shape in output.unread):
        return False
    # A resource that the service lost by its own fault may have no line.
    told = output.named + output.unreadable_lines
    return counted.scanned is None or told >= counted.scanned - (counted.server_errors or 0)


_COUNTERS = (
    "numberOfResourcesScanned",
    "numberOfResourcesImportedSuccessfully",
    "numberOfResourcesWithCustomerError",
    "numberOfResourcesWithServerError",
    "numberOfScannedFiles",
)


class _Reading:
    """An output folder that is read again and again: a result file is read again only if one has changed."""

    def __init__(self, s3: S3, folder: S3Uri, partitions: Partitions | None) -> None:
        self._s3 = s3
        self._folder = folder
        self._partitions = partitions
        self._begin()

    def _begin(self) -> None:
        self._lines = spool_lines(self._partitions)
        self._unread = Counter[Shape]()
        self._seen: set[tuple[str, str]] = set()  # key and etag

    def read(self) -> JobOutput:
        """Return what the folder holds by now."""
        manifest = _manifest(self._s3, self._folder)
        listed = [
            (item, kind, self._folder.join(name))
            for kind, name in RESULTS.items()
            for item in self._s3.list_objects(self._folder.join(name))
        ]
        if not self._seen <= {(item.key, item.etag) for item, _, _ in listed}:
            self._begin()
        for item, kind, below in listed:
            if (item.key, item.etag) not in self._seen:
                self._seen.add((item.key, item.etag))
                self._add(item, kind, below)
        return JobOutput(manifest is not None, _counters(manifest or {}, _COUNTERS), self._lines, self._unread)

    def _add(self, item: ListedObject, kind: str, below: S3Uri) -> None:
        file, where = item.key.removeprefix(below.key), S3Uri(below.bucket, item.key)
        for rows in _portions(self._s3, where, kind, file, self._unread):
            self._lines.add(pl.DataFrame(rows, schema=LINES, orient="row"))


def _manifest(s3: S3, folder: S3Uri) -> dict[str, Any] | None:
    for name in MANIFESTS:
        try:
            content = _parsed(s3.get(folder.join(name)))
        except FileNotFoundError:
            continue
        if isinstance(content, dict):
            return content
    return None  # absent or not whole yet: the caller waits, and then accounts for every resource without it


def _counters(content: dict[str, Any], names: tuple[str | None, ...]) -> Counters:
    return Counters(*(as_number(content.get(name)) if name else None for name in names))


def _parsed(content: bytes | str) -> Any:
    try:
        return _DECODER.decode(content if isinstance(content, str) else content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # counts as a line that names no resource


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # json.loads would make one per line


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
        status = ERROR_STATUS  # the line contradicts its folder
    if len(names) > 1 or not (names or line_id is not None):
        is_stored = bool(line) and not names and kind == "success" and (status or 0) < ERROR_STATUS
        return Shape(RESULTS[kind], describe_shape(content), is_stored)
    resource_type, resource_id = names.pop() if names else (own[0] or stored[0], None)
    outcome = blob if is_outcome and kind != "success" else {}
    return kind, file, resource_type, resource_id, line_id, status, _detail(outcome), _kept_outcome(outcome)


def _errors(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    return [issue for issue in as_objects(outcome.get("issue")) if issue.get("severity") in ("fatal", "error")]


def _detail(outcome: dict[str, Any]) -> str | None:
    """Return text and place of the first error."""
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
