from __future__ import annotations

from airlock.stages.pages.progress import count_tasks


def test_tasks_come_in_the_order_of_a_run_with_what_has_ended() -> None:
    rows = [("route", None, 1), ("import", "deferred", 2), ("import", "success", 3), ("import", "failed", 1)]
    found = count_tasks([*rows, ("announce", "success", 1), ("receive", "skipped", 1)])
    assert [(one.task, one.ended, one.running, one.failed, one.waiting) for one in found] == [
        ("receive", 1, 0, 0, 0),
        ("import", 3, 2, 1, 0),
        ("route", 0, 0, 0, 1),
        ("announce", 1, 0, 0, 0),
    ]
    assert [one.total for one in found] == [1, 6, 1, 1]
