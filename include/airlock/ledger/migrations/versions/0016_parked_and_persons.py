"""Parked resources: clocks, which are due and taken in, lookups by resource. People's decisions on identities. Groups.

No earlier version parks, or decides on identities. `large_indexes` builds the index of groups of a ledger with words.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
_BY_A_PERSON = "kind = 'identity' AND decided_by <> 'airlock/rules'"


def upgrade() -> None:
    """Add the columns and the indexes to the tables: one is empty, the other has no row of the index."""
    op.add_column("parked", sa.Column("clock", sa.Text))
    op.add_column("parked", sa.Column("due", sa.Integer))
    op.add_column("parked", sa.Column("taken_as", sa.Text))
    op.create_index("ix_parked_resource", "parked", ["resource_id", "resource_type", "datastore_id"])
    op.create_index("ix_parked_body", "parked", ["body_uri"], postgresql_using="hash")
    for name, table, columns, condition in (
        ("ix_parked_due", "parked", ["pipeline", "parked_until"], "due = 1"),
        ("ix_parked_taken", "parked", ["taken_as"], "taken_as IS NOT NULL"),
        ("ix_decisions_persons", "decisions", ["datastore_id", "decided_at"], _BY_A_PERSON),
    ):
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
    if op.get_bind().scalar(sa.text("SELECT 1 FROM words LIMIT 1")) is None:
        where = sa.text("disposition <> 'released'")
        columns = ["reason", "pipeline", "study_key"]
        op.create_index("ix_words_group", "words", columns, sqlite_where=where, postgresql_where=where)
