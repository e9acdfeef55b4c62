"""Sweeps, reconciliations and their findings; the data stores that a ledger knows.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from airlock.ledger.columns import UtcDateTime

revision = "0013"
down_revision = "0012"

# Tables with a row per arrival, instance, resource, subject or message.
_LARGE = (
    *("arrivals", "verdicts", "words", "instances", "resources", "contracts", "releases", "gates", "outbox"),
    *("foreign_sets", "findings"),
)
_AUTOVACUUM = {
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_vacuum_insert_scale_factor": 0.02,  # index-only scans of arrivals need the visibility map
    "autovacuum_analyze_scale_factor": 0.01,
}
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables; every data store with instances or resources of an import is one that Airlock began."""
    _create_comparisons()
    _create_findings()
    _create_stores()
    if op.get_context().dialect.name == "postgresql":
        _vacuum_often()
    op.execute(
        "INSERT INTO data_stores (datastore_id, origin, known_at) "
        "SELECT datastore_id, 'imported', CURRENT_TIMESTAMP FROM ("
        "SELECT datastore_id FROM instances UNION SELECT datastore_id FROM resources "
        "UNION SELECT datastore_id FROM gates) known"
    )


def _vacuum_often() -> None:
    """Have PostgreSQL vacuum and analyze large tables after 1 or 2 % of changes; its default of 20 % may be 20 million.

    The lock that this takes stops neither readers nor writers.
    """
    for table in _LARGE:
        options = ", ".join(f"{name} = {value}" for name, value in _AUTOVACUUM.items())
        op.execute(f"ALTER TABLE {table} SET ({options})")


def _create_comparisons() -> None:
    op.create_table(
        "comparisons",
        sa.Column("id", _NUMBER, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text()),
        sa.Column("datastore_id", sa.Text()),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("is_dry", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("began_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("position", sa.Text()),
        sa.Column("counts", sa.Text()),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_comparisons"),
    )
    op.create_index("ix_comparisons_pipeline", "comparisons", ["pipeline", "kind", "began_at"])
    op.create_index("ix_comparisons_store", "comparisons", ["datastore_id", "kind", "began_at"])


def _create_findings() -> None:
    op.create_table(
        "findings",
        sa.Column("id", _NUMBER, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("comparison_id", sa.BigInteger(), nullable=False),
        sa.Column("pipeline", sa.Text()),
        sa.Column("datastore_id", sa.Text()),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_key", sa.Text(), nullable=False),
        sa.Column("study_key", sa.Text()),
        sa.Column("arrival_id", sa.Text()),
        sa.Column("image_set_id", sa.Text()),
        sa.Column("expected", sa.Text()),
        sa.Column("found", sa.Text()),
        sa.Column("found_at", UtcDateTime, nullable=False),
        sa.Column("closed_at", UtcDateTime),
        sa.Column("closed_by", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_findings"),
    )
    op.create_index("ix_findings_arrival", "findings", ["arrival_id", "pipeline"])
    op.create_index("ix_findings_comparison", "findings", ["comparison_id"])
    is_open = sa.text("closed_at IS NULL")
    op.create_index(
        "ix_findings_open",
        "findings",
        ["subject_key", "kind", "datastore_id", "pipeline"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def _create_stores() -> None:
    op.create_table(
        "data_stores",
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("decision_id", sa.BigInteger()),
        sa.Column("known_at", UtcDateTime, nullable=False),
        sa.Column("counts", sa.Text()),
        sa.PrimaryKeyConstraint("datastore_id", name="pk_data_stores"),
    )
    op.create_table(
        "foreign_sets",
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("study_key", sa.Text()),
        sa.Column("version", sa.BigInteger()),
        sa.Column("instances", sa.Integer()),
        sa.Column("recorded_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("object_id", "datastore_id", name="pk_foreign_sets"),
    )
    op.create_index("ix_foreign_sets_study", "foreign_sets", ["study_key"])
