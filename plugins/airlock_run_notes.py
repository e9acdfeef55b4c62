"""An Airflow plugin: the scheduler writes what a run's audit has found into the run's note when the run ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.sdk.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun


@hookimpl
def on_dag_run_success(dag_run: DagRun) -> None:
    """Write the note of a run that succeeded."""
    _write(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun) -> None:
    """Write the note of a run that failed: its audit may have come to an end all the same."""
    _write(dag_run)


def _write(dag_run: DagRun) -> None:
    from airlock_tasks.run_notes import write_note  # noqa: PLC0415  # only the process that ends a run pays for it

    write_note(dag_run)


class RunNotesPlugin(AirflowPlugin):
    """Registers the listener."""

    name = "airlock_run_notes"
    listeners = [sys.modules[__name__]]  # noqa: RUF012  # Airflow's form
