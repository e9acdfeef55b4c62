"""What stood in an arrival's place before the redrive that does now: a redrive that is given back restores it.

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
