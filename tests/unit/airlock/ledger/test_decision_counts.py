"""The overrides and write-offs of a pipeline, by person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from airlock.ledger.columns import DecisionKind
from airlock.ledger.console import Console
from airlock.ledger.database import writing
from airlock.ledger.decision_counts import DecisionCount
from airlock.ledger.decision_tables import decisions
from tests.unit.airlock.ledger.samples import NIGHTLY, begin
from tests.unit.airlock.ledger.test_plans import analyze, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

MONTH = datetime(2026, 11, 1, tzinfo=UTC)
DECIDED = {
    "kind": "override",
    "run_key": "a",
    "pipeline": None,
    "decided_by": "ada",
    "why": "seen",
    "decided_at": MONTH,
}
FORGOTTEN = DECIDED | {"kind": "forget", "run_key": None, "pipeline": NIGHTLY, "subject_key": "58d41ecb4acff67e"}


@pytest.fixture
def console(ledger: Ledger, url: str) -> Iterator[Console]:
    begin(ledger, "a", "b")
    begin(ledger, "c", pipeline="other")
    opened = Console.connect(url)
    yield opened
    opened.dispose()


def log(console: Console, *rows: dict[str, Any]) -> None:
    with writing(console._engine, "decisions") as connection:
        connection.execute(insert(decisions), [{"subject_key": None} | row for row in rows])


def test_overrides_and_write_offs_are_counted_by_person_who_did_most_first(console: Console) -> None:
    log(console, DECIDED, DECIDED | {"run_key": "b"}, FORGOTTEN, FORGOTTEN | {"decided_by": "grace"})
    with console.page() as page:
        assert page.count_decisions(NIGHTLY, MONTH) == [DecisionCount("ada", 2, 1), DecisionCount("grace", 0, 1)]


def test_what_is_older_of_another_pipeline_or_of_another_kind_does_not_count(console: Console) -> None:
    before = {"decided_at": MONTH - timedelta(seconds=1)}
    others = [kind.value for kind in DecisionKind if kind not in {DecisionKind.OVERRIDE, DecisionKind.FORGET}]
    log(console, DECIDED | before, FORGOTTEN | before, DECIDED | {"run_key": "c"}, FORGOTTEN | {"pipeline": "other"})
    log(console, *({**DECIDED, "kind": kind} for kind in others), *({**FORGOTTEN, "kind": kind} for kind in others))
    with console.page() as page:
        assert page.count_decisions(NIGHTLY, MONTH) == []
        assert page.count_decisions("other", MONTH) == [DecisionCount("ada", 1, 1)]


def test_they_are_found_by_an_index_however_many_other_decisions_there_are(console: Console, url: str) -> None:
    log(console, *(FORGOTTEN | {"run_key": f"run {n}", "kind": "identity"} for n in range(5_000)), DECIDED, FORGOTTEN)
    if url.startswith("postgresql"):
        analyze(url)
    with explained() as plans, console.page() as page:
        assert page.count_decisions(NIGHTLY, MONTH) == [DecisionCount("ada", 1, 1)]
    (plan,) = [plan for plan in plans if "decisions" in plan]
    assert plan.count("ix_decisions_run") == 2
    assert "Seq Scan on decisions" not in plan
    assert "SCAN decisions" not in plan
