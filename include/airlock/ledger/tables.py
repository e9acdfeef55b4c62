"""The ledger's tables. ``migrations`` creates the same tables step by step; a test compares the two.

Column names are plain SQL names; a column of a DICOM attribute has the DICOM keyword as its key in Python, as in the
stages' frames. The most selective column of a key comes first: SQLite has no statistics, and would otherwise choose an
index that begins with the data store to find one instance.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

from airlock.records import Disposition, Gate

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect


class InstanceState(StrEnum):
    """The state of a SOP instance's import into a data store by the arrival that owns it."""

    CLAIMED = "claimed"
    IMPORTED = "imported"
    NON_PRIMARY = "non_primary"


class MessageState(StrEnum):
    """The state of a message of the outbox."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"  # given up, until somebody queues it again


class StowState(StrEnum):
    """Whether a DICOMweb server has stored an instance, by its own answer."""

    STORED = "stored"
    REFUSED = "refused"


class Resolution(StrEnum):
    """The action that a person chose for a non-primary image set."""

    PROMOTE = "promote"
    DELETE = "delete"


class ResolutionState(StrEnum):
    """The progress of a resolution; each step is recorded before its request to the service."""

    BEGUN = "begun"
    COPYING = "copying"  # CopyImageSet may have been requested
    DELETING = "deleting"  # DeleteImageSet may have been requested
    DONE = "done"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time: ``timestamptz`` on PostgreSQL, the same instant as naive UTC text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store every time as UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware time, whatever the database stores."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """Return the constraint that a column holds one of these values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

runs = Table(
    "runs",
    metadata,
    Column("run_key", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("window_start", UtcDateTime),
    Column("window_end", UtcDateTime),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("state", Text, nullable=False),
    Column("report", Text),  # JSON
    UniqueConstraint("pipeline", "run_id"),
)

# An arrival has one row per pipeline; the run in run_key holds it.
arrivals = Table(
    "arrivals",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("bucket", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version_id", Text),
    Column("etag", Text, nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("last_modified", UtcDateTime, nullable=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
    Column("claimed_at", UtcDateTime, nullable=False),
    Column("disposition", Text),
    Column("stage", Text),
    Column("reason", Text),
    Column("detail", Text),
    Column("sop_instance_uid", Text),
    Column("series_instance_uid", Text),
    Column("study_instance_uid", Text),
    Column("study_key", Text),  # indexed instead of the UID: a file may declare a UID too long for an index
    Column("batch_id", Text),
    Column("job_id", Text),
    Column("image_set_id", Text),
    Column("settled_at", UtcDateTime),
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("superseded_by", Text),  # the arrival_id of its successor, the generation that a redrive made
    Column("superseded_before", Text),  # superseded_by before the last redrive; restored if that redrive is released
    Column("carries", Text),  # the arrival_id of the generation whose import counts for this one too
    one_of("disposition", Disposition),
    CheckConstraint("(settled_at IS NULL) = (disposition IS NULL)", name="settled_with_a_word"),
    Index(None, "run_key"),
    Index(None, "study_key"),
    Index(
        "ix_arrivals_superseded_by",
        "superseded_by",
        postgresql_where=text("superseded_by IS NOT NULL"),
        sqlite_where=text("superseded_by IS NOT NULL"),
    ),
    Index("ix_arrivals_key", "key", postgresql_using="hash"),
    Index(  # released arrivals are found by their instances
        "ix_arrivals_unreleased",
        "sop_instance_uid",
        postgresql_using="hash",
        postgresql_where=text("disposition <> 'released'"),
        sqlite_where=text("disposition <> 'released'"),
    ),
)

# A SOP instance has one row per data store, so one owner: the arrival that is to import it or has imported it. On
# PostgreSQL its pages are half empty (migration 0004): no indexed column may change when a claim becomes an import.
instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True, key="SOPInstanceUID"),
    Column("datastore_id", Text, primary_key=True),
    Column("series_instance_uid", Text, nullable=False, key="SeriesInstanceUID"),
    Column("study_instance_uid", Text, nullable=False, key="StudyInstanceUID"),
    Column("arrival_id", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("image_set_id", Text),
    Column("image_set_version", BigInteger),
    Column("batch_id", Text),
    one_of("state", InstanceState),
    ForeignKeyConstraint(["arrival_id", "pipeline"], ["arrivals.arrival_id", "arrivals.pipeline"]),
    Index("ix_instances_arrival", "arrival_id", "pipeline"),
    Index("ix_instances_study", "StudyInstanceUID", "datastore_id"),
)

# A FHIR resource has one row per data store: its last imported content, and the claim of a run on the next content.
resources = Table(
    "resources",
    metadata,
    Column("resource_id", Text, primary_key=True),
    Column("resource_type", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("content_digest", Text),  # of what was imported; null until then, as all up to batch_id
    Column("run_key", Text, ForeignKey("runs.run_key")),
    Column("pipeline", Text),
    Column("arrival_id", Text),  # null for a resource that Airlock itself has built
    Column("batch_id", Text),
    Column("claimed_by", Text, ForeignKey("runs.run_key"), index=True),
    Column("claimed_digest", Text),
    Column("claimed_arrival_id", Text),
    CheckConstraint("(content_digest IS NULL) = (run_key IS NULL)", name="imported_by_a_run"),
    CheckConstraint("content_digest IS NOT NULL OR claimed_by IS NOT NULL", name="imported_or_claimed"),
    ForeignKeyConstraint(["arrival_id", "pipeline"], ["arrivals.arrival_id", "arrivals.pipeline"]),
    Index("ix_resources_arrival", "arrival_id", "pipeline"),
)

# The grouping elements of the studies and series in a data store, as the first run that imported some of it found them.
studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", Text, primary_key=True, key="StudyInstanceUID"),
    Column("datastore_id", Text, primary_key=True),
    Column("study_date", Text, key="StudyDate"),
    Column("accession_number", Text, key="AccessionNumber"),
    Column("patient_id", Text, key="PatientID"),
    Column("issuer_of_patient_id", Text, key="IssuerOfPatientID"),
    Column("study_id", Text, key="StudyID"),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
)

series = Table(
    "series",
    metadata,
    Column("series_instance_uid", Text, primary_key=True, key="SeriesInstanceUID"),
    Column("datastore_id", Text, primary_key=True),
    Column("study_instance_uid", Text, nullable=False, key="StudyInstanceUID"),
    Column("series_number", Text, key="SeriesNumber"),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False, index=True),
    Column("client_token", Text, nullable=False),
    Column("job_id", Text),
    Column("status", Text),
    Column("message", Text, nullable=False),
    Column("input_uri", Text, nullable=False),
    Column("output_uri", Text, nullable=False),
    Column("submitted_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
)

# The audits' decisions; people's decisions about holds are in overrides, where no row is ever changed or deleted.
# The subject of a gate is a StudyInstanceUID, or "Patient/<id>" or "file/<arrival_id>" in a clinical pipeline; the
# subject_key replaces it where the subject must not be seen.
gates = Table(
    "gates",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("run_key", Text, ForeignKey("runs.run_key"), primary_key=True),
    Column("subject_key", Text, nullable=False),
    Column("gate", Text, nullable=False),
    Column("reason", Text),
    Column("decided_at", UtcDateTime, nullable=False),
    one_of("gate", Gate),
    Index(None, "run_key"),
)

overrides = Table(
    "overrides",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("datastore_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
    Column("held_reason", Text),  # reason of the hold that the person saw; a hold for another reason stays
    Column("overridden_by", Text, nullable=False),
    Column("override_reason", Text, nullable=False),
    Column("overridden_at", UtcDateTime, nullable=False),
    Column("reasons", Text),  # codes of the findings that the person saw, separated by commas
    Column("findings", Text),  # digest of these findings: the override counts for them only
    Index("ix_overrides_subject", "subject", "datastore_id"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False, index=True),
    Column("revision", BigInteger, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("payload_uri", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("leased_by", Text),
    Column("leased_until", UtcDateTime),
    Column("last_error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime, nullable=False),  # as created_at, or the time of the last requeue
    Column("sent_at", UtcDateTime),
    one_of("state", MessageState),
    UniqueConstraint("subject_key", "content_digest", "destination"),
    UniqueConstraint("subject_key", "revision", "pipeline", "destination"),
    Index("ix_outbox_pending", "pipeline", "destination", "state"),
    Index("ix_outbox_subject", "subject_key", "pipeline"),
)

# Released contracts that no route took: the latest of each subject, which holds all that was released before.
unrouted = Table(
    "unrouted",
    metadata,
    Column("subject_key", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("payload_uri", Text, nullable=False),
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
    Column("rules", Text, nullable=False),  # digest of the last rules that did not take it
    Column("released_at", UtcDateTime, nullable=False),
    Index("ix_unrouted_pipeline", "pipeline", "datastore_id"),
)

# The latest contract of each subject of which something was imported, released or not.
contracts = Table(
    "contracts",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("subject_key", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("contract", Text, nullable=False),  # JSON, of airlock.study/1 for a study
    Column("run_key", Text, ForeignKey("runs.run_key"), nullable=False),
    Column("patient", Text),  # Patient/<id>, of a study that is published as FHIR
    Index("ix_contracts_patient", "patient", "datastore_id"),
)

# Runs that process settled arrivals of other runs again: who asked for it, why, and the choice.
redrives = Table(
    "redrives",
    metadata,
    Column("run_key", Text, ForeignKey("runs.run_key"), primary_key=True),
    Column("asked_by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("choice", Text, nullable=False),  # JSON
    Column("counts", Text, nullable=False),  # JSON
    Column("asked_at", UtcDateTime, nullable=False),
)

# Promotions and deletions of non-primary image sets by redrives.
resolutions = Table(
    "resolutions",
    metadata,
    Column("image_set_id", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("run_key", Text, ForeignKey("redrives.run_key"), nullable=False, index=True),
    Column("resolution", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("promoted_id", Text),  # the primary image set that holds the instances now
    Column("promoted_version", BigInteger),
    Column("versions_before", Text),  # JSON: versions of the study's primary image sets before the copy was requested
    Column("begun_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    one_of("resolution", Resolution),
    one_of("state", ResolutionState),
)

# The last answer of a DICOMweb server about each instance that a route sent to it; stored instances are not sent again.
stow_instances = Table(
    "stow_instances",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True, key="SOPInstanceUID"),
    Column("destination", Text, primary_key=True),
    Column("etag", Text, nullable=False),  # of the object that was sent
    Column("state", Text, nullable=False),
    Column("code", Text),  # the server's warning or failure code, or why the object was not sent
    Column("decided_at", UtcDateTime, nullable=False),
    one_of("state", StowState),
)
