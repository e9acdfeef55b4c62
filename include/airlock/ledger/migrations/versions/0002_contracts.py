"""Study contracts: the latest contract of each study with instances in a data store.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "contracts",
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("study_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "datastore_id", name="pk_contracts"),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_contracts_run_key"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("contracts")
