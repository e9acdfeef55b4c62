"""The tables about edges: processes near a hospital's systems that put what these send on S3 (airlock_edge)."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table, Text

from airlock.ledger.columns import UtcDateTime, metadata
from airlock.ledger.tables import number_column

# The pipelines whose source an edge fills: the edge is told about each word on their arrivals.
edges = Table(
    "edges",
    metadata,
    Column("pipeline", Text, primary_key=True),
    Column("queue_url", Text, nullable=False),
)

# Arrivals about which the edge must be told; several rows may name one arrival. A row is deleted by its id after the
# message was sent, so an id must never come again, as it could on SQLite.
untold = Table(
    "untold",
    metadata,
    number_column(),
    Column("pipeline", Text, nullable=False),
    Column("arrival_id", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Index("ix_untold_pipeline", "pipeline", "id"),
    sqlite_autoincrement=True,
)
