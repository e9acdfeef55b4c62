"""Messages that were given up, and released contracts that no route took.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Let a message fail, remember since when it is tried, and create the table of what is unrouted."""
    op.add_column("outbox", sa.Column("queued_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE outbox SET queued_at = created_at")
    with op.batch_alter_table("outbox") as outbox:
        outbox.alter_column("queued_at", existing_type=sa.DateTime(timezone=True), nullable=False)
        outbox.drop_constraint("ck_outbox_state_known", type_="check")
        outbox.create_check_constraint("ck_outbox_state_known", "state IN ('pending', 'sent', 'failed')")
    op.create_table(
        "unrouted",
        sa.Column("subject_key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("datastore_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("payload_uri", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_unrouted_run_key"),
        sa.PrimaryKeyConstraint("subject_key", "pipeline", "datastore_id", name="pk_unrouted"),
    )
    op.create_index("ix_unrouted_pipeline", "unrouted", ["pipeline", "datastore_id"])
