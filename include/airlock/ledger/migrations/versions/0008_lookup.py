"""Two indexes of arrivals for people's questions: by the object's key, and by the instance of unreleased arrivals.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the indexes; on PostgreSQL as hashes, which take a UID of any length and cost the least to keep.

    What is released is found by its instance, so that the second index stays small.
    """
    op.create_index("ix_arrivals_key", "arrivals", ["key"], postgresql_using="hash")
    unreleased = text("disposition <> 'released'")
    op.create_index(
        "ix_arrivals_unreleased",
        "arrivals",
        ["sop_instance_uid"],
        postgresql_using="hash",
        postgresql_where=unreleased,
        sqlite_where=unreleased,
    )
