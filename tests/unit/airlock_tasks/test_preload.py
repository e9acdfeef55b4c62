"""What a worker has loaded when it forks a task's process, and that it is still safe to fork then."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
OURS = ("airlock_tasks.import_", "aiohttp", "airlock.pipelines", "healthaws.hooks.aws", "airflow.dag_processing.dagbag")
WITH_THREADS = ("polars", "pyarrow", "numpy")
OF_ONE_STAGE = ("obstore", "pydicom", "fhirkit")

# What must not be made before a fork: threads of any library, sockets and other open files, clients, engines.
MADE = """
import gc, os, sys
from botocore.client import BaseClient
from sqlalchemy import Engine

def made():
    live = [type(one) for one in gc.get_objects()]
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "clients": sum(issubclass(one, BaseClient) for one in live),
        "engines": sum(issubclass(one, Engine) for one in live),
    }
"""
SCHEDULER = """
import json
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

def start(command):
    sys.argv = ["airflow", command]
    job = Job()  # as the command does; Airflow calls its listeners here
    return "airlock_tasks.preload" in sys.modules

others = [command for command in ("triggerer", "dag-processor") if start(command)]
before = made()
begun = start("scheduler")
print(json.dumps({"others": others, "begun": begun, "before": before, "after": made(), "modules": list(sys.modules)}))
"""
CELERY_WORKER = """
import json
from airflow.providers.celery.executors.celery_executor import app
app.loader.import_default_modules()
print(json.dumps(list(sys.modules)))
"""


def test_a_scheduler_loads_what_tasks_need_and_stays_safe_to_fork(tmp_path: Path) -> None:
    found = run(SCHEDULER, tmp_path, AIRFLOW__CORE__EXECUTOR="LocalExecutor")
    assert found["others"] == []
    assert found["begun"]
    assert set(OURS) <= set(found["modules"])
    assert not {*WITH_THREADS, *OF_ONE_STAGE} & set(found["modules"])
    assert found["before"] == found["after"]
    assert found["after"]["threads"] == 1


def test_a_scheduler_whose_tasks_run_elsewhere_loads_nothing(tmp_path: Path) -> None:
    assert not run(SCHEDULER, tmp_path, AIRFLOW__CORE__EXECUTOR="CeleryExecutor")["begun"]


def test_a_celery_worker_loads_it_by_the_setting_of_docker_compose(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text(encoding="utf-8"))
    name = "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"
    setting = {name: compose["x-airflow"]["environment"][name]}
    modules = run(CELERY_WORKER, tmp_path, AIRFLOW__CORE__EXECUTOR="CeleryExecutor", **setting)
    assert set(OURS) <= set(modules)
    assert not {"polars", "pyarrow", *OF_ONE_STAGE} & set(modules)  # Airflow's own setting loads numpy there


def test_it_loads_the_operators_of_every_dag_file() -> None:
    files = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "dags").glob("*.py"))]
    of_dags = {name for text in files for name in re.findall(r"^from airlock_tasks\.(\w+) import", text, re.MULTILINE)}
    assert of_dags
    loaded = ast.parse((ROOT / "plugins/airlock_tasks/preload.py").read_text(encoding="utf-8"))
    imports = [node for node in loaded.body if isinstance(node, ast.ImportFrom) and node.module == "airlock_tasks"]
    assert of_dags <= {alias.name for node in imports for alias in node.names}


def run(code: str, home: Path, **settings: str) -> Any:
    own = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    command = [sys.executable, "-W", "ignore", "-c", MADE + code]
    said = subprocess.run(command, env=os.environ | own | settings, check=True, capture_output=True, text=True)
    return json.loads(said.stdout.splitlines()[-1])
