"""Following one DAG run from the terminal: a line whenever a stage moves on."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airlock_local.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from airlock_local.airflow_api import AirflowApi

_LOOK_EVERY = 1.0  # seconds
WAITS = "awaiting_input"
_FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_WORDS = {
    "deferred": "waiting",
    "awaiting_input": "waiting for a person: answer it in the UI, under Required Actions",
    "up_for_retry": "will be tried again",
    "up_for_reschedule": "waiting",
    "upstream_failed": "not started, a stage before it failed",
}
_SILENT = frozenset({None, "scheduled", "queued", "removed"})


class StalledError(RuntimeError):
    """A run showed no change for too long; it may still go on."""


def follow(
    api: AirflowApi, dag: str, run: str, stall_minutes: float, check: Callable[[], None]
) -> tuple[str, list[dict[str, Any]]]:
    """Print a run's progress until it ends, or until only a person can move it on.

    Parameters
    ----------
    api
        Airflow.
    dag, run
        Which run.
    stall_minutes
        How long nothing may change.
    check
        Called at every look; raises when there is no use in waiting.

    Returns
    -------
    state
        ``success``, ``failed`` or `WAITS`.
    task_instances
        As the REST API shows them at the end.

    Raises
    ------
    StalledError
        When nothing changed for ``stall_minutes``.
    """
    shown: dict[str, str] = {}
    before: Any = None
    changed = time.monotonic()
    while True:
        check()
        state = api.run_state(dag, run)  # before the tasks, so that the last look shows them all
        tasks = api.task_instances(dag, run)
        _tell(tasks, shown)
        if state in {"success", "failed"}:
            return state, tasks
        if waits_for_a_person(tasks):
            return WAITS, tasks
        now = sorted((task["task_id"], task["map_index"], task["state"] or "", task["try_number"]) for task in tasks)
        if now != before:
            before, changed = now, time.monotonic()
        elif time.monotonic() - changed > 60 * stall_minutes:
            raise StalledError(
                f"nothing has changed in the run for {stall_minutes:g} minutes, so it is no longer watched; it may "
                "still go on: look at it in the UI, or allow more with AIRLOCK_STALL_MINUTES"
            )
        time.sleep(_LOOK_EVERY)


def waits_for_a_person(tasks: Iterable[dict[str, Any]]) -> bool:
    """Say whether a task awaits an answer and no other one moves."""
    moving = {task["state"] for task in tasks} - _FINISHED - {None}
    return moving == {WAITS}


def _tell(tasks: Iterable[dict[str, Any]], shown: dict[str, str]) -> None:
    for task, instances in _by_task(tasks).items():
        text = stage_line(instances)
        if text and shown.get(task) != text:
            shown[task] = text
            say(f"  {task:<15} {text}")


def _by_task(tasks: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for task in sorted(tasks, key=lambda item: (item["start_date"] or "9", item["task_id"])):
        groups.setdefault(task["task_id"], []).append(task)
    return groups


def stage_line(instances: list[dict[str, Any]]) -> str:
    """Return what is to be said of a stage's task instances; nothing while they have not begun."""
    states = Counter(item["state"] for item in instances)
    done = sum(states[state] for state in _FINISHED)
    if not done and not set(states) - _SILENT:
        return ""
    total = len(instances)
    if done < total:
        moving = {state: count for state, count in states.items() if state not in _FINISHED | _SILENT}
        words = ", ".join(_counted(_WORDS.get(state, state), count, total) for state, count in moving.items())
        return ", ".join(part for part in (f"{done} of {total} done" if total > 1 else "", words) if part)
    bad = [state for state in states if state != "success"]
    words = ", ".join(_counted(_WORDS.get(state, state), states[state], total) for state in bad) or "done"
    seconds = _duration(instances)
    return f"{words}{f', {total} tasks' if total > 1 else ''}{f' ({seconds:.1f} s)' if seconds is not None else ''}"


def _counted(word: str, count: int, total: int) -> str:
    return word if total == 1 else f"{count} {word}"


def _duration(instances: list[dict[str, Any]]) -> float | None:
    starts = [datetime.fromisoformat(item["start_date"]) for item in instances if item["start_date"]]
    ends = [datetime.fromisoformat(item["end_date"]) for item in instances if item["end_date"]]
    return (max(ends) - min(starts)).total_seconds() if starts and ends else None


def failures(tasks: Iterable[dict[str, Any]], logs: Path) -> list[str]:
    """Say of each failed task what it was, what it died of, and where its log lies."""
    failed = [task for task in tasks if task["state"] == "failed"]
    return [_failure(task, logs) for task in sorted(failed, key=lambda task: task["end_date"] or "")]


def _failure(task: dict[str, Any], logs: Path) -> str:
    folder = logs / f"dag_id={task['dag_id']}" / f"run_id={task['dag_run_id']}" / f"task_id={task['task_id']}"
    name = task["task_id"]
    if task["map_index"] >= 0:
        folder /= f"map_index={task['map_index']}"
        name += f"[{task['map_index']}]"
    log = folder / f"attempt={task['try_number']}.log"
    cause = last_error(log)
    return f"{name} failed at try {task['try_number']}{f' with {cause}' if cause else ''}; its log: {log}"


def last_error(log: Path) -> str | None:
    """Return the last exception in a task's log (JSON lines), as ``Class: message``."""
    if not log.exists():
        return None
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            details = json.loads(line).get("error_detail")
        except (ValueError, AttributeError):
            continue  # a line that some library printed by itself
        if details:
            return f"{details[0].get('exc_type')}: {details[0].get('exc_value')}"
    return None
