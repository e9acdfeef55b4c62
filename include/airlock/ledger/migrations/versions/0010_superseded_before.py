"""The successor of an arrival before its last redrive: it is restored when that redrive is released.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; what was linked before it is current again after a redrive that is given back, as it was."""
    op.add_column("arrivals", sa.Column("superseded_before", sa.Text()))
