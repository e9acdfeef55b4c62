"""The rows of the clinical datasets. Those that ccda writes too are in ``airlock.stages.resources``."""

from __future__ import annotations

import polars as pl

from airlock.records import TIMESTAMP, schema
from airlock.stages.resources import IDENTITY, UNIT

# parse, one row per line or entry: resources/<shard>/<chunk>
RESOURCES = schema(
    UNIT,
    IDENTITY,
    {
        "reason": pl.String,  # a Reason where the line is set aside, else null
        "detail": pl.String,
        "content_digest": pl.String,  # 64 hex digits: equal where the content is, whatever its layout
        "size": pl.Int64,  # bytes of the body
        "patient": pl.String,  # the resource's patient: Patient/<id>, or the reference as it is; else null
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

# validate, one row per quarantined unit with content, to ask later whether another content has superseded it: stopped
STOPPED = schema(
    UNIT,
    IDENTITY,
    {
        "content_digest": pl.String,
        "clock": pl.String,  # of `stages.content_order`
        "patient": pl.String,
    },
)

# validate: the new text of a reference that has to change
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

# buffer, beside each object in which it takes in parked resources, one row per line; the id of the arrival is not in it
TAKEN = schema(
    UNIT,
    {"origin_id": pl.String, "origin_line": pl.Int64},  # the arrival and line that brought it first, as up to patient
    dict.fromkeys(("origin_bucket", "origin_key", "site"), pl.String),
    IDENTITY,
    dict.fromkeys(("content_digest", "clock", "patient", "body_uri"), pl.String),
    {"parked_at": TIMESTAMP, "parked_until": TIMESTAMP},
    {"has_ended": pl.Boolean, "is_lost": pl.Boolean},  # its time is over; its body is gone
)

# validate: the references of units that wait, by the unit's row in the delivery
WAITS = schema({"row": pl.Int64, "waits_for_type": pl.String, "waits_for_id": pl.String})

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

# audit, one row per patient and per file
GATES = pl.Schema(
    {
        "subject": pl.String,  # Patient/<id> or file/<arrival id>
        "subject_key": pl.String,
        "gate": pl.String,
        "reason": pl.String,  # a Reason where the gate is hold, else null
    }
)


def file_subject(arrival_id: str) -> str:
    """Return the subject of the resources that belong to no patient."""
    return f"file/{arrival_id}"
