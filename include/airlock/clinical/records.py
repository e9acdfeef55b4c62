"""The rows of the clinical datasets; ``airlock.records`` has the words and those that all kinds share."""

from __future__ import annotations

import polars as pl

from airlock.records import digest, schema

# What names a unit: the line of an NDJSON file, or the entry of a Bundle, counted from 1; null for a file as a whole.
UNIT = {"arrival_id": pl.String(), "line": pl.Int64()}
IDENTITY = {"resource_type": pl.String(), "resource_id": pl.String()}

# parse, one row per arrival: files/<shard>
FILES = schema(
    {
        "arrival_id": pl.String,
        "reason": pl.String,  # a Reason that sets the whole file aside, else null
        "detail": pl.String,
        "units": pl.Int64,  # rows of the resources dataset that are the file's
        "bytes_read": pl.Int64,  # as stored
    }
)

# parse, one row per line or entry: resources/<shard>/<chunk>
RESOURCES = schema(
    UNIT,
    IDENTITY,
    {
        "reason": pl.String,  # a Reason when the line is no resource to be had, else null
        "detail": pl.String,
        "content_digest": pl.String,  # 64 hex digits: equal where the content is, whatever its layout
        "size": pl.Int64,  # bytes of the body
        "patient": pl.String,  # Patient/<id> or the reference as it stands, of the patient it belongs to; else null
        "full_url": pl.String,  # of the Bundle's entry
        "references": pl.List(pl.String),  # every Reference.reference that is not to a contained resource
        "identifiers": pl.List(pl.String),  # system|value
        "body": pl.String,  # JSON
    },
)

# validate, one row per unit
VERDICTS = schema(
    UNIT,
    IDENTITY,
    {
        "chunk": pl.String,  # the resources dataset that holds the body; null for a file as a whole
        "content_digest": pl.String,
        "size": pl.Int64,
        "patient": pl.String,  # Patient/<id>, resolved
        "verdict": pl.String,
        "reason": pl.String,
        "detail": pl.String,
    },
)

# validate: what a reference that cannot stay as it is becomes
REWRITES = schema(UNIT, {"found": pl.String, "reference": pl.String})

# validate and audit: the OperationOutcome of each unit that has one
OPERATION_OUTCOMES = schema(
    UNIT,
    IDENTITY,
    {
        "source": pl.String,  # local, $validate or import
        "outcome": pl.String,  # JSON
    },
)

# normalize, one row per resource sent: batches/<batch id>
BATCHES = schema(
    {"batch_id": pl.String},
    UNIT,
    IDENTITY,
    {
        "content_digest": pl.String,
        "size": pl.Int64,
        "patient": pl.String,
        "staged_bucket": pl.String,
        "staged_key": pl.String,  # the import file
        "staged_line": pl.Int64,  # in that file, from 1
    },
)

# audit, one row per resource sent
OUTCOMES = schema(
    UNIT,
    IDENTITY,
    {
        "batch_id": pl.String,
        "job_id": pl.String,
        "outcome": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "content_digest": pl.String,
        "patient": pl.String,
    },
)

# audit, one row per patient and per file
GATES = pl.Schema(
    {
        "subject": pl.String,  # Patient/<id> or file/<arrival id>
        "subject_key": pl.String,
        "gate": pl.String,
        "reason": pl.String,  # a Reason where the gate is hold, else null
    }
)

# audit, one row per unit
DISPOSITIONS = schema(
    UNIT,
    {"key": pl.String},
    IDENTITY,
    {
        "size": pl.Int64,
        "patient": pl.String,
        "disposition": pl.String,
        "stage": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "batch_id": pl.String,
        "job_id": pl.String,
    },
)


def subject_key(datastore_id: str, subject: str) -> str:
    """Return what may stand for a patient or a file outside the workspace and the ledger: 16 hex digits."""
    return digest("subject", datastore_id, subject, length=16)


def file_subject(arrival_id: str) -> str:
    """Return the subject of the resources that belong to no patient."""
    return f"file/{arrival_id}"
