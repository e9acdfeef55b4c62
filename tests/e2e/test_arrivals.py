"""Runs that wake by themselves, on Airflow's own scheduler and triggerer: each object once, whatever the queue said."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import polars as pl
import pytest
from sqlalchemy import create_engine, select

from airlock.ledger import Ledger
from airlock.ledger.tables import outbox
from airlock.run import run_key
from airlock_cli.airflow_api import ApiUnreachableError
from airlock_local.progress import say
from tests.dicom_files import ct
from tests.e2e.conftest import until
from tests.ledger_rows import read_dispositions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from airlock.pipelines import Arrivals
    from airlock_cli.airflow_api import AirflowApi
    from tests.e2e.conftest import Machine

pytestmark = pytest.mark.slow

BURSTS, BURST, STUDIES = 10, 1_000, 100
PATIENCE = 900.0
_ENDED = frozenset({"success", "failed"})
_STATES = _ENDED | {"queued", "running"}


def runs(machine: Machine, dag: str) -> list[dict[str, Any]]:
    with machine.api() as api:
        return api.runs(dag)


def unpause(machine: Machine, dag: str) -> None:
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(dag))
        api.unpause(dag)


def ended(machine: Machine, dag: str) -> list[dict[str, Any]]:
    """Return a DAG's runs when none is under way."""
    found = runs(machine, dag)
    return found if found and all(run["state"] in _ENDED for run in found) else []


def in_queue(machine: Machine, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    said = machine.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(map(int, said.values()))


def dispositions(machine: Machine, dag: str, states: Collection[str] = _STATES) -> pl.DataFrame:
    """Return the final words of the runs of a pipeline that are in some states, one row per arrival."""
    keys = [run_key(dag, run["dag_run_id"]) for run in runs(machine, dag) if run["state"] in states]
    with Ledger.open(machine.settings.ledger_url) as ledger:
        return pl.concat([read_dispositions(ledger, dag, key) for key in keys])


def routed(machine: Machine, dag: str) -> dict[str, list[int]]:
    """Return the revisions that a pipeline's outbox has sent, by subject; each content of a subject is there once."""
    engine = create_engine(machine.settings.ledger_url)
    with engine.connect() as connection:
        rows = connection.execute(select(outbox).where(outbox.c.pipeline == dag)).all()
    engine.dispose()
    assert {row.state for row in rows} == {"sent"}
    contents = Counter((row.destination, row.subject_key, row.content_digest) for row in rows)
    assert max(contents.values()) == 1
    revisions: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        revisions[row.subject_key].append(row.revision)
    return {subject: sorted(numbers) for subject, numbers in revisions.items()}


def contracts(machine: Machine, store: str) -> dict[str, list[int]]:
    """Return the revisions that lie at the S3 destination, by study."""
    pages = machine.s3().get_paginator("list_objects_v2")
    found: dict[str, list[int]] = defaultdict(list)
    for page in pages.paginate(Bucket="airlock-contracts", Prefix=f"studies/{store * 32}/"):
        for item in page.get("Contents", ()):
            study, name = item["Key"].split("/")[-2:]
            found[study].append(int(name.removeprefix("revision-").removesuffix(".json")))
    return {study: sorted(numbers) for study, numbers in found.items()}


def instances(machine: Machine, store: str, study: str, revision: int) -> int:
    """Return how many instances a routed contract names."""
    key = f"studies/{store * 32}/{study}/revision-{revision:06}.json"
    body = machine.s3().get_object(Bucket="airlock-contracts", Key=key)["Body"].read()
    return int(json.loads(body)["NumberOfStudyRelatedInstances"])


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("first_run")
def test_objects_wake_a_run_that_nobody_started_and_the_queue_ends_empty(machine: Machine) -> None:
    settings = machine.arrivals("arriving")
    machine.sqs().send_message(QueueUrl=settings.queue_url, MessageBody="no notification")
    machine.put({f"a b+{n}.dcm": ct(700, 1, n) for n in range(3)}, "arriving/")
    unpause(machine, "arriving")

    (run,) = until("a run wakes and ends", lambda: ended(machine, "arriving"))
    assert (run["run_type"], run["state"]) == ("asset_triggered", "success")
    report = machine.report("arriving", run_key("arriving", run["dag_run_id"]))
    assert (report["balanced"], report["dispositions"], report["window"]) == (True, {"released": 3}, None)
    until("the messages are deleted", lambda: in_queue(machine, settings.queue_url) == 0)
    assert in_queue(machine, settings.dead_letter_queue_url or "") == 1
    log = (machine.settings.var / "log/triggerer.log").read_text()
    assert "airlock_tasks.arrivals" in log
    assert not any(key in log for key in ("a b+", "a+b%2B", "a%20b%2B"))


def taken(api: AirflowApi, asset: int) -> bool:
    """Say whether Airflow took an event: its SQLite refuses one while another process writes for five seconds."""
    try:
        api._call("POST", "/api/v2/assets/events", json={"asset_id": asset, "extra": {}})
    except ApiUnreachableError:
        return False
    return True


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("first_run")
def test_events_of_one_moment_strand_no_object(machine: Machine) -> None:
    """Airflow 3.3.2 can hide the second of two events from its run; the run lists S3 after both, and takes both in."""
    machine.arrivals("arriving")
    machine.s3().put_bucket_notification_configuration(Bucket="airlock-archive", NotificationConfiguration={})
    unpause(machine, "arriving")
    with machine.api() as api:
        named = {"name_pattern": "airlock-arriving-arrivals"}
        (asset,) = until("the asset", lambda: api._call("GET", "/api/v2/assets", params=named)["assets"])
        for moment in range(4):
            for number in range(2):
                machine.put({f"{moment}-{number}.dcm": ct(800 + moment, 1, number)}, "arriving/stranded/")
                until("Airflow takes the event", lambda: taken(api, asset["id"]))
            until("runs end", lambda: ended(machine, "arriving"))
            wanted = {f"arriving/stranded/{moment}-{number}.dcm" for number in range(2)}
            until("both are taken", lambda wanted=wanted: wanted <= set(dispositions(machine, "arriving")["key"]))


class Teller:
    """Tells the queue of objects as badly as it can: some twice, some never, late, out of order, and nonsense between.

    Parameters
    ----------
    machine, settings
        The stack and the queue.
    """

    def __init__(self, machine: Machine, settings: Arrivals) -> None:
        self.sqs = machine.sqs()
        self.url = settings.queue_url
        self.random = random.Random(20261126)
        self.late: list[str] = []
        self.nonsense = 0

    def tell(self, keys: Sequence[str]) -> None:
        told = [key for key in keys if self.random.random() > 0.3]  # the others are dropped
        twice = self.random.sample(told, len(told) // 5)
        bodies = [self._body(key) for key in (*told, *twice)] + self.late
        self.random.shuffle(bodies)
        bodies, self.late = bodies[:-50], bodies[-50:]
        nonsense = [self.random.choice(("", "{", "[]", '{"Records": [{}]}')) + " " for _ in range(20)]
        self.nonsense += len(nonsense)
        self._send([*bodies, *nonsense])

    def _body(self, key: str) -> str:
        if self.random.random() < 0.5:
            place = {"bucket": {"name": "airlock-archive"}, "object": {"key": quote_plus(key)}}
            return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": place}]})
        detail = {"bucket": {"name": "airlock-archive"}, "object": {"key": key}}
        return json.dumps({"source": "aws.s3", "detail-type": "Object Created", "detail": detail})

    def _send(self, bodies: list[str]) -> None:
        for first in range(0, len(bodies), 10):
            some = bodies[first : first + 10]
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(some)]
            assert not self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")


def deliver(machine: Machine, numbers: Iterable[int]) -> list[str]:
    """Put instances, each study's spread over all bursts, and return their keys."""
    client = machine.s3()

    def put(number: int) -> str:
        study, instance = 1000 + number % STUDIES, number // STUDIES
        key = f"bursts/{study} x+{instance}.dcm"
        client.put_object(Bucket="airlock-archive", Key=key, Body=ct(study, 1, instance))
        return key

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(put, numbers))


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("first_run")
def test_ten_thousand_objects_in_bursts_while_everything_is_killed_twice(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropped, doubled, late, shuffled and malformed notifications; nightly runs every minute beside the woken ones."""
    settings = machine.arrivals("bursts")
    configuration: dict[str, Any] = {}
    machine.s3().put_bucket_notification_configuration(
        Bucket="airlock-archive", NotificationConfiguration=configuration
    )  # the teller tells instead
    unpause(machine, "bursts")
    teller, keys = Teller(machine, settings), []
    for burst in range(BURSTS):
        put = deliver(machine, range(burst * BURST, (burst + 1) * BURST))
        keys += put
        teller.tell(put)
        if burst in {2, 6}:
            until("a task was killed", machine.kill_task, PATIENCE)
            machine.kill("triggerer")
            machine.restart()

    # Nightly runs never cease, and a DAG that is paused ends none: those that took files have to end.
    until("every object's run ends", lambda: dispositions(machine, "bursts", _ENDED).height >= len(keys), PATIENCE)
    with machine.api() as api:
        api._call("PATCH", "/api/v2/dags/bursts", json={"is_paused": True})

    words = dispositions(machine, "bursts")
    assert words.height == words["arrival_id"].n_unique() == len(keys)
    assert sorted(words["key"]) == sorted(keys)
    # A run that ends while another one brings files of the same study holds it, and the other one releases it whole.
    held = words.filter(pl.col("disposition") != "released")
    assert set(held["disposition"]) <= {"held"}
    assert set(held["reason"]) <= {"study_incomplete"}
    revisions = routed(machine, "bursts")
    assert revisions == contracts(machine, "5")
    assert len(revisions) == STUDIES
    assert sum(instances(machine, "5", study, numbers[-1]) for study, numbers in revisions.items()) == len(keys)
    assert 0 < in_queue(machine, settings.dead_letter_queue_url or "") <= teller.nonsense + 20
    done = runs(machine, "bursts")
    kinds = Counter((run["run_type"], run["state"]) for run in done)
    assert "failed" not in {state for _, state in kinds}
    assert kinds["asset_triggered", "success"] >= 2
    assert len(done) < 60
    with capsys.disabled():
        say(f"\n{len(keys)} objects, {len(done)} DAG runs: {dict(Counter(run['run_type'] for run in done))}")
        say(
            f"dispositions: {dict(Counter(words['disposition']))}; {sum(map(len, revisions.values()))} contracts routed"
        )
