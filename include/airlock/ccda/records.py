"""The rows of the datasets about C-CDA documents up to their conversion; afterwards they are FHIR resources."""

from __future__ import annotations

import polars as pl

from airlock.pipelines import CcdaPipeline
from airlock.records import ARRIVALS, TIMESTAMP, schema

FOLDER = CcdaPipeline.resources_folder  # the workspace's folder of the stages that import the converted resources
DOCUMENT = "ClinicalDocument"  # a document's type among the ledger's resources


def name_document_store(pipeline: CcdaPipeline) -> str:
    """Return the name of the profile and its version, which the ledger uses in place of a data store.

    So another version of the profile may convert the same document again.
    """
    return f"{pipeline.transformation.profile_id}/{pipeline.transformation.profile_version}"


# parse, one row per arrival: documents/<shard>
DOCUMENTS = schema(
    {
        "arrival_id": pl.String,
        "reason": pl.String,  # a Reason if the document cannot be converted, else null
        "detail": pl.String,
        "document_id": pl.String,  # ClinicalDocument.id as root|extension
        "code": pl.String,  # ClinicalDocument.code
        "content_digest": pl.String,  # SHA-256 of the document, unpacked
        "is_gzip": pl.Boolean,
        "unpacked": pl.Int64,  # bytes of the document as it is sent
    }
)

# validate, one row per arrival
VERDICTS = schema(
    ARRIVALS,
    {
        "verdict": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "document_id": pl.String,
        "content_digest": pl.String,
        "is_gzip": pl.Boolean,
        "unpacked": pl.Int64,
    },
)

# normalize, one row per document: batches/<batch id>
BATCHES = pl.Schema(
    {
        "batch_id": pl.String,
        "arrival_id": pl.String,
        "staged_bucket": pl.String,
        "staged_key": pl.String,
        "reason": pl.String,  # a Reason if the document could not be staged, else null
        "size": pl.Int64,
    }
)

# audit, one row per arrival
CONVERSIONS = schema(
    {
        "arrival_id": pl.String,
        "batch_id": pl.String,
        "reason": pl.String,  # a Reason if the document was not converted, else null
        "detail": pl.String,
        "coverage": pl.Float64,  # of the drift report, 0 to 1; null without one
        "bucket": pl.String,
        "key": pl.String,  # the converted NDJSON
        "etag": pl.String,
        "size": pl.Int64,
        "last_modified": TIMESTAMP,
    }
)
