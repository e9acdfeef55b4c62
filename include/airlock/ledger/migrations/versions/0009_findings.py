"""The findings that a person saw when overriding a hold: the override counts only for them.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the findings; overrides from before it have none, and count by the reason of the hold as they did."""
    op.add_column("overrides", sa.Column("reasons", sa.Text()))
    op.add_column("overrides", sa.Column("findings", sa.Text()))
