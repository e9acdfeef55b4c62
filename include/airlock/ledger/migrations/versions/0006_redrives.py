"""Redrives: generations of arrivals, who asked for them, and the resolutions of non-primary image sets.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)
_LINKED = sa.text("superseded_by IS NOT NULL")


def upgrade() -> None:
    """Let an arrival be of a later generation than the first, and name the one in its place."""
    op.add_column("arrivals", sa.Column("generation", sa.Integer, nullable=False, server_default="1"))
    op.add_column("arrivals", sa.Column("superseded_by", sa.Text))
    op.add_column("arrivals", sa.Column("carries", sa.Text))
    op.create_index(
        "ix_arrivals_superseded_by", "arrivals", ["superseded_by"], postgresql_where=_LINKED, sqlite_where=_LINKED
    )
    op.create_table(
        "redrives",
        sa.Column("run_key", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("choice", sa.Text, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("asked_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("run_key", name="pk_redrives"),
        sa.ForeignKeyConstraint(["run_key"], ["runs.run_key"], name="fk_redrives_run_key"),
    )
    op.create_table(
        "resolutions",
        sa.Column("image_set_id", sa.Text, nullable=False),
        sa.Column("datastore_id", sa.Text, nullable=False),
        sa.Column("run_key", sa.Text, nullable=False),
        sa.Column("resolution", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("promoted_id", sa.Text),
        sa.Column("promoted_version", sa.BigInteger),
        sa.Column("begun_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.PrimaryKeyConstraint("image_set_id", "datastore_id", name="pk_resolutions"),
        sa.ForeignKeyConstraint(["run_key"], ["redrives.run_key"], name="fk_resolutions_run_key"),
        sa.CheckConstraint("resolution IN ('promote', 'delete')", name="ck_resolutions_resolution_known"),
        sa.CheckConstraint("state IN ('begun', 'copying', 'deleting', 'done')", name="ck_resolutions_state_known"),
    )
    op.create_index("ix_resolutions_run_key", "resolutions", ["run_key"])
