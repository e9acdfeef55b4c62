"""Follow one DAG run over REST: print a line when a stage's state changes, and the errors of failed tasks."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airlock_cli.airflow_api import ApiUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airlock_cli.airflow_api import AirflowApi

_POLL_SECONDS = 1.0
_SILENCE_SECONDS = 20.0  # after which a line says what is being waited for
_OUTAGE_SECONDS = 120.0  # how long the API server may not answer: while it restarts, the run continues
WAITS = "awaiting_input"
_FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_STATE_TEXTS = {
    "deferred": "waiting",
    "awaiting_input": "waiting for a person: answer it in the UI, under Required Actions",
    "up_for_retry": "will be tried again, and nothing is done twice; its log has the reason",
    "up_for_reschedule": "waiting",
    "upstream_failed": "not started: an earlier stage failed",
}
_NOT_SHOWN = frozenset({None, "scheduled", "queued", "removed"})


class StalledError(RuntimeError):
    """A run showed no change for too long; it may still be running."""


def follow(
    api: AirflowApi,
    dag: str,
    run: str,
    say: Callable[[str], None],
    check: Callable[[], None],
    *,
    stall_minutes: float | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """Print a run's progress until it ends or waits only for a person.

    Parameters
    ----------
    api
        Airflow's REST API.
    dag, run
        The run to follow.
    say
        Called with each line of progress.
    check
        Called at every poll; raises to end the wait.
    stall_minutes
        How long the run may show no change; None for no limit.

    Returns
    -------
    state
        ``success``, ``failed`` or `WAITS`.
    task_instances
        The REST API's records of them at the end.

    Raises
    ------
    StalledError
        If nothing changed for ``stall_minutes``.
    ApiError
        If Airflow refuses a call, or does not answer for two minutes.
    """
    teller = _Teller(run, say)
    before: Any = None
    changed = answered = time.monotonic()
    while True:
        check()
        try:
            state = api.run_state(dag, run)  # before the tasks, so that the last poll has them all
            tasks = api.task_instances(dag, run)
            others = api.unfinished_runs(dag) if teller.is_silent else []
        except ApiUnreachableError:
            if time.monotonic() - answered > _OUTAGE_SECONDS:
                raise
            time.sleep(_POLL_SECONDS)
            continue
        answered = time.monotonic()
        teller.tell(tasks)
        if state in {"success", "failed"}:
            return state, tasks
        if waits_for_a_person(tasks):
            return WAITS, tasks
        teller.break_silence(tasks, others)
        now = sorted((task["task_id"], task["map_index"], task["state"] or "", task["try_number"]) for task in tasks)
        if now != before:
            before, changed = now, answered
        elif stall_minutes is not None and answered - changed > 60 * stall_minutes:
            raise StalledError(
                f"The run has shown no change for {stall_minutes:g} minutes, so it is no longer watched. It may still "
                "be running: see the UI, or allow more time with AIRLOCK_STALL_MINUTES."
            )
        time.sleep(_POLL_SECONDS)


def waits_for_a_person(tasks: Iterable[dict[str, Any]]) -> bool:
    """Return whether a task waits for an answer and no other task is active."""
    active = {task["state"] for task in tasks} - _FINISHED - {None}
    return active == {WAITS}


@dataclass
class _Teller:
    """Prints each stage's line when it changes, and a line after a silence of `_SILENCE_SECONDS`."""

    run: str  # that is followed
    say: Callable[[str], None]
    shown: dict[str, str] = field(default_factory=dict)
    said_at: float = field(default_factory=time.monotonic)

    def tell(self, tasks: Iterable[dict[str, Any]]) -> None:
        """Print the stages whose state has changed."""
        for task, instances in _group_by_task(tasks).items():
            text = stage_line(instances)
            if text and self.shown.get(task) != text:
                self.shown[task] = text
                self._say(f"  {task:<15} {text}")

    @property
    def is_silent(self) -> bool:
        """Whether nothing has been printed for long."""
        return time.monotonic() - self.said_at > _SILENCE_SECONDS

    def break_silence(self, tasks: Iterable[dict[str, Any]], unfinished: Sequence[str]) -> None:
        """Print what is being waited for, of these unfinished runs of the DAG the first, after a silence."""
        if not self.is_silent:
            return
        under_way = {
            task: stage_line(instances)
            for task, instances in _group_by_task(tasks).items()
            if not all(item["state"] in _FINISHED for item in instances) and stage_line(instances)
        }
        for task, text in under_way.items():
            self._say(f"  {task:<15} still {text}")
        if not under_way:
            others = [run for run in unfinished if run != self.run]
            first = f": run {others[0]} has not ended" if others else ""
            self._say(f"  still waiting for Airflow to start the next task{first}")

    def _say(self, line: str) -> None:
        self.said_at = time.monotonic()
        self.say(line)


def _group_by_task(tasks: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for task in sorted(tasks, key=lambda item: (item["start_date"] or "9", item["task_id"])):
        groups.setdefault(task["task_id"], []).append(task)
    return groups


def stage_line(instances: list[dict[str, Any]]) -> str:
    """Return a stage's progress in words; empty before its first task starts."""
    states = Counter(item["state"] for item in instances)
    done = sum(states[state] for state in _FINISHED)
    if not done and not set(states) - _NOT_SHOWN:
        return ""
    total = len(instances)
    if done < total:
        active = {state: count for state, count in states.items() if state not in _FINISHED | _NOT_SHOWN}
        words = ", ".join(_with_count(_STATE_TEXTS.get(state, state), count, total) for state, count in active.items())
        return ", ".join(part for part in (f"{done} of {total} done" if total > 1 else "", words) if part)
    bad = [state for state in states if state != "success"]
    words = ", ".join(_with_count(_STATE_TEXTS.get(state, state), states[state], total) for state in bad) or "done"
    seconds = _measure_seconds(instances)
    return f"{words}{f', {total} tasks' if total > 1 else ''}{f' ({seconds:.1f} s)' if seconds is not None else ''}"


def _with_count(word: str, count: int, total: int) -> str:
    return word if total == 1 else f"{count} {word}"


def _measure_seconds(instances: list[dict[str, Any]]) -> float | None:
    starts = [datetime.fromisoformat(item["start_date"]) for item in instances if item["start_date"]]
    ends = [datetime.fromisoformat(item["end_date"]) for item in instances if item["end_date"]]
    return (max(ends) - min(starts)).total_seconds() if starts and ends else None


def describe_failures(api: AirflowApi, tasks: Iterable[dict[str, Any]]) -> list[str]:
    """Return each failed task's name, its number of tries and the last error in its log."""
    failed = sorted((task for task in tasks if task["state"] == "failed"), key=lambda task: task["end_date"] or "")
    return [_describe_failure(task, last_error(api.task_log(task))) for task in failed]


def _describe_failure(task: dict[str, Any], error: str | None) -> str:
    return f"{task_name(task)} failed at try {task['try_number']}{f' with {error}' if error else ''}"


def task_name(task: dict[str, Any]) -> str:
    """Return a task instance's name, with its index where it is mapped."""
    index = task["map_index"]
    return f"{task['task_id']}[{index}]" if index >= 0 else str(task["task_id"])


def last_error(log: Iterable[Any]) -> str | None:
    """Return the last exception in a task's log as ``Class: message``, or None; plain lines are skipped."""
    found = [line["error_detail"] for line in log if isinstance(line, dict) and line.get("error_detail")]
    return f"{found[-1][0].get('exc_type')}: {found[-1][0].get('exc_value')}" if found else None
