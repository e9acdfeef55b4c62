"""The tables of what people are asked, decide and note."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text

from airlock.ledger.columns import UtcDateTime, metadata
from airlock.ledger.tables import number_column, partial_index

AIRLOCK = "airlock/rules"  # who has decided, where no person has; no user has such a name
# The condition of an index; queries repeat it literally.
BY_A_PERSON = f"kind = 'identity' AND decided_by <> '{AIRLOCK}'"

# What people decided and saw; no row is ever changed or deleted.
decisions = Table(
    "decisions",
    metadata,
    number_column(),
    Column("kind", Text, nullable=False),  # a DecisionKind
    Column("pipeline", Text),
    Column("datastore_id", Text),
    Column("subject", Text),
    Column("subject_key", Text),
    Column("run_key", Text),
    Column("reason", Text),  # of the hold that the person saw; a hold for another reason stays
    Column("reasons", Text),  # codes of the findings that the person saw, separated by commas
    Column("seen", Text),  # digest of what the person saw: the decision counts for that only
    Column("answer", Text),
    Column("decided_by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("details", Text),  # JSON
    Index("ix_decisions_subject", "subject", "datastore_id"),
    Index("ix_decisions_run", "run_key", "kind"),
    partial_index("ix_decisions_persons", ["datastore_id", "decided_at"], BY_A_PERSON),
)

# Questions to people: one row per subject, or per group of findings of one reason and site.
reviews = Table(
    "reviews",
    metadata,
    number_column(),
    Column("pipeline", Text, nullable=False),
    Column("datastore_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("run_key", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("reasons", Text),
    Column("seen", Text, nullable=False),  # digest of what the question shows: another finding asks again
    Column("question", Text, nullable=False),  # JSON
    Column("assignee", Text),
    Column("deputy", Text),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime),
    Column("reminded_at", UtcDateTime),
    Column("escalated_at", UtcDateTime),
    Column("answered_at", UtcDateTime),  # when it was closed: kept held, applied by an audit, or asked no longer
    Column("decision_id", BigInteger),  # the answer; an approval is open until an audit has applied it
    Index("ix_reviews_subject", "subject", "datastore_id"),
    partial_index("ix_reviews_open", ["pipeline", "asked_at"], "answered_at IS NULL"),
)

notes = Table(
    "notes",
    metadata,
    number_column(),
    Column("pipeline", Text),
    Column("datastore_id", Text),
    Column("subject", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("written_by", Text, nullable=False),
    Column("written_at", UtcDateTime, nullable=False),
    Index("ix_notes_subject", "subject", "datastore_id"),
)

# The person of each identity in a data store that somebody decided on; the decisions behind it are in decisions.
identities = Table(
    "identities",
    metadata,
    Column("identity", Text, primary_key=True),  # digest of issuer and PatientID
    Column("datastore_id", Text, primary_key=True),
    Column("patient", Text, nullable=False),  # Patient/<id>
    Column("seen", Text, nullable=False),  # digest of identifiers, birth date and sex
    Column("decision_id", BigInteger, nullable=False),
    Column("revoked_by", BigInteger),  # the decision that revoked it
    Index("ix_identities_patient", "patient", "datastore_id"),
)
