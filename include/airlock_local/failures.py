"""The causes of failed tasks of a local run, from the logs on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock_cli.watch import last_error, task_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def describe_failures(tasks: Iterable[dict[str, Any]], logs: Path) -> list[str]:
    """Return a sentence for each failed task: its name, the cause, and its log."""
    failed = [task for task in tasks if task["state"] == "failed"]
    return [_describe_failure(task, logs) for task in sorted(failed, key=lambda task: task["end_date"] or "")]


def _describe_failure(task: dict[str, Any], logs: Path) -> str:
    folder = logs / f"dag_id={task['dag_id']}" / f"run_id={task['dag_run_id']}" / f"task_id={task['task_id']}"
    if task["map_index"] >= 0:
        folder /= f"map_index={task['map_index']}"
    log = folder / f"attempt={task['try_number']}.log"
    cause = last_error(_read_lines(log))
    return f"{task_name(task)} failed at try {task['try_number']}{f' with {cause}' if cause else ''}. Its log: {log}"


def _read_lines(log: Path) -> Iterator[Any]:
    """Yield the JSON lines of a task's log; nothing if there is no log."""
    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # a library printed this line
