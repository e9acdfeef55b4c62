"""The tables that step 0012 creates, as they were then; `tables` may have more columns by now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, text

from airlock.ledger.columns import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Sequence

metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"})


def _number() -> Column[int]:
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _partial_index(name: str, columns: Sequence[str], condition: str, **options: Any) -> Index:
    return Index(name, *columns, postgresql_where=text(condition), sqlite_where=text(condition), **options)


arrivals = Table(
    "arrivals",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("run_key", Text, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version_id", Text),
    Column("etag", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("last_modified", UtcDateTime, nullable=False),
    Column("site", Text, nullable=False),  # "" where the key has none, and for arrivals claimed before schema 0012
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("carries", Text),
    Column("claimed_at", UtcDateTime, nullable=False),
    Index(None, "run_key"),
    Index("ix_arrivals_key", "key", postgresql_using="hash"),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("verdict", Text),
    Column("datastore_id", Text),
    Column("study_key", Text),
    Column("sop_instance_uid", Text),
    Column("series_instance_uid", Text),
    Column("study_instance_uid", Text),
    Index(None, "study_key"),
)

words = Table(
    "words",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("said_by", Text, nullable=False),
    Column("disposition", Text, nullable=False),
    Column("stage", Text),
    Column("reason", Text),
    Column("detail", Text),
    Column("study_key", Text),
    Column("unreleased_instance_uid", Text),
    Column("batch_id", Text),
    Column("job_id", Text),
    Column("image_set_id", Text),
    Column("settled_at", UtcDateTime, nullable=False),
    _partial_index("ix_words_unreleased", ["study_key"], "disposition <> 'released'"),
    _partial_index(
        "ix_words_instance", ["unreleased_instance_uid"], "disposition <> 'released'", postgresql_using="hash"
    ),
    _partial_index("ix_words_reason", ["reason", "pipeline"], "disposition <> 'released'"),
    _partial_index("ix_words_again", ["arrival_id", "pipeline", "number"], "number > 1"),
)

successors = Table(
    "successors",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("superseded_by", Text),
    Column("superseded_before", Text),
    Index("ix_successors_superseded_by", "superseded_by"),
)

in_flight = Table(
    "in_flight",
    metadata,
    Column("study_key", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("run_key", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Index(None, "run_key"),
)

owed = Table(
    "owed",
    metadata,
    Column("key", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("arrival_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("run_key", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("asked_at", UtcDateTime),
    Column("taken_by", Text),
    Index("ix_owed_next", "pipeline", "next_attempt_at"),
)

newest_contents = Table(
    "newest_contents",
    metadata,
    Column("key", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("arrival_id", Text, nullable=False),
    Column("last_modified", UtcDateTime, nullable=False),
)

folders = Table(
    "folders",
    metadata,
    Column("folder", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("study_key", Text, primary_key=True),
    Column("study_instance_uid", Text, nullable=False),
    Column("pattern", Text, nullable=False),
)

parked = Table(
    "parked",
    metadata,
    Column("arrival_id", Text, primary_key=True),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("waits_for_type", Text, primary_key=True),
    Column("waits_for_id", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("datastore_id", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("patient", Text),
    Column("site", Text, nullable=False),
    Column("run_key", Text, nullable=False),
    Column("body_uri", Text, nullable=False),
    Column("parked_at", UtcDateTime, nullable=False),
    Column("parked_until", UtcDateTime, nullable=False),
    Index("ix_parked_target", "waits_for_id", "waits_for_type", "datastore_id"),
    Index("ix_parked_until", "pipeline", "parked_until"),
)

open_resources = Table(
    "open_resources",
    metadata,
    Column("resource_id", Text, primary_key=True),
    Column("resource_type", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("patient", Text),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("content_digest", Text),
    Column("clock", Text),
    Column("run_key", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("arrival_id", Text),
    Index(None, "run_key"),
    Index("ix_open_resources_patient", "patient", "datastore_id"),
)

run_totals = Table(
    "run_totals",
    metadata,
    _number(),
    Column("run_key", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("disposition", Text, nullable=False),
    Column("reason", Text),
    Column("arrivals", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("said_by", Text, nullable=False),
    Column("said_at", UtcDateTime, nullable=False),
    Index(None, "run_key"),
    Index("ix_run_totals_pipeline", "pipeline", "said_at"),
)

census = Table(
    "census",
    metadata,
    _number(),
    Column("pipeline", Text, nullable=False),
    Column("source_uri", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("month", Text, nullable=False),
    Column("objects", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("studies", BigInteger),
    Column("method", Text, nullable=False),
    Column("counted_at", UtcDateTime, nullable=False),
    Index("ix_census_pipeline", "pipeline", "counted_at"),
)

decisions = Table(
    "decisions",
    metadata,
    _number(),
    Column("kind", Text, nullable=False),
    Column("pipeline", Text),
    Column("datastore_id", Text),
    Column("subject", Text),
    Column("subject_key", Text),
    Column("run_key", Text),
    Column("reason", Text),
    Column("reasons", Text),
    Column("seen", Text),
    Column("answer", Text),
    Column("decided_by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("details", Text),
    Index("ix_decisions_subject", "subject", "datastore_id"),
    Index("ix_decisions_run", "run_key", "kind"),
)

reviews = Table(
    "reviews",
    metadata,
    _number(),
    Column("pipeline", Text, nullable=False),
    Column("datastore_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("run_key", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("reasons", Text),
    Column("seen", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("assignee", Text),
    Column("deputy", Text),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime),
    Column("reminded_at", UtcDateTime),
    Column("escalated_at", UtcDateTime),
    Column("answered_at", UtcDateTime),
    Column("decision_id", BigInteger),
    Index("ix_reviews_subject", "subject", "datastore_id"),
    _partial_index("ix_reviews_open", ["pipeline", "asked_at"], "answered_at IS NULL"),
)

notes = Table(
    "notes",
    metadata,
    _number(),
    Column("pipeline", Text),
    Column("datastore_id", Text),
    Column("subject", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("written_by", Text, nullable=False),
    Column("written_at", UtcDateTime, nullable=False),
    Index("ix_notes_subject", "subject", "datastore_id"),
)

identities = Table(
    "identities",
    metadata,
    Column("identity", Text, primary_key=True),
    Column("datastore_id", Text, primary_key=True),
    Column("patient", Text, nullable=False),
    Column("seen", Text, nullable=False),
    Column("decision_id", BigInteger, nullable=False),
    Column("revoked_by", BigInteger),
    Index("ix_identities_patient", "patient", "datastore_id"),
)

COPIED = (arrivals, verdicts, words, successors)
NEW = (
    in_flight,
    owed,
    newest_contents,
    folders,
    parked,
    open_resources,
    run_totals,
    census,
    decisions,
    reviews,
    notes,
    identities,
)
