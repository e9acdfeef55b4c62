"""The tables of what sweeps, reconciliations and rebuilds compare and find, and of the data stores that are known."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Table, Text

from airlock.ledger.columns import UtcDateTime, metadata
from airlock.ledger.tables import number_column, partial_index

# Sweeps and reconciliations; one that was interrupted goes on at its position.
comparisons = Table(
    "comparisons",
    metadata,
    number_column(),
    Column("kind", Text, nullable=False),  # a ComparisonKind
    Column("pipeline", Text),
    Column("datastore_id", Text),
    Column("scope", Text, nullable=False),  # JSON: the source's URI, or what is compared
    Column("is_dry", Boolean(create_constraint=False), nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("position", Text),  # JSON: what was compared; null at the beginning
    Column("counts", Text),  # JSON
    Column("asked_by", Text, nullable=False),
    Index("ix_comparisons_pipeline", "pipeline", "kind", "began_at"),
    Index("ix_comparisons_store", "datastore_id", "kind", "began_at"),
)

# Differences between ledger, S3 and a data store; one that is found again is the same row.
findings = Table(
    "findings",
    metadata,
    number_column(),
    Column("kind", Text, nullable=False),  # a FindingKind
    Column("comparison_id", BigInteger, nullable=False),  # the last that found it
    Column("pipeline", Text),
    Column("datastore_id", Text),
    Column("subject", Text, nullable=False),  # the SOPInstanceUID, Type/id, arrival_id or image set that differs
    Column("subject_key", Text, nullable=False),  # digest of the subject
    Column("study_key", Text),
    Column("arrival_id", Text),
    Column("image_set_id", Text),
    Column("expected", Text),
    Column("found", Text),
    Column("found_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("closed_by", Text),  # the run or the person
    Index("ix_findings_arrival", "arrival_id", "pipeline"),
    Index("ix_findings_comparison", "comparison_id"),
    partial_index("ix_findings_open", ["subject_key", "kind", "datastore_id", "pipeline"], "closed_at IS NULL"),
)

# The data stores into which runs may import: a run began them, or a person adopted or rebuilt them. One whose adoption
# has not ended is closed to runs.
data_stores = Table(
    "data_stores",
    metadata,
    Column("datastore_id", Text, primary_key=True),
    Column("origin", Text, nullable=False),  # a StoreOrigin
    Column("decision_id", BigInteger),  # of the person who adopted it
    Column("known_at", UtcDateTime, nullable=False),
    Column("counts", Text),  # JSON: what was found in it when it was adopted, and the position of the adoption
)

# The entries of journals whose changes this ledger has; each is added by the transaction that makes the change.
journal_entries = Table(
    "journal_entries",
    metadata,
    Column("name", Text, primary_key=True),  # begins with the transaction's time, by the database's clock
)

# What others had stored in a data store when it was adopted: image sets, or FHIR resources as Type/id.
foreign_sets = Table(
    "foreign_sets",
    metadata,
    Column("object_id", Text, primary_key=True),  # the image set, or Type/id
    Column("datastore_id", Text, primary_key=True),
    Column("study_key", Text),
    Column("version", BigInteger),
    Column("instances", Integer),
    Column("recorded_at", UtcDateTime, nullable=False),
    Index("ix_foreign_sets_study", "study_key"),
)
