"""Airflow's own cost: the CPU of an imaging run's mapped tasks, with one file each, against that of an empty task.

Every task is run by a worker of the LocalExecutor (`benchmarks.task_worker`): supervisor, fork, DAG file, operator. S3
(moto), the emulator and the execution API (`benchmarks.execution_api`) are in other processes and not counted. What
Airflow's other processes need for a task is measured with tasks that do nothing (`benchmarks.airflow_share`), and is
the same on both sides of the ratio. ``python -m benchmarks.tasks`` prints a table.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, cast
from uuid import uuid4

import yaml

from benchmarks import airflow_share
from benchmarks.execution_api import RUN_ID, ExecutionApi, execution_api
from benchmarks.job_events import JobEvents, job_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
TURNS, WARM_UP = 24, 2
QUICK = 6, 20
_JOB_WITHIN = 60.0  # seconds for an import job of one file
EXECUTIONS = {"parse": 40, "stage": 200, "import": 200, "import, resumed": 200}  # of a wave of a million objects
PIPELINE, EMPTY = "bench", "empty"
_EMPTY_DAG = '''"""A DAG with one task that does nothing."""

from airflow.sdk import dag, task


@dag(dag_id="empty", schedule=None)
def empty():
    @task
    def empty():
        return None

    empty()


empty()
'''


def measure(turns: int = TURNS, share_tasks: int = airflow_share.TASKS) -> dict[str, Any]:
    """Run each kind of task in turns.

    Parameters
    ----------
    turns
        How often each kind is run.
    share_tasks
        How many tasks the scheduler runs, to measure Airflow's other processes.

    Returns
    -------
    dict
        ``turns``; ``cpu_ms``: the mean CPU of worker and task, by kind; ``airflow_ms``: that of Airflow's other
        processes, for a task; ``ratios``: their sum over that of the empty task, by kind; ``ratio``: the mean of these,
        weighted by the executions of a wave of a million objects; ``worker_ratio``: the same without ``airflow_ms``.
    """
    command = [sys.executable, "-m", "benchmarks.tasks", "--json", str(turns)]
    with TemporaryDirectory(prefix="airlock-tasks-") as folder:
        environment = os.environ | _airflow_settings(Path(folder))
        reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603
        share = airflow_share.measure(Path(folder) / "share", share_tasks)
    return summarize(json.loads(reply.stdout.splitlines()[-1]), share)


def summarize(seconds: dict[str, list[float]], share: float) -> dict[str, Any]:
    """Return the figures of :func:`measure` from the CPU seconds of each execution, and Airflow's share of a task."""
    means = {kind: sum(values) / len(values) for kind, values in seconds.items()}
    ratios = {kind: (share + means[kind]) / (share + means[EMPTY]) for kind in EXECUTIONS}
    return {
        "turns": min(map(len, seconds.values())),
        "cpu_ms": {kind: round(1000 * mean, 1) for kind, mean in means.items()},
        "airflow_ms": round(1000 * share, 1),
        "ratios": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
        "ratio": round(_weigh(ratios), 3),
        "worker_ratio": round(_weigh(means) / means[EMPTY], 3),
    }


def _weigh(values: dict[str, float]) -> float:
    return sum(values[kind] * executions for kind, executions in EXECUTIONS.items()) / sum(EXECUTIONS.values())


def _airflow_settings(folder: Path) -> dict[str, str]:
    """Return the environment of an Airflow of its own, whose DAGs are the shipped ones and the empty one."""
    dags, pipelines = folder / "dags", folder / "pipelines"
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "include/pipelines", pipelines)
    (dags / f"{EMPTY}.py").write_text(_EMPTY_DAG, encoding="utf-8")
    options = {
        "core__dags_folder": dags,
        "core__plugins_folder": ROOT / "plugins",
        "core__load_examples": False,
        "core__executor": "LocalExecutor",
        "core__parallelism": 1,
        "database__sql_alchemy_conn": f"sqlite:///{folder}/airflow.db",
        "logging__base_log_folder": folder / "logs",
        "usage_data_collection__enabled": False,
    }
    paths = [dags, ROOT / "plugins", ROOT / "include", ROOT]
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRLOCK_PIPELINES": str(pipelines),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONDONTWRITEBYTECODE": "",  # workers keep what they compile
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        **{f"AIRFLOW__{name.upper()}": str(value) for name, value in options.items()},
    }


@dataclass
class _Tasks:
    """The tasks of the measured run, and the worker that executes them."""

    worker: Callable[[dict[str, Any]], dict[str, Any]]
    api: ExecutionApi
    jobs: JobEvents

    def run(self, dag: str, task: str, index: int = -1, instance: str = "") -> tuple[str, float]:
        """Run a task, or resume the instance of a deferred one; return its instance and CPU seconds."""
        instance = instance or str(uuid4())
        self.api.dags[instance] = dag
        workload = {
            "ti": {
                "id": instance,
                "task_id": task,
                "dag_id": dag,
                "run_id": RUN_ID,
                "try_number": 1,
                "map_index": index,
                "dag_version_id": str(uuid4()),
                "pool_slots": 1,
                "priority_weight": 1,
            },
            "dag_rel_path": f"{EMPTY if dag == EMPTY else 'imaging'}.py",
            "bundle_info": {"name": "dags-folder"},
            "log_path": f"{dag}/{task}/{instance}.log",
            "token": "benchmark",
        }
        figures = self.worker(workload)
        state = self.api.states.get(instance, {}).get("state")
        if figures["state"] != "success" or state not in {"success", "deferred"}:
            raise RuntimeError(f"{task} ended as {figures['state']}, {state}. Unanswered: {self.api.unanswered}")
        return instance, figures["cpu"]


@contextmanager
def _worker(server: str) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Yield what runs a workload and returns its figures."""
    command = [sys.executable, "-m", "benchmarks.task_worker"]
    environment = os.environ | {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": server}
    with (
        Path(os.environ["AIRFLOW_HOME"], "worker.log").open("w") as log,
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=log, text=True, env=environment) as process,  # noqa: S603
    ):
        asked, replies = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

        def run(workload: dict[str, Any]) -> dict[str, Any]:
            asked.write(json.dumps(workload) + "\n")
            asked.flush()
            return cast("dict[str, Any]", json.loads(replies.readline()))

        try:
            yield run
        finally:
            asked.close()


def _measure(turns: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each execution, by kind."""
    import pytest  # noqa: PLC0415
    from tests.integration.conftest import place_beside  # noqa: PLC0415  # Airflow reads its settings when imported
    from tests.servers.moto import moto_server  # noqa: PLC0415

    folder = Path(os.environ["AIRFLOW_HOME"])
    with (
        moto_server() as s3,
        job_events() as (bus, jobs),
        pytest.MonkeyPatch.context() as patch,
        place_beside(s3, folder, patch, events_endpoint=bus) as place,
    ):
        shards, batches = _deliver(place, turns + WARM_UP)
        with execution_api() as (server, api), _worker(server) as worker:
            api.xcom = {"buffer": shards, "normalize": batches}
            tasks, seconds = _Tasks(worker, api, jobs), {kind: list[float]() for kind in (EMPTY, *EXECUTIONS)}
            for turn in range(turns + WARM_UP):
                for kind, used in _turn(tasks, turn).items():
                    seconds[kind] += [used] if turn >= WARM_UP else []
    return seconds


def _turn(tasks: _Tasks, index: int) -> dict[str, float]:
    _, empty = tasks.run(EMPTY, EMPTY)
    _, parse = tasks.run(PIPELINE, "parse", index)
    _, stage = tasks.run(PIPELINE, "stage", index)
    instance, start = tasks.run(PIPELINE, "import", index)
    deferred = tasks.api.states[instance]
    job = deferred["trigger_kwargs"]["job_id"]
    tasks.jobs.wait(job, _JOB_WITHIN)
    event = {"event": {"status": "success", "job_id": job}}
    tasks.api.resumed[instance] = {"next_method": deferred["next_method"], "next_kwargs": event}
    _, resumed = tasks.run(PIPELINE, "import", index, instance)
    return {EMPTY: empty, "parse": parse, "stage": stage, "import": start, "import, resumed": resumed}


def _deliver(place: Any, files: int) -> tuple[list[str], list[str]]:
    """Deliver files, and run the pipeline up to normalize; return its shards and batches, of one file each."""
    from tests.chain import BUCKETS, Chain, pipeline  # noqa: PLC0415
    from tests.dicom_files import delivery  # noqa: PLC0415

    changes = {"parse": {"shard_size": 1}, "limits": {"files_per_job": 1}}
    line = pipeline(PIPELINE, **changes)
    written = line.model_dump(mode="json", by_alias=True, exclude_unset=True)
    path = Path(os.environ["AIRLOCK_PIPELINES"]) / f"{PIPELINE}.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    for bucket in BUCKETS:
        place.s3().create_bucket(Bucket=bucket)
    place.put(delivery(studies=files, instances=1))
    chain = Chain(place, line, run_id=RUN_ID)
    chain.until("normalize")
    return chain.xcom["buffer", 0], chain.xcom["normalize", 0]


def main(arguments: list[str]) -> None:
    """Print a table; with --json, what a process of its own measures."""
    if arguments[:1] == ["--json"]:
        sys.stdout.write(json.dumps(_measure(int(arguments[1]))) + "\n")
        return
    found = measure(*map(int, arguments))
    sys.stdout.write(f"CPU of a task and its supervisor, {found['turns']} turns, load {os.getloadavg()[0]:.1f}\n")
    for kind, used in found["cpu_ms"].items():
        sys.stdout.write(f"  {kind:16} {used:7.1f} ms   {found['ratios'].get(kind, 1):5.2f}x\n")
    sys.stdout.write(f"  Airflow's other processes need {found['airflow_ms']:.0f} ms for each, in the ratios too.\n")
    sys.stdout.write(f"  Weighted by the executions of a wave of a million objects: {found['ratio']:.2f}x, ")
    sys.stdout.write(f"of worker and task alone {found['worker_ratio']:.2f}x\n")


if __name__ == "__main__":
    main(sys.argv[1:])
