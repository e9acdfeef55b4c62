"""The plans of the statements that the ledger itself sends to PostgreSQL, executed: time, rows read, tables read whole.

Each statement is explained where the ledger executes it, in its transaction: with its temporary tables, settings and
parameters. ``EXPLAIN (ANALYZE)`` executes it; a savepoint takes back what it wrote, and then it is executed.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

from airlock.ledger import frames
from benchmarks.large_ledger import LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "


@dataclass
class Plan:
    """A statement as PostgreSQL executed it."""

    statement: str
    seconds: float
    blocks: dict[str, int]  # of 8 KiB: found in shared buffers (hit), read from the system (read)
    tree: dict[str, Any]
    rows_read: Counter[str] = field(default_factory=Counter)  # by table
    sequential: Counter[str] = field(default_factory=Counter)  # those of them that sequential scans read
    whole_indexes: Counter[str] = field(default_factory=Counter)  # those that scans of a large table's whole index read

    def as_json(self) -> dict[str, Any]:
        """Return the figures and the plan."""
        return vars(self)


@contextmanager
def explained() -> Iterator[list[Plan]]:
    """Collect the plans of all statements of ledgers within the block, but those that read no table."""
    plans: list[Plan] = []

    def explain(_: Connection, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        is_of_many_rows = more[-1]
        if statement.startswith(_EXPLAINED) and not is_of_many_rows:
            plan = _execute(cursor.connection, statement, parameters)
            plans.extend([plan] if plan.rows_read else [])

    copy_out = frames._copy_out  # noqa: SLF001  # SQLAlchemy has no event for the COPY itself

    def copied(connection: Connection, statement: Any) -> Any:
        connection.execute(statement).close()
        return copy_out(connection, statement)

    event.listen(Engine, "before_cursor_execute", explain)
    frames._copy_out = copied  # noqa: SLF001
    try:
        yield plans
    finally:
        frames._copy_out = copy_out  # noqa: SLF001
        event.remove(Engine, "before_cursor_execute", explain)


def _execute(connection: Any, statement: str, parameters: Any) -> Plan:
    with closing(connection.cursor()) as cursor:
        cursor.execute("SAVEPOINT explained")
        cursor.execute(_EXPLAIN + statement, parameters)
        [[[found]]] = cursor.fetchall()
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
        cursor.execute("RELEASE SAVEPOINT explained")
    tree = found["Plan"]
    blocks = {name: tree[f"Shared {name.capitalize()} Blocks"] for name in ("hit", "read")}
    plan = Plan(statement, found["Execution Time"] / 1_000, blocks, tree)
    for node in _list_nodes(tree):
        _count_rows(plan, node)
    return plan


def _list_nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _list_nodes(below)


def _count_rows(plan: Plan, node: dict[str, Any]) -> None:
    """Count the rows that a node of a plan has read, the rejected ones included."""
    table = node.get("Relation Name")
    if table is None or "Scan" not in node["Node Type"] or not node["Actual Loops"]:
        return
    rejected = sum(node.get(f"Rows Removed by {name}", 0) for name in ("Filter", "Index Recheck"))
    rows = round((node["Actual Rows"] + rejected) * node["Actual Loops"])
    plan.rows_read[table] += rows
    if node["Node Type"] == "Seq Scan":
        plan.sequential[table] += rows
    elif table in LARGE and "Index" in node["Node Type"] and not _selects_rows(node.get("Index Cond", "")):
        plan.whole_indexes[table] += rows


def _selects_rows(condition: str) -> bool:
    """Return whether a condition on an index is about more than the pipeline, which all arrivals may share."""
    return "=" in re.sub(r"\w*\.?pipeline = [^)]+", "", condition)
