"""What a plan has read is counted by table, and what it has read as a whole is told apart."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.plans import Plan, _count_rows, _list_nodes


def count(*nodes: dict[str, Any]) -> Plan:
    tree = {"Node Type": "Nested Loop", "Actual Loops": 1, "Actual Rows": 1, "Plans": list(nodes)}
    plan = Plan("SELECT", 0.1, {}, tree)
    for node in _list_nodes(tree):
        _count_rows(plan, node)
    return plan


def scan(kind: str, table: str, rows: float, loops: int = 1, **more: Any) -> dict[str, Any]:
    return {"Node Type": kind, "Relation Name": table, "Actual Rows": rows, "Actual Loops": loops, **more}


def test_rejected_rows_and_every_loop_count() -> None:
    plan = count(scan("Index Scan", "words", 2, loops=3, **{"Rows Removed by Filter": 4, "Index Cond": "(a = b)"}))
    assert plan.rows_read == {"words": 18}
    assert not plan.sequential
    assert not plan.whole_indexes


def test_a_sequential_scan_is_told_apart() -> None:
    plan = count(scan("Seq Scan", "arrivals", 10), scan("Seq Scan", "staged_1", 2))
    assert plan.sequential == {"arrivals": 10, "staged_1": 2}


@pytest.mark.parametrize(
    ("condition", "whole"),
    [({}, 7), ({"Index Cond": "(pipeline = 'bench'::text)"}, 7), ({"Index Cond": "((a = b) AND (pipeline = 'x'))"}, 0)],
)
def test_an_index_that_is_read_without_a_condition_is_read_as_a_whole(condition: dict[str, Any], whole: int) -> None:
    plan = count(scan("Index Only Scan", "arrivals", 7, **condition))
    assert plan.whole_indexes["arrivals"] == whole


def test_what_was_never_executed_or_written_is_not_read() -> None:
    plan = count(scan("Seq Scan", "arrivals", 0, loops=0), scan("ModifyTable", "words", 5))
    assert not plan.rows_read
