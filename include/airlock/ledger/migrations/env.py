"""Alembic's entry point: run the steps on the connection of ``schema.upgrade``, within its transaction and lock."""

from __future__ import annotations

from alembic import context

from airlock.ledger import comparison_tables, decision_tables, edge_tables, tables  # noqa: F401  # all fill the metadata
from airlock.ledger.columns import metadata
from airlock.ledger.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # true of SQLite as well, since the driver does not begin transactions by itself
)
with context.begin_transaction():
    context.run_migrations()
