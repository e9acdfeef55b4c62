"""Parked resources: their clocks, which are due and taken in, and lookups by resource. No earlier version parks.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the columns and the indexes to the table, which is empty."""
    op.add_column("parked", sa.Column("clock", sa.Text))
    op.add_column("parked", sa.Column("due", sa.Integer))
    op.add_column("parked", sa.Column("taken_as", sa.Text))
    op.create_index("ix_parked_resource", "parked", ["resource_id", "resource_type", "datastore_id"])
    for name, column, condition in (
        ("ix_parked_due", "pipeline", "due = 1"),
        ("ix_parked_taken", "taken_as", "taken_as IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "parked", [column], sqlite_where=where, postgresql_where=where)
