"""The one-machine stack, as make run starts it: Airflow's own scheduler, triggerer, API server and DAG processor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import httpx
import psutil
import pytest
import yaml

from airlock.pipelines import Arrivals, load_pipeline
from airlock_cli.airflow_api import AirflowApi
from airlock_cli.caller import find_caller
from airlock_local.choice import choose
from airlock_local.components import plan
from airlock_local.environment import USER, read_secrets
from airlock_local.queues import make_queues
from airlock_local.settings import ROOT, Settings, read_settings
from airlock_local.stack import Stack
from tests import waiting
from tests.dicom_files import ct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CANARY = {"PatientID": "CANARY-ID", "PatientName": "Canary^Name", "AccessionNumber": "CANARY-ACC"}
PATIENCE = 180.0  # seconds for a run on a busy machine


@dataclass
class Machine:
    """A running stack."""

    settings: Settings
    environment: dict[str, str]
    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # of a task's question, by try

    def make_run(self, source: Path | str, pipeline: str = "first") -> subprocess.CompletedProcess[str]:
        """Do what ``make run SOURCE=... PIPELINE=...`` does."""
        command = [sys.executable, "-m", "airlock_local", "run"]
        environment = self.environment | {"SOURCE": str(source), "PIPELINE": pipeline}
        return subprocess.run(
            command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
        )

    def restart(self) -> None:
        """Bring back whatever has died, as the next make run would."""
        choice = choose(self.settings.pipelines, "first", "", self.environment)
        parts = plan(self.settings, self.environment, choice.seeds(), local=True, account=False)
        Stack(self.settings).up(parts)

    def kill(self, part: str) -> None:
        """Kill a part of the stack and all that it forked, without a warning."""
        running = Stack(self.settings).records.read()[part]
        for process in running.members():
            _kill(process)
        until(f"the {part} is gone", lambda: not running.members(), 10)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that fork a process for each task."""
        members = Stack(self.settings).records.read()["scheduler"].members()
        return [process for process in members if "LocalExecutor" in " ".join(process.cmdline())]

    def kill_task(self) -> int:
        """Kill the processes of tasks that run right now; return how many they were."""
        members = Stack(self.settings).records.read()["scheduler"].members()
        workers = {process.pid for process in self.workers()}
        tasks = [process for process in members if process.ppid() in workers]
        for process in tasks:
            _kill(process)
        return len(tasks)

    def api(self) -> AirflowApi:
        """Return Airflow's REST API, logged in."""
        api = AirflowApi(self.settings.api_url, USER, read_secrets(self.settings).password)
        api.log_in()
        return api

    def s3(self) -> Any:
        """Return a client of the local S3."""
        return boto3.client("s3", endpoint_url=self.settings.s3_url, region_name="us-east-1")

    def sqs(self) -> Any:
        """Return a client of the local SQS."""
        return boto3.client("sqs", endpoint_url=self.settings.s3_url, region_name="us-east-1")

    def arrivals(self, name: str) -> Arrivals:
        """Make a pipeline's queues, have its bucket notify them, and return its settings of them."""
        pipeline = load_pipeline(self.settings.pipelines / f"{name}.yaml")
        assert pipeline.arrivals is not None
        make_queues(self.sqs(), self.s3(), pipeline, pipeline.arrivals)
        return pipeline.arrivals

    def put(self, files: dict[str, bytes], prefix: str) -> None:
        """Deliver files below the archive's prefix."""
        for name, body in files.items():
            self.s3().put_object(Bucket="airlock-archive", Key=prefix + name, Body=body)

    def faults(self, *faults: dict[str, Any]) -> None:
        """Switch the emulator's faults."""
        httpx.put(f"{self.settings.health_url}/_localaws/faults", json=list(faults)).raise_for_status()

    def remaining_faults(self) -> list[int]:
        """Return how often each switched fault will still strike."""
        return [fault["remaining"] for fault in httpx.get(f"{self.settings.health_url}/_localaws/faults").json()]

    def jobs(self, run_key: str, service: str = "medical-imaging") -> list[dict[str, Any]]:
        """Return the import jobs that were ever started for a run at one of the services."""
        jobs = httpx.get(f"{self.settings.health_url}/_localaws/calls").json()["jobs"]
        return [job for job in jobs if job["service"] == service and f"/{run_key}/" in job["inputS3Uri"]]

    def calls(self, operation: str) -> int:
        """Return how often an operation of either service was answered."""
        counted = httpx.get(f"{self.settings.health_url}/_localaws/calls").json()["operations"]
        return sum(counted.get(operation, {}).values())

    def report(self, pipeline: str, run_key: str) -> dict[str, Any]:
        """Return a run's report."""
        key = f"runs/{pipeline}/{run_key}/audit/report.json"
        return json.loads(self.s3().get_object(Bucket="airlock-workspace", Key=key)["Body"].read())

    def contracts(self, prefix: str) -> list[dict[str, Any]]:
        """Return the contracts that were routed below a prefix."""
        pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket="airlock-contracts", Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [json.loads(self.s3().get_object(Bucket="airlock-contracts", Key=key)["Body"].read()) for key in keys]

    def question(self, dag: str, run: str, task: str) -> dict[str, Any] | None:
        """Return what a task asks people, None while it does not."""
        with self.api() as api:
            found: dict[str, Any] = api._call("GET", _question(dag, run, task), missing={})
        return found or None

    def answer(self, dag: str, run: str, task: str, option: str, params: dict[str, Any]) -> None:
        """Answer a task's question as Airflow's form does, when a person can have read it."""
        self.wait_for_reader(dag, run, task)
        self.answers[task, run, self.try_number(dag, run, task)] += 1
        with self.api() as api:
            api._call("PATCH", _question(dag, run, task), json={"chosen_options": [option], "params_input": params})

    def wait_for_reader(self, dag: str, run: str, task: str) -> None:
        """Wait as long as a person reads: until the scheduler has noticed that the process which asked has ended.

        Airflow 3.3.2 fails a try that is answered before.
        """
        until("the scheduler knows that the task waits", lambda: self._waits(dag, run, task))

    def _waits(self, dag: str, run: str, task: str) -> bool:
        """Return whether the scheduler knows the end of the process that asked; each answer starts another one."""
        with self.api() as api:
            instance = api._call("GET", _instance(dag, run, task))
        number = instance["try_number"]
        marks = f"dag_id={dag}, task_id={task}, run_id={run},", f"try_number={number},"
        log = (self.settings.var / "log/scheduler.log").read_text(errors="replace").splitlines()
        ends = sum("TaskInstance Finished" in line and all(mark in line for mark in marks) for line in log)
        return ends > self.answers[task, run, number] and instance["state"] == "awaiting_input"

    def try_number(self, dag: str, run: str, task: str) -> int:
        """Return the number of a task's try."""
        with self.api() as api:
            return int(api._call("GET", _instance(dag, run, task))["try_number"])

    def decide(self, dag: str, run: str, task: str, option: str, params: dict[str, Any]) -> str:
        """Answer a task's question and return the state that its run ends in."""
        self.answer(dag, run, task, option, params)
        with self.api() as api:
            state = until("the run ends", lambda: (s := api.run_state(dag, run)) in {"success", "failed"} and s)
        return str(state)

    def cli(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Call Airlock's command line, with these variables in its environment."""
        command = [sys.executable, "-m", "airlock_local", "cli", *arguments]
        environment = self.environment | variables
        return subprocess.run(
            command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200
        )

    def reviews(self, pipeline: str) -> list[dict[str, Any]]:
        """Return the reviews of a pipeline that wait for an answer."""
        listed = self.cli("review", "list", pipeline, "--json")
        assert listed.returncode == 0, listed.stderr
        return list(json.loads(listed.stdout)["reviews"])

    def approve(self, pipeline: str, number: int, why: str) -> None:
        """Approve a review, and wait until what it is about is released."""
        dag = f"{pipeline}__review"
        with self.api() as api:
            until("the DAG is there", lambda: api.dag(dag))
            (asked,) = json.loads(self.cli("review", "show", str(number), "--json").stdout)["reviews"]
            for sample in asked["samples"]:
                opened = self.cli("review", "show", str(number), sample)
                assert opened.returncode == 0, opened.stderr
            answered = self.cli("review", "answer", str(number), "--approve", "--why", why)
            assert answered.returncode == 0, answered.stderr
            run = answered.stderr.partition("Run ")[2].partition(" of ")[0]
            assert run, answered.stderr
            until("the answer is applied", lambda: api.run_state(dag, run) in {"success", "failed"})
            assert api.run_state(dag, run) == "success"

    def log_ends(self) -> str:
        """Return the last lines of the logs of the stack's parts."""
        logs = sorted((self.settings.var / "log").glob("*.log"))
        ends = (log.read_text(errors="replace").splitlines()[-30:] for log in logs)
        return "\n".join(f"--- {log.name}\n" + "\n".join(end) for log, end in zip(logs, ends, strict=True))

    def airflow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call Airflow's command line."""
        command = [sys.executable, "-m", "airlock_local", "airflow", *arguments]
        return subprocess.run(
            command, check=False, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    """Show with a failure what the stack's parts have written last: the folder with their logs is gone later."""
    report: Any = yield
    if report.failed and report.when != "teardown" and isinstance(machine := item.funcargs.get("machine"), Machine):
        report.sections.append(("The stack's logs", machine.log_ends()))
    return report


def _instance(dag: str, run: str, task: str) -> str:
    return f"/api/v2/dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances/{task}"


def _question(dag: str, run: str, task: str) -> str:
    return f"{_instance(dag, run, task)}/-1/hitlDetails"


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def until(what: str, holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait as long as a run on a busy machine may take."""
    return waiting.until(what, holds, patience)


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def imaging_pipeline(folder: Path, name: str, store: str, **changes: Any) -> None:
    _pipeline(folder, "sample", name, healthimaging={"datastore_id": store * 32}, **changes)


def _pipeline(folder: Path, shipped: str, name: str, **changes: Any) -> None:
    """Write a pipeline like one that ships, with a source of its own; a changed section of None is left out."""
    content = yaml.safe_load((ROOT / f"include/pipelines/{shipped}.yaml").read_text())
    content["name"] = name
    content["source"]["uri"] = f"s3://airlock-archive/{name}/"
    content["retry_delay_seconds"] = 1
    for section, values in changes.items():
        content[section] = content.get(section, {}) | values if isinstance(values, dict) else values
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def _waking(folder: Path, name: str, store: str, port: int, **changes: Any) -> None:
    """Write a pipeline whose queues lie on the local S3 server."""
    queue = f"http://127.0.0.1:{port}/123456789012/{name}"
    arrivals = {"queue_url": queue, "dead_letter_queue_url": f"{queue}-dead", "gather_seconds": 2}
    imaging_pipeline(folder, name, store, healthlake=None, receive={"quiet_seconds": 0}, arrivals=arrivals, **changes)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The stack of the end-to-end tests, which `first_run` starts once for all of them."""
    folder = tmp_path_factory.mktemp("machine")
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    imaging_pipeline(pipelines, "first", "1")
    imaging_pipeline(pipelines, "kills", "2", receive={"quiet_seconds": 0}, healthlake=None)
    _pipeline(pipelines, "clinical", "records", validation={"service_check": "none"})  # so that the import rejects
    _pipeline(pipelines, "ccda", "documents")
    imaging_pipeline(
        pipelines,
        "dated",
        "3",
        healthlake=None,
        source={"window": "key_date"},
        receive={"quiet_seconds": 0},
        schedule={"cron": "0 0 * * *", "start_date": "2026-10-01", "max_active_runs": 2},
    )
    for source in ("main", "mirror"):
        imaging_pipeline(
            pipelines,
            source,
            "9",
            healthlake={"datastore_id": "9" * 32},
            receive={"quiet_seconds": 0},
            routes=[{"name": "contracts", "uri": "s3://airlock-contracts/overlap/"}],
        )
    api, s3, health = free_ports(3)
    _waking(pipelines, "arriving", "4", s3, schedule={"cron": None})
    _waking(pipelines, "bursts", "5", s3, schedule={"cron": "* * * * *", "max_active_runs": 2})
    imaging_pipeline(
        pipelines,
        "announces",
        "7",
        healthlake=None,
        receive={"quiet_seconds": 0},
        routes=[{"name": "per-study", "asset": {"name": "airlock-example-studies"}}],
    )
    imaging_pipeline(
        pipelines,
        "asks",
        "6",
        healthlake=None,
        receive={"quiet_seconds": 0},
        audit={"on_hold": "review"},
        review={"by": "the archive team", "users": [USER, find_caller()]},
        notify=[{"sqs": f"http://127.0.0.1:{s3}/123456789012/news", "region_name": "us-east-1"}],
    )
    imaging_pipeline(
        pipelines,
        "brakes",
        "8",
        healthlake=None,
        receive={"quiet_seconds": 0},
        audit={"brake": {"least_arrivals": 10, "unread": 0.05, "one_reason": 1}},
    )
    imaging_pipeline(
        pipelines,
        "waves",
        "a",
        healthlake=None,
        receive={"quiet_seconds": 0},
        waves={"objects": 4, "hold_split": True},
        routes=[{"name": "contracts", "uri": "s3://airlock-contracts/waves/"}],
    )
    _pipeline(pipelines, "clinical", "ehr", healthlake={"datastore_id": "b" * 32})
    imaging_pipeline(
        pipelines,
        "meets",
        "b",
        healthlake={"datastore_id": "b" * 32},
        receive={"quiet_seconds": 0},
        routes=[{"name": "contracts", "uri": "s3://airlock-contracts/meets/", "clinical": True}],
        publish={
            "issuer_systems": {"SITE-A": "urn:oid:1.2.3.4"},
            "patient_match": {"rules": [{"type": "identifier", "system": "urn:oid:1.2.3.4"}]},
        },
    )
    with stopped_after(folder, api, s3, health) as made:
        yield made


@contextmanager
def stopped_after(folder: Path, api: int, s3: int, health: int, **more: str) -> Iterator[Machine]:
    """Give the stack of a folder and its pipelines, with these ports; nothing of it is left at the end."""
    environment = dict(os.environ) | {
        "AIRLOCK_API_PORT": str(api),
        "AIRLOCK_S3_PORT": str(s3),
        "AIRLOCK_HEALTH_PORT": str(health),
        "AIRLOCK_VAR": str(folder / "var"),
        "AIRLOCK_PIPELINES": str(folder / "pipelines"),
        "AIRLOCK_PARALLELISM": "3",
        **more,
    }
    try:
        yield Machine(read_settings(environment), environment)
    finally:
        stop = [sys.executable, "-m", "airlock_local", "stop"]
        subprocess.run(stop, env=environment, cwd=ROOT, capture_output=True, timeout=120, check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def first_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of canary patients: two clean studies, and files that are quarantined, ignored and held."""
    folder = tmp_path_factory.mktemp("süd + west")
    files = {f"clean/{study}/{n}.dcm": ct(study, 1, n, **CANARY) for study in (1, 2) for n in (1, 2, 3)}
    files |= {
        "conflict/a.dcm": ct(3, 1, 1, **CANARY),
        "conflict/b.dcm": ct(3, 1, 2, **(CANARY | {"PatientID": "CANARY-ID-OTHER"})),
        "broken/cut.dcm": ct(4, 1, 1, **CANARY)[:-100],
        "broken/whole.dcm": ct(4, 1, 2, **CANARY),
        "broken/CANARY-ID in a name.dcm": b"not DICOM",
        "notes.txt": b"exported",
    }
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


@pytest.fixture(scope="session")
def first_run(machine: Machine, first_folder: Path) -> subprocess.CompletedProcess[str]:
    """What a newcomer's first make run prints."""
    return machine.make_run(first_folder)
