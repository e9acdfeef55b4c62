"""The terms of the design as types: decisions, and the rows of each stage's dataset.

A dataset is a polars frame with exactly the columns of its schema here; ``workspace`` refuses another one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from polars._typing import PolarsDataType

TIMESTAMP = pl.Datetime("us", "UTC")


class Verdict(StrEnum):
    """The decision on an arrival before import."""

    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    QUARANTINE = "quarantine"
    IGNORE = "ignore"
    PARK = "park"  # it waits for another one, as only FHIR resources do


class Outcome(StrEnum):
    """The fact about an accepted arrival after import, read from the job's output manifest."""

    IMPORTED = "imported"
    IMPORTED_WITH_WARNING = "imported_with_warning"
    NON_PRIMARY = "non_primary"
    REJECTED = "rejected"
    SERVER_ERROR = "server_error"
    UNACCOUNTED = "unaccounted"


class Gate(StrEnum):
    """The decision per study."""

    RELEASE = "release"
    HOLD = "hold"


class Disposition(StrEnum):
    """The final decision on an arrival."""

    RELEASED = "released"
    HELD = "held"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    IGNORED = "ignored"
    FAILED = "failed"
    PARKED = "parked"


class Stage(StrEnum):
    """The stages that decide on an arrival, by the names that people see in the Airflow UI."""

    RECEIVE = "receive"
    BUFFER = "buffer"
    PARSE = "parse"
    VALIDATE = "validate"
    NORMALIZE = "normalize"
    STAGE = "stage"
    IMPORT = "import"
    AUDIT = "audit"
    ROUTE = "route"


@dataclass(frozen=True)
class Window:
    """The half-open interval of time [start, end) that a run takes in; both are aware."""

    start: datetime
    end: datetime


def digest(*parts: str | int | None, length: int = 32) -> str:
    """Return a stable hex digest of the parts, for ids that must not reveal the values behind them."""
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def subject_key(datastore_id: str, subject: str) -> str:
    """Return the name of a subject of clinical records outside the workspace and the ledger: 16 hex digits.

    Parameters
    ----------
    datastore_id
        The HealthLake data store.
    subject
        ``Patient/<id>``, or ``file/<arrival id>`` for the resources of a file that belong to no patient.
    """
    return digest("subject", datastore_id, subject, length=16)


def arrival_id(bucket: str, key: str, version_id: str | None, etag: str, size: int) -> str:
    """Return the key of one object version: 32 hex digits."""
    return digest(bucket, key, version_id, etag, size)


def arrival_ids(bucket: str, listed: pl.DataFrame) -> pl.Series:
    """Return the `arrival_id` of each row of a listing (``key``, ``version_id``, ``etag``, ``size``)."""
    parts = pl.lit(bucket), "key", pl.col("version_id").fill_null(""), "etag", pl.col("size").cast(pl.String)
    texts = listed.select(pl.concat_str(*parts, separator="\x1f")).to_series()
    return pl.Series("arrival_id", [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts], pl.String)


def study_key(study_instance_uid: str) -> str:
    """Return the name of a study outside the workspace and the ledger: 16 hex digits."""
    return digest("study", study_instance_uid, length=16)


# The attributes that describe a study, a series or a time and decide on nothing. Parse reads them since the contracts
# name them; the datasets of earlier runs have no columns for them.
PROCEDURE_CODES = "ProcedureCodeSequence"  # of its first item CodeValue, CodingSchemeDesignator and CodeMeaning
CLASSIFYING: tuple[str, ...] = (
    "ImageType",
    "TimezoneOffsetFromUTC",
    PROCEDURE_CODES,
    "ContrastBolusAgent",
    "Laterality",
    "ImageLaterality",
)

# The attributes that parse reads of each header, by their DICOM keywords (PS3.6). All are text as stored, decoded and
# stripped of padding, multiple values joined by a backslash; null where the element is absent, "" where it is empty.
ATTRIBUTES: tuple[str, ...] = (
    "TransferSyntaxUID",
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "Modality",
    "InstitutionName",
    "ReferringPhysicianName",
    "StationName",
    "StudyDescription",
    "SeriesDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "BodyPartExamined",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyID",
    "SeriesNumber",
    "InstanceNumber",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
    "NumberOfFrames",
    "RequestedProcedureID",
    *CLASSIFYING,
)


def schema(*groups: Mapping[str, PolarsDataType]) -> pl.Schema:
    """Return the schema whose columns are those of the groups, in order."""
    return pl.Schema({name: kind for group in groups for name, kind in group.items()})


def count_parts(parts: Iterable[pl.DataFrame], column: str) -> dict[str, int]:
    """Return how often each value of a column occurs in these frames, by the value."""
    counter: Counter[str] = Counter()
    for rows in parts:
        counter.update(dict(rows[column].value_counts().iter_rows()))
    return dict(sorted(counter.items()))


ATTRIBUTE_COLUMNS: dict[str, PolarsDataType] = dict.fromkeys(ATTRIBUTES, pl.String)

ARRIVALS = schema(
    {
        "arrival_id": pl.String,
        "bucket": pl.String,
        "key": pl.String,
        "version_id": pl.String,
        "etag": pl.String,  # as S3 gives it, without the quotes
        "size": pl.Int64,  # bytes
        "last_modified": TIMESTAMP,
    }
)

HEADERS = schema(
    {
        "arrival_id": pl.String,
        "reason": pl.String,  # a Reason when the header could not be read, else null
        "detail": pl.String,
        "warning": pl.String,  # a Reason that does not stop the file by itself (undecodable_text, no_pixel_data)
    },
    ATTRIBUTE_COLUMNS,
    {
        "fallback": pl.String,  # a Doubt where the scanner left the header to pydicom, else null
        "bytes_read": pl.Int64,
        "requests": pl.Int64,
    },
)

VERDICTS = schema(
    ARRIVALS,
    ATTRIBUTE_COLUMNS,
    {
        "verdict": pl.String,
        "reason": pl.String,  # null only where the verdict is accept without a finding
        "detail": pl.String,
        "duplicate_of": pl.String,  # arrival_id of the copy that counts
    },
)

BATCHES = pl.Schema(
    {
        "batch_id": pl.String,
        "arrival_id": pl.String,
        "bucket": pl.String,  # where the file comes from, as all up to etag
        "key": pl.String,
        "version_id": pl.String,
        "etag": pl.String,
        "staged_bucket": pl.String,
        "staged_key": pl.String,  # the key that the job's result lines will name
        "reason": pl.String,  # a Reason where the file could not be staged and is not part of the job, else null
        "size": pl.Int64,
        "SOPInstanceUID": pl.String,
        "SeriesInstanceUID": pl.String,
        "StudyInstanceUID": pl.String,
        "NumberOfFrames": pl.String,
    }
)

STUDIES = pl.Schema(
    {
        "study_key": pl.String,
        "StudyInstanceUID": pl.String,
        "contract": pl.String,  # JSON of contracts.StudyContract, as planned: no image sets yet
    }
)

JOBS = pl.Schema(
    {
        "batch_id": pl.String,
        "generation": pl.Int64,
        "job_id": pl.String,
        "status": pl.String,  # the service's status: COMPLETED or FAILED
        "message": pl.String,
        "input_uri": pl.String,
        "output_uri": pl.String,  # the job's own folder, ending in "/"
    }
)

OUTCOMES = schema(
    {
        "arrival_id": pl.String,
        "batch_id": pl.String,
        "job_id": pl.String,
        "outcome": pl.String,
        "reason": pl.String,
        "detail": pl.String,  # free text from the service, shortened
        "warnings": pl.List(pl.String),  # the service's warning types, in upper case with underscores
        "image_set_id": pl.String,
        "image_set_version": pl.Int64,
        "SOPInstanceUID": pl.String,
        "SeriesInstanceUID": pl.String,
        "StudyInstanceUID": pl.String,
    }
)

GATES = pl.Schema(
    {
        "study_key": pl.String,
        "StudyInstanceUID": pl.String,
        "gate": pl.String,
        "reason": pl.String,  # a Reason where the gate is hold, else null
    }
)

# The subjects that the audit holds for a person's decision, each with its findings: the files and their reasons.
HOLDS = schema(
    {
        "subject": pl.String,  # a StudyInstanceUID, or a patient or a file in a clinical pipeline
        "subject_key": pl.String,
        "reason": pl.String,  # of the hold
    },
    {"reasons": pl.List(pl.String)},  # of the findings, each once
    {"findings": pl.String},  # their digest: another finding makes another hold
)

DISPOSITIONS = pl.Schema(
    {
        "arrival_id": pl.String,
        "key": pl.String,
        "size": pl.Int64,
        "sop_instance_uid": pl.String,
        "series_instance_uid": pl.String,
        "study_instance_uid": pl.String,
        "disposition": pl.String,
        "stage": pl.String,  # the stage that decided
        "reason": pl.String,
        "detail": pl.String,
        "batch_id": pl.String,
        "job_id": pl.String,
        "image_set_id": pl.String,
    }
)

# The unit of the gate is the subject: a StudyInstanceUID here, a patient or a file in a clinical pipeline.
CONTRACTS = pl.Schema(
    {
        "subject": pl.String,
        "subject_key": pl.String,  # of a study its study_key
        "revision": pl.Int64,
        "content_digest": pl.String,
        "contract": pl.String,  # JSON; of a study contracts.StudyContract, with image sets and every imported instance
    }
)
