"""Compare a rebuilt ledger with the one that was lost, table by table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, select

from airlock.ledger import Ledger, upgrade
from airlock.ledger.columns import FindingKind, metadata
from airlock.ledger.comparison_tables import findings
from airlock.stages.rebuild import Rebuilt, rebuild

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sqlalchemy import Connection

    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3

# What nobody can know after the ledger was lost, by table.
UNKNOWN: dict[str, set[str]] = {
    "outbox": {"id", "attempts", "next_attempt_at", "leased_by", "leased_until", "last_error", "sent_at"},
    "decisions": {"id"},
    "run_totals": {"id"},
    "findings": {"id", "comparison_id", "expected", "found"},
    "reviews": {"id", "reminded_at", "escalated_at"},
}
# A sweep, a comparison or an adoption writes them anew, and the rebuild notes the entries that it repeats. The edge is
# told everything again.
NOT_COMPARED = {"census", "comparisons", "data_stores", "foreign_sets", "journal_entries", "untold"}
# Of the findings the losses are kept, once they no longer count as stored; a comparison finds the others again.
_LOSSES = findings.c.kind == FindingKind.MISSING_IN_STORE.value


def read_tables(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables, without what cannot be known, in an order of their own."""
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = read_rows(connection)
    engine.dispose()
    return tables


def read_rows(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables as `read_tables`."""
    tables: dict[str, list[tuple[Any, ...]]] = {}
    for name, table in metadata.tables.items():
        if name not in NOT_COMPARED:
            columns = [column for column in table.columns if column.name not in UNKNOWN.get(name, ())]
            rows = select(*columns).where(_LOSSES) if table is findings else select(*columns)
            tables[name] = sorted((tuple(row) for row in connection.execute(rows)), key=repr)
    return tables


def lose_and_rebuild(url: str, file: Path, s3: S3, pipelines: Iterable[Pipeline]) -> Rebuilt:
    """Put an empty ledger in the place of a SQLite ledger, and rebuild it."""
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()
    return rebuild_into(url, s3, pipelines)


def rebuild_into(url: str, s3: S3, pipelines: Iterable[Pipeline]) -> Rebuilt:
    """Create a ledger and fill it from the workspaces of these pipelines."""
    upgrade(url)
    with Ledger.open(url, rebuilding=True) as ledger:
        return rebuild(ledger, s3, pipelines, "an operator", lambda _: None)


def differences(before: dict[str, list[tuple[Any, ...]]], after: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """Return the rows that only one of two ledgers has, by table."""
    return {
        name: {
            "lost": [row for row in rows if row not in after[name]],
            "new": [row for row in after[name] if row not in rows],
        }
        for name, rows in before.items()
        if rows != after[name]
    }
