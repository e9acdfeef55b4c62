"""Resources: the datasets that every pipeline of FHIR resources writes, and the claims on resources.

For converted C-CDA documents, these datasets are in the workspace's folder ``fhir``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.resources import REFUSED
from airlock.records import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airlock.pipelines import Pipeline
    from airlock.run import Run

# A unit is a line of an NDJSON file or an entry of a Bundle, counted from 1; the line is null for a file as a whole.
UNIT = {"arrival_id": pl.String(), "line": pl.Int64()}
TYPES = ", "  # between the types that a detail names
IDENTITY = {"resource_type": pl.String(), "resource_id": pl.String()}
# The values by which rows of these datasets are partitioned.
BY_UNIT = pl.format("{}:{}", "arrival_id", pl.col("line").cast(pl.String).fill_null(""))
BY_RESOURCE = pl.format("{}/{}", *IDENTITY)

# parse, one row per arrival: files/<shard>
FILES = schema(
    {
        "arrival_id": pl.String,
        "reason": pl.String,  # a Reason that stops the whole file, else null
        "detail": pl.String,
        "units": pl.Int64,  # the number of the file's rows in the resources dataset
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

# The last column identifies a row's file in a selection for a redrive.
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


def name_chunks_index(shard: str) -> str:
    """Return the name of the list of a shard's chunks of resources; chunks that it does not list do not exist."""
    return f"resources/{shard}/index.json"


def claim_resources(
    run: Run[Pipeline],
    datastore_id: str,
    claims: pl.DataFrame | Iterable[pl.DataFrame],
    judge: Callable[[pl.DataFrame], pl.DataFrame],
) -> pl.DataFrame:
    """Claim resources for a run, frame by frame; return those that it does not get. A plan claims none.

    Parameters
    ----------
    run, datastore_id, claims, judge
        As for `Ledger.claim_resources`.

    Returns
    -------
    polars.DataFrame
        `ledger.resources.REFUSED`.
    """
    if run.plan_only:
        taken = run.ledger.claimed_resources(datastore_id, claims)
        return pl.concat([REFUSED.to_frame(), taken], how="diagonal")
    return run.ledger.claim_resources(datastore_id, run.pipeline.name, run.key, claims, judge)
