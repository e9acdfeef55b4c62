"""What Airflow's other processes need for a task: scheduler, API server, DAG processor, triggerer of a local stack.

A mapped task that does nothing is run on the real scheduler, with SQLite as its database. The CPU of the workers and of
the tasks is left out: `benchmarks.tasks` measures it for each kind of task.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psutil

from airlock_cli.airflow_api import AirflowApi
from airlock_local.components import plan
from airlock_local.environment import USER, read_secrets
from airlock_local.settings import LOOPBACK, Settings
from airlock_local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASKS = 60
DAG = "empty_tasks"
_WITHIN = 120.0  # seconds for the DAG to appear, and for the run
_DAG_FILE = '''"""A mapped task that does nothing."""

from airflow.sdk import dag, task


@dag(schedule=None)
def empty_tasks():
    @task
    def empty(number):
        return None

    empty.expand(number=list(range({tasks})))


empty_tasks()
'''


def measure(folder: Path, tasks: int = TASKS) -> float:
    """Return the CPU seconds of Airflow's processes for a task, without its worker."""
    dags, pipelines = folder / "dags", folder / "pipelines"
    dags.mkdir(parents=True)
    pipelines.mkdir()
    (dags / f"{DAG}.py").write_text(_DAG_FILE.replace("{tasks}", str(tasks)), encoding="utf-8")
    settings = Settings(api_port=_free_port(), parallelism=2, var=folder / "var", dags=dags, pipelines=pipelines)
    stack = Stack(settings)
    try:
        stack.up(plan(settings, os.environ, (), local=False, account=False))
        return _run(settings, stack) / tasks
    finally:
        stack.down()


def _run(settings: Settings, stack: Stack) -> float:
    """Run the DAG once and return the CPU seconds meanwhile."""
    with AirflowApi(settings.api_url, USER, read_secrets(settings).password) as api:
        api.log_in()
        _wait(lambda: api.dag(DAG) is not None)
        api.unpause(DAG)
        before = _cpu_seconds(stack)
        run = api.trigger(DAG, {})
        _wait(lambda: api.run_state(DAG, run) in {"success", "failed"})
        used = _cpu_seconds(stack) - before
        if api.run_state(DAG, run) != "success":
            raise RuntimeError(f"The run of tasks that do nothing failed. See the logs in {settings.var}.")
    return used


def _wait(is_done: Callable[[], bool]) -> None:
    until = time.monotonic() + _WITHIN
    while not is_done():
        if time.monotonic() > until:
            raise TimeoutError(f"Airflow was not ready within {_WITHIN:.0f} s.")
        time.sleep(1)


def _cpu_seconds(stack: Stack) -> float:
    return sum(_own_seconds(psutil.Process(running.pid)) for running in stack.records.read().values())


def _own_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children that have ended; of living ones, if they run no tasks."""
    used = process.cpu_times()
    living = [child for child in process.children() if "LocalExecutor" not in " ".join(child.cmdline())]
    return float(used.user + used.system + used.children_user + used.children_system) + sum(map(_own_seconds, living))


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
