"""Manifests: the output folder of an import job, with job-output-manifest.json and a result line per file.

Nothing in it is trusted beyond its declared fields. An absent file counts as an empty one; an unreadable line is
counted. Source: HealthImaging developer guide, "Understanding import jobs" (output of a DICOM import job).
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

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

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri
    from airlock.storage.workspace import Workspace

MANIFEST = "job-output-manifest.json"
RESULTS = {
    "success": "SUCCESS/success.ndjson",
    "failure": "FAILURE/failure.ndjson",
    "warning": "WARNING/warning.ndjson",
}
_SETS = ("non_primary_sets", "primary_sets")
OTHER = "OTHER"  # the service's type for a warning without another type

# The usual line: a success with these fields, each once, and without escapes. Such lines are read together.
_RESPONSE_FIELDS = ("imageSetId", "imageSetVersion", "isPrimary")
_SPACE, _TEXT = r"[ \t]*", r'"[^"\\\x00-\x1f]*"'
_COLON, _COMMA = f"{_SPACE}:{_SPACE}", f"{_SPACE},{_SPACE}"
_FIELD = (
    f'(?:"imageSetId"{_COLON}{_TEXT}|"imageSetVersion"{_COLON}(?:0|[1-9][0-9]{{0,17}})'
    f'|"isPrimary"{_COLON}(?:true|false|True|False))'
)
_RESPONSE = rf"\{{{_SPACE}{_FIELD}(?:{_COMMA}{_FIELD})*{_SPACE}\}}"
_PLAIN = (
    rf'^{_SPACE}\{{{_SPACE}"inputFile"{_COLON}{_TEXT}{_COMMA}"importResponse"{_COLON}{_RESPONSE}{_SPACE}\}}{_SPACE}$'
)

# AWS's own sample of a success line prints Python's True.
_PYTHON = re.compile(rb'("isPrimary"\s*:\s*)(True|False)')
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

LINES = schema(
    {
        "staged_key": pl.String,
        "kind": pl.String,  # success, failure or warning
        "image_set_id": pl.String,
        "image_set_version": pl.Int64,
        "is_primary": pl.Boolean,
        "exception_type": pl.String,
        "detail": pl.String,
        "warnings": pl.List(pl.String),  # types, in upper case with underscores
    }
)


@dataclass(frozen=True)
class Counters:
    """The manifest's own counts of files; None where it gives none."""

    scanned: int | None = None
    imported: int | None = None
    customer_errors: int | None = None
    server_errors: int | None = None


@dataclass(frozen=True)
class JobOutput:
    """One job's output folder as it was found."""

    manifest_found: bool
    counters: Counters
    lines: pl.DataFrame
    unreadable_lines: int
    image_set_versions: dict[str, int] = field(default_factory=dict)
    non_primary_sets: frozenset[str] = frozenset()  # by the manifest; a line may say so as well
    primary_sets: frozenset[str] = frozenset()  # by their own metadata, where no line says so
    shapes: dict[str, int] = field(default_factory=dict)  # the fields of unreadable lines, with a count of each kind


def read_output(
    s3: S3,
    folder: S3Uri,
    wait_seconds: float,
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
    clock, pause
        Monotonic seconds, and how to wait for some.
    """
    return read_until_whole(lambda: _read_once(s3, folder), _is_whole, wait_seconds, clock=clock, pause=pause)


def read_kept(workspace: Workspace, batch_id: str, job_id: str) -> JobOutput | None:
    """Return what `keep_output` wrote of this job; None if it never did."""
    with open_kept(workspace, batch_id, LINES) as kept:
        if kept is None:
            return _read_kept_json(workspace, batch_id, job_id)
        about, lines = kept
        return _kept(about, pl.concat([LINES.to_frame(), *lines]), job_id)


def _read_kept_json(workspace: Workspace, batch_id: str, job_id: str) -> JobOutput | None:
    """Read the older form: all of it in one JSON document."""
    try:
        content = json.loads(workspace.s3.get(workspace.root.join(f"outputs/{batch_id}.json")))
    except FileNotFoundError:
        return None
    return _kept(content, pl.DataFrame(content.pop("lines"), schema=LINES), job_id)


def _kept(about: dict[str, Any], lines: pl.DataFrame, job_id: str) -> JobOutput | None:
    if about.pop("job_id") != job_id:
        return None
    counters = Counters(**about.pop("counters"))
    about |= {name: frozenset(about.get(name, ())) for name in _SETS}  # an earlier version kept no primary_sets
    return JobOutput(**about, counters=counters, lines=lines)


def keep_output(workspace: Workspace, batch_id: str, job_id: str, output: JobOutput) -> None:
    """Keep a job's output in the workspace, since the output bucket's lifecycle may delete it before a later audit."""
    about = vars(output) | {
        "job_id": job_id,
        "counters": vars(output.counters),
        **{name: sorted(getattr(output, name)) for name in _SETS},
    }
    write_kept(workspace, batch_id, [about.pop("lines")], LINES, about)


def is_final(output: JobOutput) -> bool:
    """Return whether nothing can follow: the manifest counts the files, and the lines name as many."""
    return output.counters.scanned is not None and _is_whole(output)


def proves_more(one: JobOutput, other: JobOutput) -> bool:
    """Return whether one reading of a job's output holds more than another."""
    return (one.manifest_found, one.lines.height) > (other.manifest_found, other.lines.height)


def _is_whole(output: JobOutput) -> bool:
    counted = output.counters
    if not output.manifest_found or output.unreadable_lines:
        return False
    files = output.lines["staged_key"].n_unique()
    return counted.scanned is None or files >= counted.scanned


def _read_once(s3: S3, folder: S3Uri) -> JobOutput:
    summary = _summary(s3, folder)
    shapes: Counter[str] = Counter()
    results = pl.concat(_results(kind, _lines(s3, folder.join(name)), shapes) for kind, name in RESULTS.items())
    lines = results.filter(pl.col("staged_key").is_not_null())
    sets = _image_sets(summary or {})
    versions = {name: as_number(item.get("imageSetVersion")) for name, item in sets.items()}
    return JobOutput(
        manifest_found=summary is not None,
        counters=_counters(summary or {}),
        lines=lines,
        unreadable_lines=results.height - lines.height,
        image_set_versions={name: version for name, version in versions.items() if version is not None},
        non_primary_sets=frozenset(name for name, item in sets.items() if item.get("isPrimary") is False),
        shapes=dict(shapes),
    )


def _summary(s3: S3, folder: S3Uri) -> dict[str, Any] | None:
    try:
        content = _parsed(s3.get(folder.join(MANIFEST)))
    except FileNotFoundError:
        content = None
    summary = as_object(content).get("jobSummary")
    # The manifest is absent or not whole yet: the caller waits, and then accounts for every file without it.
    return summary if isinstance(summary, dict) else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(_PYTHON.sub(lambda match: match[1] + match[2].lower(), text))
    except (ValueError, RecursionError):
        return None  # counts as a line that names no file


def _counters(summary: dict[str, Any]) -> Counters:
    names = (
        "numberOfScannedFiles",
        "numberOfImportedFiles",
        "numberOfFilesWithCustomerError",
        "numberOfFilesWithServerError",
    )
    return Counters(*(as_number(summary.get(name)) for name in names))


def _image_sets(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    named = ((as_text(item.get("imageSetId")), item) for item in as_objects(summary.get("imageSetsSummary")))
    return {name: item for name, item in named if name is not None}


def _lines(s3: S3, where: S3Uri) -> list[bytes]:
    try:
        body = s3.get(where)
    except FileNotFoundError:
        return []
    return [line for line in body.splitlines() if line.strip()]


def _results(kind: str, lines: list[bytes], shapes: Counter[str]) -> pl.DataFrame:
    """Return a row of `LINES` per line, in order. A line that names no file has no staged key; its shape is counted."""
    texts = pl.DataFrame({"text": _texts(lines)}).with_row_index("line")
    once = (pl.col("text").str.count_matches(f'"{name}"', literal=True) < 2 for name in _RESPONSE_FIELDS)
    is_plain = (pl.col("text").str.contains(_PLAIN) & pl.all_horizontal(once)).fill_null(value=False)
    plain = texts.filter(is_plain).select("line", **_of_plain(kind))
    others = texts.filter(~is_plain)["line"]
    rows = [{"line": number} | _row(kind, lines[number], shapes) for number in others]
    schema_ = pl.Schema({"line": texts.schema["line"]} | LINES)
    found = pl.concat([plain.cast(schema_), pl.DataFrame(rows, schema=schema_)])
    return found.sort("line").drop("line")


def _texts(lines: list[bytes]) -> pl.Series:
    try:
        return pl.Series(lines, dtype=pl.Binary).cast(pl.String)
    except pl.exceptions.ComputeError:  # a line is not UTF-8
        return pl.Series([None] * len(lines), dtype=pl.String)


def _of_plain(kind: str) -> dict[str, pl.Expr]:
    """Return the columns that `_row` would make of a plain line."""
    line = pl.col("text")
    none = pl.lit(None, pl.String)
    return {
        "staged_key": line.str.extract(f'"inputFile"{_COLON}"([^"]*)"'),
        "kind": pl.lit(kind),
        "image_set_id": line.str.extract(f'"imageSetId"{_COLON}"([^"]*)"'),
        "image_set_version": line.str.extract(f'"imageSetVersion"{_COLON}([0-9]+)').cast(pl.Int64),
        "is_primary": line.str.extract(f'"isPrimary"{_COLON}([A-Za-z]+)').str.to_lowercase() == "true",
        "exception_type": none,
        "detail": none,
        "warnings": pl.lit([OTHER] * (kind == "warning"), pl.List(pl.String)),
    }


def _row(kind: str, line: bytes, shapes: Counter[str]) -> dict[str, Any]:
    parsed = _parsed(line)
    content = as_object(parsed)
    key = as_text(content.get("inputFile"))
    if key is None:
        count_shape(shapes, describe_shape(parsed), "other fields")
        return {}
    response, failure = as_object(content.get("importResponse")), as_object(content.get("exception"))
    warnings = as_objects(response.get("warnings"))
    types = [warning_type(as_text(item.get("type")) or OTHER) for item in warnings]
    message = failure.get("message") or "; ".join(str(item.get("message", "")) for item in warnings)
    return {
        "staged_key": key,
        "kind": kind,
        "image_set_id": as_text(response.get("imageSetId")),
        "image_set_version": as_number(response.get("imageSetVersion")),
        "is_primary": response["isPrimary"] if isinstance(response.get("isPrimary"), bool) else None,
        "exception_type": as_text(failure.get("exceptionType")),
        "detail": as_text(str(message)[:DETAIL_LENGTH]) or None,
        "warnings": types or [OTHER] * (kind == "warning"),
    }


def warning_type(name: str) -> str:
    """Return a warning's type as the code table spells it: INVALID_OFFSET_TABLE for a line's InvalidOffsetTable."""
    return _WORDS.sub("_", name).upper()
