"""Resources: the datasets that every pipeline of FHIR resources writes, and the claims on resources.

A C-CDA document becomes resources when it is converted, and then has the same datasets in the workspace's folder
``fhir``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.records import schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.pipelines import Pipeline
    from airlock.run import Run

# A unit is a line of an NDJSON file or an entry of a Bundle, counted from 1; the line is null for a file as a whole.
UNIT = {"arrival_id": pl.String(), "line": pl.Int64()}
IDENTITY = {"resource_type": pl.String(), "resource_id": pl.String()}
# By what rows of these datasets are partitioned.
BY_UNIT = pl.format("{}:{}", "arrival_id", pl.col("line").cast(pl.String).fill_null(""))
BY_RESOURCE = pl.format("{}/{}", *IDENTITY)

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

# The last column identifies a row's file when people choose what to redrive.
CSV_COLUMNS = (
    "key",
    "line",
    "resource_type",
    "resource_id",
    "disposition",
    "stage",
    "reason",
    "detail",
    "batch_id",
    "job_id",
    "what_to_do",
    "arrival_id",
)


def chunks_index(shard: str) -> str:
    """Return the name of the list of a shard's chunks of resources, which makes the chunks count."""
    return f"resources/{shard}/index.json"


def claim_resources(
    run: Run[Pipeline], datastore_id: str, claims: pl.DataFrame | Iterable[pl.DataFrame]
) -> pl.DataFrame:
    """Claim resources, frame by frame, for a run; return those that another run is bringing. A plan only looks."""
    if run.plan_only:
        return run.ledger.claimed_resources(datastore_id, claims)
    return run.ledger.claim_resources(datastore_id, run.pipeline.name, run.key, claims)
