"""Invariant 15: a ledger that is lost is rebuilt from the workspaces, and everything goes on as before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete

from airlock.ledger.columns import metadata
from airlock.stages.rebuild import rebuild
from airlock.storage.s3 import S3
from tests.explore.facts import Violation
from tests.rebuilt_ledger import differences, read_rows

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.pipelines import Pipeline
    from tests.explore.stages import Outside


def rebuild_ledger(outside: Outside, pipelines: Collection[Pipeline], *, exact: bool) -> list[Violation]:
    """Empty the ledger and rebuild it; return violations if it cannot be rebuilt, or is another one."""
    ledger: Any = outside.ledger
    with ledger.engine.begin() as connection:
        before = read_rows(connection)
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
    s3 = S3(None, outside.s3)  # type: ignore[arg-type]  # no session: nothing opens another client
    report = rebuild(ledger, s3, pipelines, "an operator", lambda _: None)
    found = [Violation(15, f"an entry cannot be repeated: {why}") for why in report.refused]
    with ledger.engine.begin() as connection:
        lacking = differences(before, read_rows(connection))
    if exact and lacking:
        found.append(Violation(15, f"the rebuilt ledger has other rows in {', '.join(lacking)}: {lacking}"))
    return found
