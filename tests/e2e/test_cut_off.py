"""Servers cut off in each stage on the real scheduler: no name in any log, nor in what Airflow keeps or sends.

Runs of the three kinds of pipelines over deliveries of canaries (`tests.canaries`) end as they should. Then each task
is cleared and runs again for each server that it asks, cut off at its first request, and so are runs that begin.
The table of what was found where is printed (pytest -s).
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock.ledger import Ledger, SignOff, upgrade
from airlock.pipelines import CcdaPipeline, load_pipeline
from airlock_cli.airflow_api import ApiUnreachableError
from tests import canaries
from tests.cut_off import ASKS, CUTS, NOTHING, connections, mail_text, routes
from tests.dicom_files import ct
from tests.e2e.conftest import Machine, _pipeline, free_ports, imaging_pipeline, stopped_after, until
from tests.servers.postgres import USER, Postgres, postgres_server
from tests.servers.proxy import Proxy, proxies
from tests.servers.smtp import mail_server
from tests.servers.webhook import webhook_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["postgres_server"]

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(3600)]

ENDED = {"success", "failed", "skipped", "upstream_failed", "awaiting_input", "removed"}
# Where a table of Airflow's database belongs; whatever has no place here is "rest of the database".
TABLES = {
    "xcom": "XCom",
    "rendered_task_instance_fields": "rendered fields",
    "task_instance_note": "notes",
    "dag_run_note": "notes",
    "trigger": "deferrals",
    "hitl_detail": "questions",
    "hitl_detail_history": "questions",
}
REST = "rest of the database"
PLACES = ("logs", *dict.fromkeys(TABLES.values()), REST, "metrics", "e-mails", "notifications")


@dataclass
class Scene:
    """The stack behind its proxies, and what was found in it."""

    machine: Machine
    cuts: dict[str, Proxy]
    mails: list[Any]
    metrics: list[Any]
    queue: str
    runs: dict[str, str] = field(default_factory=dict)
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    felt: dict[tuple[str, str], str] = field(default_factory=dict)
    before: Counter[str] = field(default_factory=Counter)
    read: dict[Path, int] = field(default_factory=dict)

    def look(self, row: str, cut: str) -> None:
        """Count the names that have come since the last look."""
        now = Counter(
            {
                "logs": self._in_logs(),
                "metrics": _names(self.metrics),
                "e-mails": _names(list(map(mail_text, self.mails))),
            }
        )
        now["notifications"] = self.before["notifications"] + _names(self._messages())
        for place, text in self._database():
            now[place] += _names(text)
        for place in PLACES:
            self.found[row, cut, place] += max(0, now[place] - self.before[place])
        self.before = now
        sys.stdout.write(f"{row}, {cut} cut off: {self._cell(row, cut)} names\n")  # it takes half an hour
        sys.stdout.flush()

    def _in_logs(self) -> int:
        found = self.before["logs"]
        for path in self.machine.settings.var.rglob("*.log"):
            with path.open("rb") as file:
                file.seek(self.read.get(path, 0))
                text = file.read()
            self.read[path] = self.read.get(path, 0) + len(text)
            found += _names(text.decode(errors="replace"))
        return found

    def _database(self) -> Iterator[tuple[str, str]]:
        file = self.machine.settings.airflow_home / "airflow.db"
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = database.execute(f'SELECT * FROM "{table}"').fetchall()
                yield TABLES.get(table, REST), repr(rows)

    def _messages(self) -> list[str]:
        found = self.machine.sqs().receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
        for one in found:
            self.machine.sqs().delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])
        return [one["Body"] for one in found]

    def start(self, kind: str) -> str:
        """Start a run over all that was delivered."""
        with self.machine.api() as api:
            until("the DAG is there", lambda: api.dag(kind))
            api.unpause(kind)
            return api.trigger(kind, {})

    def end(self, kind: str, run: str) -> str:
        """Wait until a run has ended, or asks a person."""

        def over() -> str | None:
            with self.machine.api() as api:
                if (state := api.run_state(kind, run)) in {"success", "failed"}:
                    return state
                waits = {task["state"] for task in api.task_instances(kind, run)}
                return "awaiting_input" if "awaiting_input" in waits else None

        return str(until(f"a run of {kind} ends", over, 600))

    def clear(self, kinds: list[str], stage: str) -> None:
        """Let a task of the kinds' runs run again, by itself, and wait until it has."""
        for kind in kinds:
            until(f"Airflow clears {stage} of {kind}", lambda kind=kind: self._is_cleared(kind, stage))
        for kind in kinds:
            until(f"{stage} of {kind} ends", lambda kind=kind: self._states(kind, stage) <= ENDED, 600)
            self.end(kind, self.runs[kind])

    def _is_cleared(self, kind: str, stage: str) -> bool:
        """Clear a task; False where Airflow's SQLite was locked by its scheduler, and a person would click again."""
        asked = {"dry_run": False, "task_ids": [stage], "only_failed": False, "dag_run_id": self.runs[kind]}
        with self.machine.api() as api:
            try:
                api._call("POST", f"/api/v2/dags/{kind}/clearTaskInstances", json=asked)
            except ApiUnreachableError as error:
                if "Database error" in str(error):
                    return False
                raise
        return True

    def _states(self, kind: str, stage: str) -> set[str | None]:
        with self.machine.api() as api:
            tasks = api.task_instances(kind, self.runs[kind])
        return {task["state"] for task in tasks if task["task_id"] == stage}

    def table(self) -> str:
        """Return what was found by stage and server, and by place and server."""
        rows = list(dict.fromkeys(row for row, _, _ in self.found))
        heads = (*CUTS, "nothing")
        lines = [f"{'names found (* the server was missed)':40}" + "".join(f"{head:>15}" for head in heads)]
        for row in rows:
            cells = [self._cell(row, cut) for cut in heads]
            lines.append(f"{row:40}" + "".join(f"{cell:>15}" for cell in cells))
        lines += ["", f"{'names found, by place':40}" + "".join(f"{head:>15}" for head in heads)]
        for place in PLACES:
            cells = [str(sum(self.found[row, cut, place] for row in rows)) for cut in heads]
            lines.append(f"{place:40}" + "".join(f"{cell:>15}" for cell in cells))
        return "\n".join(lines)

    def _cell(self, row: str, cut: str) -> str:
        looked = [(place, self.found[row, cut, place]) for place in PLACES if (row, cut, place) in self.found]
        return f"{sum(number for _, number in looked)}{self.felt.get((row, cut), '')}" if looked else "-"


def _names(what: object) -> int:
    text = str(what).lower()
    return sum(text.count(name) for name in canaries.NAMES)


def cut_pipelines(folder: Path, queue: str) -> None:
    """Write a pipeline of each kind whose servers lie behind the proxies, and one like it that is seeded."""
    imaging_pipeline(folder, "plain-imaging", "1")
    imaging_pipeline(folder, "imaging", "1")
    in_place = {"staging": {"mode": "in_place"}, "limits": {"files_per_job": 2}}
    imaging_pipeline(folder, "in-place", "8", healthlake=None, **in_place)
    imaging_pipeline(folder, "plain-in-place", "8", healthlake=None)
    for kind in ("clinical", "ccda"):
        _pipeline(folder, kind, f"plain-{kind}")
        _pipeline(folder, kind, kind)
    for kind in ASKS:
        file = folder / f"{kind}.yaml"
        content = yaml.safe_load(file.read_text())
        for section in ("source", "healthimaging", "healthlake"):
            if content.get(section):
                content[section]["aws_conn_id"] = "cut"
        content["receive"]["quiet_seconds"] = 0
        content["retries"], content["retry_delay_seconds"] = 2, 0
        content["routes"] = routes(queue, uri=content["routes"][0]["uri"], aws_conn_id="cut")
        told = {"on": ["hold", "failure"]}
        sqs = {"sqs": queue, "region_name": "us-east-1", "conn_id": "cut"}
        content["notify"] = [sqs | told, {"email": ["night@example.org"]} | told]
        file.write_text(yaml.safe_dump(content))


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("cut-off")
    (folder / "pipelines").mkdir()
    api, s3, health = free_ports(3)
    name = postgres_server.create_database()
    upgrade(postgres_server.url(name))
    with ExitStack() as stack:
        made = stack.enter_context(proxies(len(CUTS)))
        mail, hook = stack.enter_context(mail_server()), stack.enter_context(webhook_endpoint())
        collector = stack.enter_context(webhook_endpoint())
        cuts = dict(zip(CUTS, made, strict=True))
        aws, ai = ("127.0.0.1", s3), ("127.0.0.1", health)
        for proxy, target in zip(made, (aws, aws, ai, ai, ai, ("127.0.0.1", hook.port), ""), strict=True):
            proxy.target = target or f"{postgres_server.folder}/.s.PGSQL.5432"
        queue = f"{cuts['SQS'].url}/123456789012/news"
        cut_pipelines(folder / "pipelines", queue)
        ledger = f"postgresql://{USER}@127.0.0.1:{cuts['ledger'].port}/{name}"
        more = {f"AIRFLOW_CONN_{known}": json.dumps(each) for known, each in connections(cuts, mail.port).items()}
        more |= {"AIRFLOW_CONN_AIRLOCK_LEDGER": ledger, "LOCALAWS_PUBLIC_URL": cuts["FHIR REST"].url}
        machine = stack.enter_context(stopped_after(folder, api, s3, health, **more))
        home = machine.settings.airflow_home
        home.mkdir(parents=True)
        otel = f"otel_on = True\notel_host = 127.0.0.1\notel_port = {collector.port}\notel_interval_milliseconds = 2000"
        (home / "airflow.cfg").write_text(f"[metrics]\n{otel}\n")
        first = folder / "first"
        first.mkdir()
        (first / "1.dcm").write_bytes(ct(9, 1, 1))
        started = machine.make_run(first, "plain-imaging")
        assert started.returncode == 0, started.stdout + started.stderr
        converting = load_pipeline(folder / "pipelines" / "ccda.yaml")
        assert isinstance(converting, CcdaPipeline)
        version = converting.transformation.profile_id, converting.transformation.profile_version
        with Ledger.open(postgres_server.url(name)) as opened:
            opened.sign_off(
                "ccda", SignOff(*version, "two documents", 1.0, "a clinician", "compared", datetime.now(UTC))
            )
        machine.sqs().create_queue(QueueName="news")
        yield Scene(machine, cuts, mail.messages, collector.requests, f"{machine.settings.s3_url}/123456789012/news")


def deliver(scene: Scene) -> None:
    """Deliver to each kind, and bring a run of each to its end."""
    images, records, documents = canaries.images(), canaries.records(), canaries.documents()
    for kind, files in {"imaging": images, "in-place": images, "clinical": records, "ccda": documents}.items():
        scene.machine.put(files, f"{kind}/")
        scene.runs[kind] = scene.start(kind)
    for kind, run in scene.runs.items():
        assert scene.end(kind, run) == "success", kind
    (asked,) = scene.machine.reviews("ccda")
    scene.machine.approve("ccda", asked["number"], "they were compared")
    scene.look("whole runs", NOTHING)


def test_no_name_is_seen_whatever_is_cut_off_when(scene: Scene) -> None:
    deliver(scene)
    for server in ("S3", "ledger", "HealthLake"):
        scene.cuts[server].cut_after(0)
        asking = [kind for kind, asks in ASKS.items() if any(server in servers for servers in asks.values())]
        for kind, run in {kind: scene.start(kind) for kind in asking}.items():
            assert scene.end(kind, run) == "failed"
        scene.cuts[server].restore()
        scene.look("runs that begin", server)
    for stage in dict.fromkeys(stage for stages in zip_longest(*ASKS.values()) for stage in stages if stage):
        asked = {kind: asks[stage] for kind, asks in ASKS.items() if stage in asks}
        for server in dict.fromkeys(server for servers in asked.values() for server in servers):
            scene.cuts[server].cut_after(0)
            scene.clear([kind for kind, servers in asked.items() if server in servers], stage)
            scene.felt[stage, server] = "" if scene.cuts[server].cuts else "*"
            scene.cuts[server].restore()
            scene.look(stage, server)
        scene.clear(list(asked), stage)
        scene.look(stage, NOTHING)
    sys.stdout.write(f"\n{scene.table()}\n")
    assert scene.metrics
    assert scene.mails
    assert +scene.found == Counter(), scene.table()
