"""Servers that are cut off in each stage, in mid-work too: nothing that Airflow keeps or sends names a patient.

Every key, folder, file name and value of the deliveries holds a canary (`tests.canaries`). Each stage of each kind of
pipeline runs once for each server that is cut off, and then as it should, so that the next one has its input. The table
of what was found where is printed (pytest -s).
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import psycopg2  # type: ignore[import-untyped]
import pytest
import yaml
from airflow.observability import stats as core_stats
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput
from airflow.sdk.observability import stats as task_stats
from sqlalchemy import insert, update
from typer.testing import CliRunner

from airlock.ledger import upgrade
from airlock.ledger.tables import run_totals, runs
from airlock.run import run_key
from airlock_cli.app import app
from airlock_tasks.brake import GO_ON, STOP
from localaws.server import serve
from localaws.settings import Seed
from tests import canaries
from tests import chain as chains
from tests.chain import (
    BUCKETS,
    DATASTORE,
    HEALTHLAKE,
    PROFILE,
    RECORDS,
    Chain,
    Place,
    ReviewChain,
    answer,
    answer_reviews,
    ccda_pipeline,
    clinical_pipeline,
    pipeline,
)
from tests.cut_off import ASKS, CUTS, NOTHING, STORED, address, connections, mail_text, routes
from tests.servers.moto import reset_moto
from tests.servers.postgres import USER, Postgres, postgres_server
from tests.servers.proxy import Proxy, proxies
from tests.servers.smtp import mail_server
from tests.servers.webhook import webhook_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow.sdk import BaseOperator

    from airlock.pipelines import Pipeline

    Moment = int | str

__all__ = ["postgres_server"]

pytestmark = pytest.mark.slow

PLACES = ("log", "traceback", "XCom", "rendered", "deferral", "state store", "question", "metric", "e-mail", "message")
# The tables of the ledger that a run and the redrive after it write, in all kinds and in each.
IN_ALL = {"words", "successors", "owed", "newest_contents", "releases", "run_totals"}
OF_IMAGES = {"verdicts", "in_flight", "folders", "instances"}
WRITTEN = {
    "imaging": IN_ALL | OF_IMAGES | {"resources"},
    "in-place": IN_ALL | OF_IMAGES,
    "clinical": IN_ALL | {"resources", "open_resources"},
    "ccda": IN_ALL | {"resources", "decisions"},
}
# When a server is cut off: before so many pieces of requests, or at the first request that names a patient.
MOMENTS: tuple[Moment, ...] = (0, canaries.CANARY, 1, 2, 3, 5, 8, 13)
AUDIT = {"manifest_wait_seconds": 1, "read_back_fraction": 1.0}


class Watched(Chain):
    """A chain that keeps what Airflow would store of its tasks besides XCom."""

    def task(self, operator: BaseOperator, index: int) -> Any:
        """Run one task; Airflow keeps its rendered fields as they are before."""
        assert not operator.overwrite_rtif_after_execution
        self.rendered.append({name: repr(getattr(operator, name, None)) for name in operator.template_fields})
        return super().task(operator, index)

    @property
    def rendered(self) -> list[dict[str, str]]:
        """Return the rendered fields of the tasks so far."""
        return self.__dict__.setdefault("_rendered", [])


@dataclass
class Scene:
    """The servers behind their proxies, and what was seen since `looked_at`."""

    place: Place
    cuts: dict[str, Proxy]
    log: pytest.LogCaptureFixture
    out: pytest.CaptureFixture[str]
    mails: list[Any]
    queue: str
    database: str
    deferrals: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    felt: Counter[tuple[str, str]] = field(default_factory=Counter)
    filled: set[str] = field(default_factory=set)  # places where there was something to look at
    written: set[str] = field(default_factory=set)  # tables of the ledger that had rows

    def show_impact(self, line: Pipeline, folder: Path) -> None:
        """Ask for the impact of a pipeline's rules as a person does, with each server cut off and then with none."""
        (folder / f"{line.name}.yaml").write_text(
            yaml.safe_dump(line.model_dump(mode="json", by_alias=True, exclude_unset=True))
        )
        aws = {"AWS_ENDPOINT_URL": self.cuts["S3"].url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
        for cut in (*STORED, NOTHING):
            with self.watched(f"{line.name} impact", cut), ExitStack() as restored:
                if cut != NOTHING:
                    self.cuts[cut].cut_after(0)
                    restored.callback(self.cuts[cut].restore)
                commands = CliRunner(env=aws | {"AIRLOCK_PIPELINES": str(folder)})
                shown = commands.invoke(app, ["plan", line.name, "--impact"])
                sys.stdout.write(f"{shown.output}{shown.exception!r}")
            assert (shown.exit_code == 0) == (cut == NOTHING), shown.output
        assert "would be held" in shown.output

    def notify(self) -> list[dict[str, Any]]:
        """Return who is told of a hold."""
        return [{"sqs": self.queue, "region_name": "us-east-1"}, {"email": ["night@example.org"]}]

    def afresh(self, run: Watched, stage: str) -> None:
        """Let every contract be sent, and every hold be told, as if none had been."""
        run.stores.clear()
        if stage != "route":
            return
        connection = psycopg2.connect(self.database)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE outbox SET state = 'pending', attempts = 0, next_attempt_at = queued_at, leased_until = NULL"
            )
        connection.close()

    def through(self, run: Watched, stage: str, servers: tuple[str, ...], moments: Iterable[Moment], row: str) -> None:
        """Run a stage once for each server that it asks, which is cut off at each moment, and then as it should be."""
        for moment in moments:
            for cut in servers:
                self.afresh(run, stage)
                self.cuts[cut].cut_at(moment) if isinstance(moment, str) else self.cuts[cut].cut_after(moment)
                with self.watched(row, cut, run):
                    run.stage(stage)
                self.felt[row, cut] += bool(self.cuts[cut].cuts)
                self.cuts[cut].restore()
        self.afresh(run, stage)
        before = {cut: proxy.passed for cut, proxy in self.cuts.items()}
        with self.watched(row, NOTHING, run):
            run.stage(stage)
        self.written |= set(self._list_filled_tables())
        assert {cut for cut, proxy in self.cuts.items() if proxy.passed > before[cut]} <= set(servers), row

    def _list_filled_tables(self) -> Iterator[str]:
        connection = psycopg2.connect(self.database)
        with connection.cursor() as cursor:
            for table in sorted(set().union(*WRITTEN.values())):
                cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")
                if cursor.fetchone() == (True,):
                    yield table
        connection.close()

    @contextmanager
    def watched(self, row: str, cut: str, run: Watched | None = None) -> Iterator[None]:
        """Look at all that was said and kept within the block; only with nothing cut off must it end well."""
        told = ""
        try:
            yield
        except AirflowSkipException:
            pass
        except TaskAwaitingInput as asked:
            self.deferrals.append(repr(asked.kwargs))  # Airflow keeps them with the task
        except Exception as error:  # noqa: BLE001  (whatever a task ends with, its log has it)
            told = "".join(traceback.format_exception(error))
            assert cut != NOTHING, told
        exchanged = [run.xcom, run.stores, run.rendered] if run else [{}, {}, []]
        out, err = self.out.readouterr()
        seen = {
            "log": self.log.text + out + err,
            "traceback": told,
            "XCom": repr(exchanged[0]),
            "rendered": repr(exchanged[2]),
            "deferral": repr(self.deferrals),
            "state store": repr(exchanged[1]),
            "question": repr(self.questions),
            "metric": repr(self.metrics),
            "e-mail": "".join(map(mail_text, self.mails)),
            "message": repr(self.messages()),
        }
        assert seen.keys() == set(PLACES)
        self.filled |= {place for place, text in seen.items() if text not in {"", "[]", "{}"}}
        for place, text in seen.items():
            self.found[row, cut, place] += sum(text.lower().count(name) for name in canaries.NAMES)
        for kept in (self.deferrals, self.questions, self.metrics, self.mails):
            kept.clear()
        self.log.clear()

    def messages(self) -> list[str]:
        """Take what lies in the queue."""
        sqs = boto3.client("sqs", endpoint_url=self.place.s3_endpoint, region_name="us-east-1")
        found = sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
        for one in found:
            sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])
        return [one["Body"] for one in found]

    def table(self) -> str:
        """Return what was found, by stage and by what was cut off; in brackets how often the stage ran into it."""
        rows = list(dict.fromkeys(row for row, _, _ in self.found))
        heads = (*CUTS, NOTHING)
        lines = [f"{'names found (times cut off)':34}" + "".join(f"{head:>15}" for head in heads)]
        for row in rows:
            cells = [sum(self.found[row, cut, place] for place in PLACES) for cut in heads]
            felt = [f"({self.felt[row, cut]})" if cut in CUTS else "" for cut in heads]
            lines.append(
                f"{row:34}" + "".join(f"{cell:>11} {times:3}" for cell, times in zip(cells, felt, strict=True))
            )
        lines += ["", f"{'names found, by place':34}" + "".join(f"{head:>15}" for head in heads)]
        for place in PLACES:
            cells = [sum(self.found[row, cut, place] for row in rows) for cut in heads]
            lines.append(f"{place:34}" + "".join(f"{cell:>11}    " for cell in cells))
        return "\n".join(lines)


class _Recorder:
    """A backend of Airflow's metrics that keeps their names and tags."""

    def __init__(self, kept: list[str]) -> None:
        self._kept = kept

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._kept.append(f"{kind} {args} {kwargs}")


@pytest.fixture
def scene(
    s3_endpoint: str,
    postgres_server: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Scene]:
    reset_moto(s3_endpoint)
    name = postgres_server.create_database()
    database = postgres_server.url(name)
    upgrade(database)
    seeds = {
        "datastore": (Seed(DATASTORE, "test"),),
        "healthlake_datastore": (Seed(RECORDS, "test"),),
        "transformation_profile": (Seed(PROFILE, "test"),),
    }
    with proxies(len(CUTS)) as made, mail_server() as mail, webhook_endpoint() as hook:
        cuts = dict(zip(CUTS, made, strict=True))
        fhir = cuts["FHIR REST"].url
        with serve(s3_endpoint=s3_endpoint, submitted_seconds=0.0, public_url=fhir, **seeds) as emulator:
            aws, health = address(s3_endpoint), address(emulator)
            targets = (
                aws,
                aws,
                health,
                health,
                health,
                ("127.0.0.1", hook.port),
                f"{postgres_server.folder}/.s.PGSQL.5432",
            )
            for proxy, target in zip(made, targets, strict=True):
                proxy.target = target
            made_connections = connections(cuts, mail.port)
            made_connections["AWS_DEFAULT"] = made_connections["CUT"]
            for connection, content in made_connections.items():
                monkeypatch.setenv(f"AIRFLOW_CONN_{connection}", json.dumps(content))
            url = f"postgresql://{USER}@127.0.0.1:{cuts['ledger'].port}/{name}"
            monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
            place = Place(s3_endpoint, emulator, database)
            for bucket in BUCKETS:
                place.s3().create_bucket(Bucket=bucket)
            sqs = boto3.client("sqs", endpoint_url=s3_endpoint, region_name="us-east-1")
            queue = sqs.create_queue(QueueName="news")["QueueUrl"].replace(s3_endpoint, cuts["SQS"].url)
            made_scene = Scene(place, cuts, caplog, capfd, mail.messages, queue, database.replace("+psycopg2", ""))
            _watch(made_scene, monkeypatch)
            yield made_scene


def _watch(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what goes to Airflow's triggers, questions and metrics, and let the FHIR client not pause."""
    first_event = chains._first_event

    async def deferred(trigger: Any) -> Any:
        scene.deferrals.append(repr(trigger.serialize()))
        return await first_event(trigger)

    monkeypatch.setattr(chains, "_first_event", deferred)
    upsert = "airlock_tasks.questions.upsert_hitl_detail"
    monkeypatch.setattr(upsert, lambda **question: scene.questions.append(repr(question)))
    monkeypatch.setattr("healthaws.fhir.time", SimpleNamespace(sleep=lambda _: None))
    for stats in (core_stats, task_stats):
        stats.initialize(factory=lambda: _Recorder(scene.metrics), export_legacy_names=False)  # type: ignore[arg-type, return-value]
    scene.log.set_level(logging.DEBUG)
    logging.getLogger("localaws").setLevel(logging.WARNING)


def pipelines(scene: Scene) -> dict[str, tuple[Pipeline, dict[str, bytes]]]:
    """Return a pipeline of each kind, and its delivery."""
    both: dict[str, Any] = {"notify": scene.notify(), "routes": routes(scene.queue, uri="s3://contracts/all/")}
    source = {"uri": "s3://archive/{}/"}
    named = {
        kind: {"source": {"uri": source["uri"].format(kind), "order": {"across_keys": "last_modified"}}} | both
        for kind in ASKS
    }
    parse = {"retries": 0, "request_timeout_seconds": 10}
    return {
        "imaging": (
            pipeline("imaging", parse=parse, healthlake=HEALTHLAKE, audit=AUDIT, **named["imaging"]),
            canaries.images(),
        ),
        "in-place": (
            pipeline(
                "in-place",
                parse=parse,
                audit=AUDIT,
                staging={"uri": "s3://staging/batches/", "mode": "in_place"},
                limits={"files_per_job": 2},
                **named["in-place"],
            ),
            canaries.images(),
        ),
        "clinical": (
            clinical_pipeline(
                "clinical", audit={"manifest_wait_seconds": 1, "hold_incomplete_patients": True}, **named["clinical"]
            ),
            canaries.records(),
        ),
        "ccda": (
            ccda_pipeline("ccda", audit={"manifest_wait_seconds": 1}, **named["ccda"]),
            canaries.documents(),
        ),
    }


def cut_everywhere(scene: Scene, kind: str, moments: Iterable[Moment], last: str = "") -> None:
    """Take a run through its stages, and what it held through those of a redrive, with each server cut off in turn."""
    made, files = pipelines(scene)[kind]
    scene.place.put(files | {canaries.GONE: b"gone"}, prefix=f"{kind}/")
    prefix = {"prefix": f"s3://archive/{kind}/{canaries.FOLDER}/"}
    run = Watched(scene.place, made, run_id="manual__1", params=prefix, tries=1)
    for stage, servers in ASKS[kind].items():
        if stage == "route" and answer_reviews(scene.place, made, why="they were compared"):
            ReviewChain(scene.place, made).until("release")
        scene.through(run, stage, servers, moments, f"{kind} {stage}")
        if stage == "buffer":
            scene.place.s3().delete_object(Bucket="archive", Key=f"{kind}/{canaries.GONE}")
        if stage == "validate":
            with TemporaryDirectory() as folder:
                scene.show_impact(made, Path(folder))
        if stage == last:
            return
    scene.place.put(canaries.replaced(files), prefix=f"{kind}/")
    said = {"redrive_why": f"{canaries.CANARY} is cured", "redrive_by": canaries.CANARY}  # a person may write a name
    again = Watched(scene.place, made, run_id="manual__2", params={"redrive_run": "manual__1"} | said, tries=1)
    for stage in ("receive", "buffer", "parse"):
        unasked = {"S3", "FHIR REST"} if stage == "receive" else set()  # the data store is known
        servers = tuple(server for server in ASKS[kind][stage] if server not in unasked)
        scene.through(again, stage, servers, moments, f"{kind} redrive: {stage}")


@pytest.mark.parametrize(
    ("kind", "last"), [("imaging", "stage"), ("in-place", "import"), ("clinical", ""), ("ccda", "normalize")]
)
def test_no_name_is_seen_when_a_server_is_cut_off_at_a_name(scene: Scene, kind: str, last: str) -> None:
    cut_everywhere(scene, kind, [canaries.CANARY], last)
    assert +scene.found == Counter(), scene.table()
    assert all(scene.felt[f"{kind} {stage}", "S3"] for stage in ("receive", "buffer", "parse"))


@pytest.mark.proof
@pytest.mark.parametrize("kind", ASKS)
def test_no_name_is_seen_whatever_is_cut_off_when(scene: Scene, kind: str) -> None:
    cut_everywhere(scene, kind, MOMENTS)
    sys.stdout.write(f"\n{scene.table()}\n")
    assert +scene.found == Counter(), scene.table()
    assert [where for where, times in scene.felt.items() if not times] == []
    assert scene.filled >= set(PLACES) - {"question"}
    assert scene.written >= WRITTEN[kind]


def keep_nights(scene: Scene, name: str) -> None:
    """Give a pipeline five nights without a bad file: its source, which is one site, then has a median."""
    with scene.place.ledger() as ledger:
        for night in range(1, 6):
            key = run_key(name, f"night-{night}")
            ledger.open_run(key, name, f"night-{night}", None)
            earlier = datetime.now(UTC) - timedelta(days=night)
            total = {"run_key": key, "pipeline": name, "site": "", "disposition": "released"}
            with ledger._writing("test") as connection:
                connection.execute(update(runs).where(runs.c.run_key == key).values(started_at=earlier))
                connection.execute(
                    insert(run_totals).values(total | {"arrivals": 100, "bytes": 1, "said_by": key, "said_at": earlier})
                )


def braked(scene: Scene, kind: str) -> Watched:
    """Deliver much that cannot be read to a pipeline that asks people about it; its folder is named like a patient."""
    limits = {"least_arrivals": 10, "unread": 0.3, "one_reason": 1}
    name = f"braked-{kind}"
    settings: dict[str, Any] = {
        "source": {"uri": f"s3://archive/{name}/", "order": {"across_keys": "last_modified"}},
        "audit": {"manifest_wait_seconds": 1, "brake": limits},
        "notify": scene.notify(),
    }
    if kind == "imaging":
        keep_nights(scene, name)
        made: Pipeline = pipeline(name, **settings)
    else:
        made = clinical_pipeline(name, **settings)
    scene.place.put(canaries.absurd(kind), prefix=f"{name}/")
    return Watched(scene.place, made, run_id="manual__1", tries=1)


@pytest.mark.parametrize("kind", ["imaging", "clinical"])
def test_no_name_is_seen_when_the_brake_asks_and_is_answered_with_one(scene: Scene, kind: str) -> None:
    """A person may write a name into the form."""
    run = braked(scene, kind)
    for stage in ("receive", "buffer", "parse"):
        run.stage(stage)
    with scene.watched(f"{kind} validate asks", NOTHING, run):
        run.stage("validate")
    assert scene.filled >= {"question", "deferral", "e-mail", "message"}
    assert +scene.found == Counter(), scene.table()
    for row, choice, why in (("is refused", GO_ON, None), ("stops", STOP, canaries.CANARY)):
        run.answer = answer(choice, why)
        with scene.watched(f"{kind} validate {row}", "webhook", run):
            run.stage("validate")
    run.answer = None
    with scene.watched(f"{kind} audit of a stopped run", "webhook", run):
        run.stage("audit")
    run.answer = answer(GO_ON, canaries.CANARY)
    staging = ("stage",) if kind == "imaging" else ()
    for stage in ("validate", "normalize", *staging, "import", "audit", "route"):
        with scene.watched(f"{kind} goes on, {stage}", NOTHING, run):
            run.stage(stage)
    assert +scene.found == Counter(), scene.table()
    measure = "unread:" if kind == "imaging" else "unread"  # of a site, where nights are known
    with scene.place.ledger() as ledger:
        last = ledger.last_brake_answer(run_key(run.pipeline.name, run.run_id), "import", measure)
    assert last is not None
    assert (last.go_on, last.why) == (True, canaries.CANARY)
