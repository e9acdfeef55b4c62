"""An index of the gates that hold.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Create the index if no run has decided yet; else `large_indexes` builds it after the steps, while runs go on."""
    if op.get_bind().scalar(sa.text("SELECT 1 FROM gates LIMIT 1")) is None:
        holds = sa.text("gate = 'hold'")
        op.create_index("ix_gates_held", "gates", ["run_key"], sqlite_where=holds, postgresql_where=holds)
