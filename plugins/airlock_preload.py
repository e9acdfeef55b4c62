"""An Airflow plugin: a scheduler that runs tasks itself loads what they need before it forks its workers.

Celery workers load it by the setting ``[celery] extra_celery_config``; see docs/operations.md.
"""

from __future__ import annotations

import sys
from typing import Any

from airflow.configuration import conf
from airflow.listeners import hookimpl
from airflow.sdk.plugins_manager import AirflowPlugin


@hookimpl
def on_starting(component: Any) -> None:
    """Load the modules in a scheduler with a LocalExecutor; other components fork no tasks."""
    if getattr(component, "job_type", None) == "SchedulerJob" and "LocalExecutor" in conf.get("core", "executor"):
        import airlock_tasks.preload  # noqa: F401, PLC0415


class PreloadPlugin(AirflowPlugin):
    """Registers the listener."""

    name = "airlock_preload"
    listeners = [sys.modules[__name__]]  # noqa: RUF012  # Airflow's form
