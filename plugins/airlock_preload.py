"""An Airflow plugin: a scheduler that runs tasks itself loads what they need before it forks its workers.

Celery workers load it by the setting ``[celery] extra_celery_config``; see docs/operations.md.
"""

from __future__ import annotations

import sys

from airflow.configuration import conf
from airflow.listeners import hookimpl
from airflow.sdk.plugins_manager import AirflowPlugin


@hookimpl
def on_starting() -> None:
    """Load the modules in a scheduler with a LocalExecutor; other components fork no tasks.

    Airflow calls this while it makes its job, before the job knows its type; so the command says what the process is.
    """
    if sys.argv[1:2] == ["scheduler"] and "LocalExecutor" in conf.get("core", "executor"):
        import airlock_tasks.preload  # noqa: F401, PLC0415


class PreloadPlugin(AirflowPlugin):
    """Registers the listener."""

    name = "airlock_preload"
    listeners = [sys.modules[__name__]]  # noqa: RUF012  # Airflow's form
