"""The rehearsals of docs/recovery.md, on the real scheduler: nothing is lost, and nothing is imported or sent twice.

The ledger is in PostgreSQL. The commands are those of the pages; pytest -s shows what the operator sees.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from botocore.config import Config

from airlock.ledger import upgrade
from airlock.run import run_key
from airlock_local.buckets import local_client, make_buckets
from airlock_local.choice import choose
from airlock_local.components import plan
from airlock_local.environment import airflow_variables, cli_variables, inherited, read_secrets
from airlock_local.stack import Stack
from tests.dicom_files import ct, study_uid
from tests.e2e.conftest import Machine, _instance, free_ports, imaging_pipeline, stopped_after, until
from tests.servers.postgres import USER, Postgres, found_programs, postgres_server, shipped_programs
from tests.servers.proxy import Proxy, proxies

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["postgres_server"]

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(3600)]

NIGHTLY, EVENING = "nightly", "evening"
STORES = {NIGHTLY: "4" * 32, EVENING: "5" * 32}
STAGING = "airlock-nightly-staging"
PATIENCE = 900.0


@dataclass
class Hospital:
    """A stack whose ledger is in PostgreSQL, the operator at its terminal, and what the destinations have got."""

    machine: Machine
    server: Postgres
    folder: Path
    address: str  # of the server, by TCP: Airflow's connections name a host
    database: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def shell(self, command: str, status: int = 0, **variables: str) -> str:
        """Run a command of a page as an operator does; show the command, its output and its time."""
        known = read_secrets(self.machine.settings)
        environment = inherited(self.machine.environment, account=False)
        environment |= airflow_variables(self.machine.settings, known) | cli_variables(self.machine.settings, known)
        programs = found_programs() or shipped_programs()
        environment["PATH"] = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment |= {"AIRLOCK_LEDGER_URL": f"{self.address}/{self.database}", **variables}
        began = time.monotonic()
        done = subprocess.run(
            command,
            shell=True,
            check=False,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        show(f"$ {command}\n{done.stdout.rstrip()}\n[{done.returncode}, {time.monotonic() - began:.0f} s]")
        assert done.returncode == status, done.stdout
        return done.stdout

    def start(self, dag: str, night: str, files: dict[str, bytes]) -> str:
        """Deliver a night's files and start its run, which looks at everything below the source."""
        self.machine.put(files, f"{dag}/{night}/")
        with self.machine.api() as api:
            return api.trigger(dag, {})

    def end(self, dag: str, run: str) -> str:
        """Return the state in which a run ends."""
        ended = {"success", "failed"}
        with self.machine.api() as api:
            return str(until("the run ends", lambda: (s := api.run_state(dag, run)) in ended and s, PATIENCE))

    def states(self, dag: str, run: str, task: str) -> set[str | None]:
        with self.machine.api() as api:
            return {one["state"] for one in api.task_instances(dag, run) if one["task_id"] == task}

    def mark_failed(self, dag: str, run: str) -> None:
        """Mark a running run as failed, as the button of Airflow's UI does, and wait until the scheduler has noticed.

        Airflow 3.3.2's scheduler ends if a run is deleted while it schedules this run.
        """
        with self.machine.api() as api:
            api._call("PATCH", _run(dag, run), json={"state": "failed"})
        marked = datetime.now(UTC)
        until("the scheduler has noticed", lambda: self._last_loop() > marked)

    def _last_loop(self) -> datetime:
        """Return when the scheduler has last ended a loop."""
        health = httpx.get(f"{self.machine.settings.api_url}/api/v2/monitor/health").json()
        return datetime.fromisoformat(health["scheduler"]["latest_scheduler_heartbeat"])

    def clear(self, dag: str, run: str, task: str) -> None:
        """Clear a task with its downstream, as the button of Airflow's UI does, and wait until its run goes on."""
        asked = {"dry_run": False, "dag_run_id": run, "task_ids": [task], "include_downstream": True}
        with self.machine.api() as api:
            api._call("POST", f"/api/v2/dags/{dag}/clearTaskInstances", json=asked | {"only_failed": False})
            until("the run goes on", lambda: api.run_state(dag, run) not in {"success", "failed"})

    def move_ledger(self, database: str) -> None:
        """Set Airflow's connection to another database."""
        self.database = database
        self.shell("airflow connections delete airlock_ledger")
        self.shell(f"airflow connections add airlock_ledger --conn-uri {self.address}/{database}")

    def health(self) -> Any:
        """Return a client of the local HealthImaging."""
        config = Config(inject_host_prefix=False)
        return boto3.client(
            "medical-imaging", endpoint_url=self.machine.settings.health_url, region_name="us-east-1", config=config
        )

    def jobs_under_way(self, dag: str) -> list[str]:
        jobs = self.health().list_dicom_import_jobs(datastoreId=STORES[dag])["jobSummaries"]
        return [one["jobId"] for one in jobs if one["jobStatus"] in {"SUBMITTED", "IN_PROGRESS"}]

    def read_queue(self) -> None:
        """Take the messages out of the queue."""
        sqs, url = self.machine.sqs(), f"{self.machine.settings.s3_url}/123456789012/sent"
        while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            for one in found:
                self.messages.append(json.loads(one["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])

    def stored(self, dag: str) -> dict[str, int]:
        """Return how many instances the data store has of each study, all of which have one series."""
        health, store, found = self.health(), STORES[dag], {}
        for page in health.get_paginator("search_image_sets").paginate(datastoreId=store, searchCriteria={}):
            for one in page["imageSetsMetadataSummaries"]:
                study = one["DICOMTags"]["DICOMStudyInstanceUID"]
                assert study not in found, "a second image set"
                answer = health.get_image_set_metadata(datastoreId=store, imageSetId=one["imageSetId"])
                metadata = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
                found[study] = sum(len(series["Instances"]) for series in metadata["Study"]["Series"].values())
        return found

    def check_once(self, dag: str, studies: dict[int, int]) -> None:
        """Check that the store and both destinations have each study once, with so many instances.

        Every revision of a study's contract is sent once, and the newest has all instances.
        """
        expected = {study_uid(study): number for study, number in studies.items()}
        assert self.stored(dag) == expected
        routed = sorted(self.machine.contracts(f"{dag}/"), key=lambda contract: contract["revision"])
        newest = {one["StudyInstanceUID"]: one["NumberOfStudyRelatedInstances"] for one in routed}
        assert newest == expected
        self.read_queue()
        sent = Counter((one["subject_key"], one["revision"]) for one in self.messages if one["pipeline"] == dag)
        assert set(sent.values()) == {1}, "no message comes twice"
        assert len(sent) == len(routed), "a message for each contract"


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Show how long a rehearsal took, from the operator's first step to the last run."""
    show(f"\n=== {what}")
    began = time.monotonic()
    yield
    show(f"=== {what}: {(time.monotonic() - began) / 60:.1f} minutes")


def _run(dag: str, run: str) -> str:
    return _instance(dag, run, "").removesuffix("/taskInstances/")


def write_pipelines(folder: Path, s3: int) -> None:
    """Write a pipeline that sends at once, and one whose releases settle for two minutes."""
    queue = {"queue_url": f"http://127.0.0.1:{s3}/123456789012/sent", "region_name": "us-east-1"}
    for name, minutes in {NIGHTLY: 0, EVENING: 2}.items():
        imaging_pipeline(
            folder,
            name,
            STORES[name][0],
            healthlake=None,
            receive={"quiet_seconds": 0},
            staging={"uri": f"s3://airlock-{name}-staging/batches/"},
            routes=[
                {"name": "contracts", "uri": f"s3://airlock-contracts/{name}/"},
                {"name": "queue", "sqs": queue},
            ],
            settle_minutes=minutes,
            retries=2,
        )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("recovery")
    (folder / "pipelines").mkdir()
    api, s3, health = free_ports(3)
    write_pipelines(folder / "pipelines", s3)
    database, airflow = postgres_server.create_database(), postgres_server.url(postgres_server.create_database())
    upgrade(postgres_server.url(database))
    with proxies(1) as (proxy,), stopped_after(folder, api, s3, health, AIRLOCK_METADATA_URL=airflow) as machine:
        proxy.target = f"{postgres_server.folder}/.s.PGSQL.5432"
        made = Hospital(machine, postgres_server, folder, address_of(proxy), database)
        start_stack(made)
        yield made


def address_of(proxy: Proxy) -> str:
    return f"postgresql://{USER}@127.0.0.1:{proxy.port}"


def start_stack(hospital: Hospital) -> None:
    """Start the stack, and switch the pipelines on with a ledger in PostgreSQL."""
    machine = hospital.machine
    choice = choose(machine.settings.pipelines, NIGHTLY, "", machine.environment)
    Stack(machine.settings).up(plan(machine.settings, machine.environment, choice.seeds(), local=True, account=False))
    make_buckets(local_client(machine.settings.s3_url), choice.buckets())
    machine.sqs().create_queue(QueueName="sent")
    hospital.shell(f"airflow connections add airlock_ledger --conn-uri {hospital.address}/{hospital.database}")
    with machine.api() as api:
        for pool in choice.pools(machine.settings.parallelism):
            api.make_pool(pool.name, pool.slots, pool.description)
        until("the DAGs are there", lambda: all(map(api.dag, STORES)))
        for dag in STORES:
            api.unpause(dag)


def test_a_red_night_is_cleared_after_two_later_nights(hospital: Hospital) -> None:
    s3 = hospital.machine.s3()
    s3.delete_bucket(Bucket=STAGING)
    red = hospital.start(NIGHTLY, "1", {"a1.dcm": ct(1, 1, 1), "a2.dcm": ct(1, 1, 2), "b1.dcm": ct(2, 1, 1)})
    assert hospital.end(NIGHTLY, red) == "failed"
    assert hospital.states(NIGHTLY, red, "stage") == {"failed"}
    s3.create_bucket(Bucket=STAGING)

    second = hospital.start(NIGHTLY, "2", {"a3.dcm": ct(1, 1, 3), "c1.dcm": ct(3, 1, 1)})
    assert hospital.end(NIGHTLY, second) == "success"
    assert hospital.machine.report(NIGHTLY, run_key(NIGHTLY, second))["reasons"].keys() == {"study_in_flight"}
    third = hospital.start(NIGHTLY, "3", {"d1.dcm": ct(4, 1, 1)})
    assert hospital.end(NIGHTLY, third) == "success"

    with timed("a red night is cleared after two later nights"):
        assert "job_not_started" in hospital.shell(f"airlock report nightly {run_key(NIGHTLY, red)}")
        hospital.shell("airlock held nightly")
        hospital.clear(NIGHTLY, red, "stage")
        assert hospital.end(NIGHTLY, red) == "success"
        hospital.shell(f"airlock report nightly {run_key(NIGHTLY, red)}")
        hospital.shell("airlock held nightly")
    hospital.check_once(NIGHTLY, {1: 3, 2: 1, 3: 1, 4: 1})
    assert [len(hospital.machine.jobs(run_key(NIGHTLY, run))) for run in (red, second, third)] == [1, 1, 1]


def test_a_ledger_is_restored_from_a_dump_of_the_day_before(hospital: Hospital) -> None:
    with timed("back up"):
        before = hospital.start(NIGHTLY, "4", {"e1.dcm": ct(5, 1, 1)})
        assert hospital.end(NIGHTLY, before) == "success"
        command = 'pg_dump --format=custom --no-owner --dbname="$LEDGER" --file=ledger.dump'
        hospital.shell(command, LEDGER=f"{hospital.address}/{hospital.database}")
    lost = hospital.start(NIGHTLY, "5", {"e2.dcm": ct(5, 1, 2), "f1.dcm": ct(6, 1, 1)})
    assert hospital.end(NIGHTLY, lost) == "success"
    hospital.machine.faults({"kind": "stuck_in_progress"})
    under_way = hospital.start(NIGHTLY, "6", {"g1.dcm": ct(7, 1, 1)})
    until("import waits", lambda: hospital.states(NIGHTLY, under_way, "import") == {"deferred"}, PATIENCE)
    hospital.server.drop_database(hospital.database)

    with timed("a ledger is restored from a dump of the day before"):
        hospital.shell("airflow dags pause nightly")
        hospital.mark_failed(NIGHTLY, under_way)
        with hospital.machine.api() as api:
            show(str({one["task_id"]: one["state"] for one in api.task_instances(NIGHTLY, under_way)}))
        hospital.machine.faults()
        until("the job has ended", lambda: not hospital.jobs_under_way(NIGHTLY))
        hospital.shell('createdb --maintenance-db="$SERVER" airlock_restored', SERVER=f"{hospital.address}/postgres")
        restore = 'pg_restore --exit-on-error --single-transaction --no-owner --dbname="$RESTORED" ledger.dump'
        hospital.shell(restore, RESTORED=f"{hospital.address}/airlock_restored")
        hospital.move_ledger("airlock_restored")
        hospital.shell("airlock ledger upgrade")
        hospital.shell("airlock ledger check")
        hospital.shell("airlock ledger rebuild --onto-backup")
        hospital.shell("airlock sweep nightly --dry-run")
        hospital.shell("airlock reconcile nightly")
        hospital.clear(NIGHTLY, under_way, "import")
        hospital.shell("airflow dags unpause nightly")
        assert hospital.end(NIGHTLY, under_way) == "success"

    after = hospital.start(NIGHTLY, "7", {"h1.dcm": ct(8, 1, 1)})
    assert hospital.end(NIGHTLY, after) == "success"
    assert hospital.machine.report(NIGHTLY, run_key(NIGHTLY, after))["arrivals"] == 1
    hospital.check_once(NIGHTLY, {1: 3, 2: 1, 3: 1, 4: 1, 5: 2, 6: 1, 7: 1, 8: 1})
    runs = before, lost, under_way, after
    assert [len(hospital.machine.jobs(run_key(NIGHTLY, run))) for run in runs] == [1, 1, 1, 1]


def test_a_run_is_deleted_after_its_audit(hospital: Hospital) -> None:
    deleted = hospital.start(EVENING, "1", {"a1.dcm": ct(21, 1, 1), "b1.dcm": ct(22, 1, 1)})
    until("the audit is done", lambda: hospital.states(EVENING, deleted, "audit") == {"success"}, PATIENCE)
    hospital.mark_failed(EVENING, deleted)  # Airflow deletes no run that is going on
    with hospital.machine.api() as api:
        api._call("DELETE", _run(EVENING, deleted))
        assert deleted not in {run["dag_run_id"] for run in api.runs(EVENING)}
    assert hospital.machine.contracts(f"{EVENING}/") == []

    with timed("a run is deleted after its audit"):
        hospital.shell(f"airlock report evening {run_key(EVENING, deleted)}")
        hospital.shell(f"airlock where {study_uid(21)}")
        after = hospital.start(EVENING, "2", {"c1.dcm": ct(23, 1, 1)})
        assert hospital.end(EVENING, after) == "success"
        hospital.shell(f"airlock where {study_uid(21)}")
    hospital.check_once(EVENING, {21: 1, 22: 1, 23: 1})
    assert [len(hospital.machine.jobs(run_key(EVENING, run))) for run in (deleted, after)] == [1, 1]


def test_a_ledger_is_lost_and_rebuilt(hospital: Hospital) -> None:
    cut, whole = ct(10, 1, 2)[:-100], {"j2.dcm": ct(10, 1, 2)}
    hospital.read_queue()
    hospital.machine.sqs().delete_queue(QueueUrl=f"{hospital.machine.settings.s3_url}/123456789012/sent")
    before = hospital.start(NIGHTLY, "8", {"i1.dcm": ct(9, 1, 1), "j1.dcm": ct(10, 1, 1), "j2.dcm": cut})
    assert hospital.end(NIGHTLY, before) in {"success", "failed"}
    hospital.machine.sqs().create_queue(QueueName="sent")
    held = hospital.shell("airlock held nightly")
    hospital.server.drop_database(hospital.database)

    with timed("a ledger is lost and rebuilt"):
        for dag in STORES:
            hospital.shell(f"airflow dags pause {dag}")
        hospital.shell('createdb --maintenance-db="$SERVER" airlock_rebuilt', SERVER=f"{hospital.address}/postgres")
        hospital.move_ledger("airlock_rebuilt")
        hospital.shell("airlock ledger upgrade")
        hospital.shell("airlock ledger rebuild")
        assert hospital.shell("airlock held nightly") == held
        hospital.shell("airlock sweep nightly --dry-run")
        hospital.shell("airlock reconcile nightly")
        for dag in STORES:
            hospital.shell(f"airflow dags unpause {dag}")
        hospital.machine.put(whole, f"{NIGHTLY}/8/")
        hospital.shell('airlock redrive nightly --reason truncated --why "the sender has replaced the file"')

    after = hospital.start(NIGHTLY, "9", {"k1.dcm": ct(11, 1, 1)})
    assert hospital.end(NIGHTLY, after) == "success"
    assert hospital.machine.report(NIGHTLY, run_key(NIGHTLY, after))["arrivals"] == 1
    studies = dict.fromkeys(range(1, 12), 1) | {1: 3, 5: 2, 10: 2}
    hospital.check_once(NIGHTLY, studies)
