"""A scheduler with one LocalExecutor worker and without its loop: it runs the tasks of its standard input, one by one.

For each line, a workload of the executor, it prints the CPU seconds of the worker process and of the task processes
that the worker has started; `benchmarks.tasks` starts it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import psutil
from airflow.cli.commands import scheduler_command  # noqa: F401  # a scheduler has loaded it
from airflow.executors.workloads import ExecuteTask
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

_ENDED = {"success", "failed"}


def main() -> None:
    """Run each workload and print its CPU seconds and the state that the executor gives it."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Airflow logs to the standard output
    sys.argv = ["airflow", "scheduler"]  # the command whose process this stands for
    runner = SchedulerJobRunner(job=Job())  # type: ignore[no-untyped-call]
    executor: Any = runner.executors[0]
    executor.start()
    (worker,) = (psutil.Process(pid) for pid in executor.workers)
    try:
        for line in sys.stdin:
            workload = ExecuteTask.model_validate_json(line)
            before, began = _cpu_seconds(worker), time.monotonic()
            state = _run(executor, workload)
            figures = {"cpu": _cpu_seconds(worker) - before, "wall": time.monotonic() - began, "state": state}
            replies.write(json.dumps(figures) + "\n")
    finally:
        worker.kill()  # it is idle


def _run(executor: Any, workload: ExecuteTask) -> str:
    executor.queue_workload(workload, session=None)
    executor.trigger_tasks(open_slots=1)
    while True:
        key, state, error = executor.result_queue.get()
        if error is not None:
            raise error
        if str(state) in _ENDED:
            executor.change_state(key, state)
            executor.get_event_buffer()
            return str(state)


def _cpu_seconds(worker: psutil.Process) -> float:
    used = worker.cpu_times()
    return float(used.user + used.system + used.children_user + used.children_system)


if __name__ == "__main__":
    main()
