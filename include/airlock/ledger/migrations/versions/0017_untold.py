"""The pipelines whose arrivals an edge has received, and the arrivals about which the edge must be told.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from airlock.ledger.columns import UtcDateTime

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Create the tables; no pipeline has an edge yet."""
    op.create_table(
        "edges",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("queue_url", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", name="pk_edges"),
    )
    op.create_table(
        "untold",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("arrival_id", sa.Text(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_untold"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_untold_pipeline", "untold", ["pipeline", "id"])
