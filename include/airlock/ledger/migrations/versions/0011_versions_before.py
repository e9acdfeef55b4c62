"""The versions of primary image sets before a copy was requested: only a later version can be that of the copy.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column; of a copy that was begun before nothing is known, and any version can be its own."""
    op.add_column("resolutions", sa.Column("versions_before", sa.Text()))
