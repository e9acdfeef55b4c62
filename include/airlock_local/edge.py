"""``make demo-edge``: a PACS sends the sample to the edge, runs wake, and the edge commits to what they import."""

from __future__ import annotations

import csv
import io
import re
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from airlock.pipelines import ImagingPipeline
from airlock.reasons import Reason
from airlock.run import run_key
from airlock.storage.s3uri import S3Uri
from airlock_cli.airflow_api import AirflowApi
from airlock_cli.watch import StalledError
from airlock_local.buckets import is_local, local_client, make_buckets
from airlock_local.choice import choose
from airlock_local.components import plan
from airlock_local.deliver import SourceError, sample_files
from airlock_local.environment import LOCAL_KEY, LOCAL_SECRET, REGION, USER, inherited, read_secrets
from airlock_local.pacs import MISSING, PROGRAM, TITLE, Pacs, free_port
from airlock_local.processes import end_processes, launch
from airlock_local.progress import say
from airlock_local.queues import make_queues
from airlock_local.run import await_dag, check_alive
from airlock_local.settings import LOOPBACK, ROOT
from airlock_local.stack import Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from airlock_local.choice import Choice
    from airlock_local.pacs import Committed
    from airlock_local.processes import Running
    from airlock_local.settings import Settings

PIPELINE = "edge"
EDGE_TITLE = "AIRLOCK"
PYTHON = ROOT / ".venv/edge/bin/python"  # an environment of its own: make run needs nothing of the edge
_LOOK_EVERY = 1.0  # seconds
_READY_SECONDS = 60
_QUIET_SECONDS = 3
_ENDED = frozenset({"success", "failed"})
_SAFE = frozenset({"released", "held"})  # dispositions of instances that the audit has proven in the data store, but:
_IN_DOUBT = frozenset({Reason.READ_BACK_MISMATCH, Reason.JOB_COUNTS_DISAGREE, Reason.VERSION_ABOVE_ONE})
_NEVER_IMPORTED = frozenset({Reason.IDENTITY_CHANGED, Reason.HEADER_CHANGED})  # copies that wait for a person
_SAME = Reason.DUPLICATE_SAME_CONTENT
_REFUSED = {0x0110: "refused: not imported", 0x0112: "refused: unknown to the edge", 0x0119: "refused: other class"}


def demonstrate(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the demonstration of ``make demo-edge``.

    Returns
    -------
    int
        0 if each instance was stored, imported or quarantined, and committed or not, as it should be; else 1.

    Raises
    ------
    PipelineError, SourceError
        The request is wrong; nothing was started.
    StackError, RunError, ApiError, StalledError
        It failed later.
    """
    if shutil.which(PROGRAM) is None:
        raise SourceError(MISSING)
    choice = choose(settings.pipelines, PIPELINE, "", environment)
    pipeline = choice.pipeline
    if not is_local(pipeline) or not isinstance(pipeline, ImagingPipeline) or not (pipeline.arrivals and pipeline.edge):
        raise SourceError(f"Keep the local connection, arrivals and edge in pipeline {PIPELINE!r}: the demo uses them.")
    Stack(settings).up(plan(settings, environment, choice.seeds(), local=True, account=False))
    s3, sqs = local_client(settings.s3_url), local_client(settings.s3_url, "sqs")
    make_buckets(s3, choice.buckets())
    make_queues(sqs, s3, pipeline, pipeline.arrivals)
    sqs.create_queue(QueueName=pipeline.edge.queue_url.rsplit("/", 1)[-1])
    with AirflowApi(settings.api_url, USER, read_secrets(settings).password) as api, ExitStack() as parts:
        api.log_in()
        for pool in choice.pools(settings.parallelism):
            api.make_pool(pool.name, pool.slots, pool.description)
        await_dag(api, choice, settings)
        earlier = frozenset(run["dag_run_id"] for run in api.runs(PIPELINE))
        api.unpause(PIPELINE)
        folder = settings.var / "edge"
        pacs = parts.enter_context(Pacs(folder / "pacs", environment))
        edge = Edge.write(folder, settings, pipeline, pacs.port)
        parts.callback(end_processes, [edge.start(environment)])
        return Demonstration(settings, api, s3, choice, earlier, edge).show(pacs)


@dataclass(frozen=True)
class Edge:
    """The edge of one demonstration, with a site and a state folder of its own."""

    file: Path
    state: Path
    prefix: S3Uri  # of its objects
    port: int
    metrics_port: int

    @classmethod
    def write(cls, folder: Path, settings: Settings, pipeline: ImagingPipeline, pacs_port: int) -> Edge:
        """Write the settings file of a new edge."""
        site = f"demo-{datetime.now(UTC):%Y%m%dt%H%M%S}"
        source, file = S3Uri.parse(pipeline.source.uri), folder / f"{site}.yaml"
        port, metrics_port = free_port(), free_port()
        content = {
            "schema": "airlock.edge/1",
            "site": site,
            "state": str(folder / site),
            "listen": {"address": LOOPBACK, "port": port, "ae_title": EDGE_TITLE},
            "peers": [{"ae_title": TITLE, "addresses": [LOOPBACK], "reports_to": f"{LOOPBACK}:{pacs_port}"}],
            "destination": {"uri": str(source), "region_name": REGION, "endpoint_url": settings.s3_url},
            "metrics_port": metrics_port,
            "manifests": {"quiet_seconds": _QUIET_SECONDS},
            "commitment": {
                "queue_url": pipeline.edge.queue_url if pipeline.edge else None,
                "endpoint_url": settings.s3_url,
                "unknown_minutes": 0,
            },
        }
        file.write_text(yaml.safe_dump(content))
        return cls(file, folder / site, source.join(site, ""), port, metrics_port)

    def start(self, environment: Mapping[str, str]) -> Running:
        """Start the edge and wait until it listens.

        Raises
        ------
        StackError
            If it does not.
        """
        credentials = {"AWS_ACCESS_KEY_ID": LOCAL_KEY, "AWS_SECRET_ACCESS_KEY": LOCAL_SECRET}
        own = inherited(environment, account=False) | credentials | {"PYTHONPATH": str(ROOT / "include")}
        argv = (str(PYTHON), "-m", "airlock_edge", "run", str(self.file))
        running, _ = launch(argv, own, self.file.parent, self.file.with_suffix(".log"))
        until = time.monotonic() + _READY_SECONDS
        while running.is_alive() and not running.listens_on(self.port):
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        if not running.listens_on(self.port):
            end_processes([running])
            raise StackError(f"The edge does not listen. The end of its log:\n{running.log_tail()}")
        return running

    def log(self) -> str:
        """Return its log."""
        return self.file.with_suffix(".log").read_text(errors="replace")

    def metrics(self) -> str:
        """Return its metrics as they are now."""
        with httpx.Client(trust_env=False) as http:
            return http.get(f"http://{LOOPBACK}:{self.metrics_port}/metrics").raise_for_status().text

    def keys(self) -> set[str]:
        """Return the keys of the objects that it has acknowledged."""
        return {key for (key,) in self._ask("SELECT s3_key FROM received")}

    def newest(self) -> dict[str, str]:
        """Return the key of the content that came last of each instance, by its SOP Instance UID."""
        return dict(self._ask("SELECT sop_instance_uid, s3_key FROM newest"))

    def _ask(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.state / "book.sqlite")) as book:
            return book.execute(query).fetchall()


@dataclass
class Demonstration:
    """What the demonstration sends, waits for and compares."""

    settings: Settings
    api: AirflowApi
    s3: Any
    choice: Choice
    earlier: frozenset[str]
    edge: Edge
    told: int = 0  # of the runs

    def show(self, pacs: Pacs) -> int:
        """Send the sample, wait for the runs and for the commitment, and print and compare what became of it."""
        files = sample_files(self.settings.var / "sample", self.choice.pipeline.kind)
        names = sorted({name for file in files if (name := pacs.take(file.path.read_bytes())) is not None})
        say(f"The PACS has taken {len(names)} instances of the {len(files)} files of the sample.")
        pacs.send(names, EDGE_TITLE, self.edge.port)
        say(f"The edge has acknowledged {len(self.edge.keys())} objects. The PACS asks it to commit to all instances.")
        asked = pacs.ask_commitment(names)
        answer = self._wait_for("the edge's answer has come", lambda: pacs.commitment(asked))
        self._wait_for("every run has ended", self._have_ended)
        uids = {pacs.find_uid(name) for name in names}
        return self._compare(answer, len(uids), pacs.list_identifiers() | uids)

    def _wait_for(self, what: str, find: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 60 * self.settings.stall_minutes
        while not (found := find()):
            check_alive(self.settings)
            if (runs := len(self._runs())) > self.told:
                self.told = runs
                say(f"Run {runs} was started by a manifest of the edge, by no person.")
            if time.monotonic() > deadline:
                raise StalledError(
                    f"Waited {self.settings.stall_minutes:g} minutes in vain until {what}. See the DAG {PIPELINE}, and "
                    f"{self.edge.file.with_suffix('.log')}, or set AIRLOCK_STALL_MINUTES to a higher number."
                )
            time.sleep(_LOOK_EVERY)
        return found

    def _runs(self) -> list[dict[str, Any]]:
        """Return the new runs that no person started."""
        runs = [run for run in self.api.runs(PIPELINE) if run["dag_run_id"] not in self.earlier]
        return [run for run in runs if run["run_type"] in {"asset_triggered", "scheduled"}]

    def _have_ended(self) -> bool:
        return all(run["state"] in _ENDED for run in self._runs())

    def _dispositions(self) -> dict[str, tuple[str, str]]:
        """Return disposition and reason by key, as the last run has decided."""
        root = S3Uri.parse(self.choice.pipeline.workspace).join(PIPELINE, "")
        found: dict[str, tuple[str, str]] = {}
        for run in sorted(self._runs(), key=lambda one: str(one["start_date"])):
            uri = root.join(run_key(PIPELINE, run["dag_run_id"]), "audit/dispositions.csv")
            text = self.s3.get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read().decode()
            found |= {row["key"]: (row["disposition"], row["reason"]) for row in csv.DictReader(io.StringIO(text))}
        return found

    def _compare(self, answer: Committed, asked: int, identifiers: set[str]) -> int:
        received, dispositions = self.edge.keys(), self._dispositions()
        outcomes = {uid: dispositions[key] for uid, key in self.edge.newest().items() if key in dispositions}
        for line in list_outcomes(answer, outcomes):
            say(line)
        all_keys = list(self._list_keys())
        stored = {key for key in all_keys if key.endswith(".dcm")}
        counts = {"asked": asked, "received": len(received), "stored": len(stored)}
        problems = list(find_problems(answer, outcomes, decided=len(received & dispositions.keys()), **counts))
        places = {"log": self.edge.log(), "metrics": self.edge.metrics(), "keys": "\n".join(all_keys)}
        problems += find_leaks(identifiers, places)
        for problem in problems:
            say(problem)
        say(f"UI: {self.settings.api_url} (user {USER}, password {read_secrets(self.settings).password})")
        say("NOT AS IT SHOULD BE." if problems else "All as it should be.")
        return 1 if problems else 0

    def _list_keys(self) -> Iterator[str]:
        where = {"Bucket": self.edge.prefix.bucket, "Prefix": self.edge.prefix.key}
        for page in self.s3.get_paginator("list_objects_v2").paginate(**where):
            yield from (item["Key"] for item in page.get("Contents", []))


def describe_answer(answer: Committed, uid: str) -> str:
    """Return the edge's answer about an instance, for the table."""
    if uid in answer.succeeded:
        return "committed"
    return _REFUSED.get(answer.failed.get(uid, -1), "not answered")


def is_safe(disposition: str, reason: str) -> bool:
    """Return whether the edge should commit to an instance."""
    if disposition == "duplicate":
        return reason == _SAME
    return disposition in _SAFE and reason not in _IN_DOUBT | _NEVER_IMPORTED


def list_outcomes(answer: Committed, outcomes: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Yield the lines of a table: what Airlock decided, what the edge answered, and about how many instances."""
    known = {uid: disposition for uid, (disposition, _) in outcomes.items()}
    uids = {*answer.succeeded, *answer.failed, *known}
    counted = Counter((known.get(uid, "never received"), describe_answer(answer, uid)) for uid in uids)
    yield ""
    yield f"  {'instances':>9}  {'Airlock decided':<16}  the edge answered"
    for (disposition, told), number in sorted(counted.items()):
        yield f"  {number:>9}  {disposition:<16}  {told}"
    yield f"  {counted.total():>9}  in total"
    yield ""


def find_problems(
    answer: Committed, outcomes: Mapping[str, tuple[str, str]], *, asked: int, received: int, stored: int, decided: int
) -> Iterator[str]:
    """Yield a sentence about each number that is not as it should be."""
    answered = len(answer.succeeded | answer.failed.keys())
    if answered != asked:
        yield f"The PACS asked about {asked} instances, and the answer has {answered}."
    if not received == stored == decided:
        yield f"The edge acknowledged {received} objects, S3 has {stored}, and runs have decided about {decided}."
    wrong = [uid for uid, word in outcomes.items() if is_safe(*word) is not (uid in answer.succeeded)]
    if wrong:
        yield f"{len(wrong)} instances were not answered as Airlock decided. See airlock-edge uncommitted."
    unknown = answer.succeeded - outcomes.keys()
    if unknown:
        yield f"{len(unknown)} instances were committed about which no run has decided."


def find_leaks(identifiers: Iterable[str], places: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence about each place, by its name, whose text has an identifier of a patient or study.

    An identifier counts where it stands alone; a shorter one than five characters may be any number.
    """
    sought = [re.compile(rf"(?<![\w.]){re.escape(one)}(?![\w.])", re.IGNORECASE) for one in identifiers if len(one) > 4]
    for place, text in places.items():
        found = sum(one.search(text) is not None for one in sought)
        if found:
            yield f"{found} identifiers of the sample are in the edge's {place}, where none should be."
