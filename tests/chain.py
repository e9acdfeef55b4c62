"""Runs a pipeline's own DAG, operators and triggers, in the test process, against real servers, without a scheduler.

What stands in for Airflow is only the context: order, trigger rules, retries, deferral, XCom and a person's answer to a
question, as the scheduler would give them.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import yaml
from airflow.sdk import Asset
from airflow.sdk.definitions._internal.expandinput import MappedArgument
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    DagRunTriggerException,
    DownstreamTasksSkipped,
    TaskAwaitingInput,
    TaskDeferred,
)
from airflow.sdk.execution_time.context import OutletEventAccessors
from botocore.config import Config

import ccda
import clinical
import imaging
from airlock.ccda.sign_off import sign_off
from airlock.imaging.adopt import ImageSets
from airlock.ledger import Adoption, Ledger, ReviewAnswer, ReviewRecord, SignOff
from airlock.ledger.reviews import ANSWERS, LEAST_OPENED
from airlock.pipelines import REVIEW_SUFFIX, CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock.run import run_key
from airlock.stages.adopt import adopt
from airlock.stages.decision_log import decide
from airlock.stages.review import answer as record_answer
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from tests.servers.objects import date_objects

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest
    from airflow.sdk import DAG, BaseOperator

    from airlock.pipelines import Pipeline
    from airlock.records import Window

DATASTORE = "d" * 32
RECORDS = "f" * 32  # the HealthLake data store
PROFILE = "c" * 32  # a published C-CDA profile
ROLE = "arn:aws:iam::123456789012:role/import"
BUCKETS = ("archive", "workspace", "staging", "output", "contracts")
SAMPLE = Path(__file__).parents[1] / "include" / "pipelines" / "sample.yaml"

HEALTHLAKE: dict[str, Any] = {
    "datastore_id": RECORDS,
    "data_access_role_arn": ROLE,
    "output_uri": "s3://output/fhir/",
    "kms_key_id": "alias/airlock",
    "region_name": "us-east-1",
    "poll_seconds": 1,
    "job_timeout_minutes": 1,
    "queued_timeout_minutes": 1,
    "backoff_seconds": 0.1,
}
CONTRACT = {"workflow": "contract", "why": "the tests of what may go downstream"}
MINIMAL: dict[str, Any] = {
    "risk": CONTRACT | {"workflow": "throughput"},
    "review": {"by": "data quality"},
    "audit": {"manifest_wait_seconds": 3, "on_hold": "review"},
}
PLACES: dict[str, Any] = {
    "schema": "airlock.pipeline/1",
    "source": {"uri": "s3://archive/in/"},
    "receive": {"mode": "quiet_period", "quiet_seconds": 0},
    "workspace": "s3://workspace/runs/",
    "staging": {"uri": "s3://staging/batches/"},
    "settle_minutes": 0,
}


def pipeline(name: str = "nightly", **changes: Any) -> ImagingPipeline:
    """Return a pipeline over the test buckets; ``changes`` replace whole sections."""
    content: dict[str, Any] = PLACES | {
        "name": name,
        "kind": "imaging",
        "healthimaging": {
            "datastore_id": DATASTORE,
            "data_access_role_arn": ROLE,
            "output_uri": "s3://output/imports/",
            "region_name": "us-east-1",
            "poll_seconds": 1,
            "job_timeout_minutes": 1,
        },
        "audit": {"manifest_wait_seconds": 3, "read_back_fraction": 1.0},
        "routes": [{"name": "contracts", "uri": "s3://contracts/studies/"}],
    }
    return ImagingPipeline.model_validate(yaml.safe_load(yaml.safe_dump(content | changes)))


def clinical_pipeline(name: str = "records", **changes: Any) -> ClinicalPipeline:
    """Return a pipeline of FHIR over the same buckets; ``changes`` replace whole sections."""
    return ClinicalPipeline.model_validate(_clinical(name) | changes)


def ccda_pipeline(name: str = "documents", **changes: Any) -> CcdaPipeline:
    """Return a pipeline of C-CDA documents; ``changes`` replace whole sections."""
    content = _clinical(name) | {
        "kind": "ccda",
        "source": PLACES["source"] | {"order": {"across_keys": "last_modified"}},
        "preview": True,
        "transformation": {
            "profile_id": PROFILE,
            "profile_version": 1,
            "min_coverage": 0,
            "output_uri": "s3://output/converted/",
            "poll_seconds": 1,
            "job_timeout_minutes": 1,
        },
        "review": {"by": "the clinical review team"},
    }
    return CcdaPipeline.model_validate(content | changes)


def _clinical(name: str) -> dict[str, Any]:
    return PLACES | {
        "name": name,
        "kind": "clinical",
        "source": PLACES["source"] | {"order": {"across_keys": "last_updated"}},
        "risk": CONTRACT,
        "healthlake": HEALTHLAKE,
        "audit": {"manifest_wait_seconds": 3},
        "routes": [{"name": "contracts", "uri": "s3://contracts/patients/"}],
    }


_building = threading.Lock()  # a DAG takes in what is made while it is open, in whatever thread


def build(pipeline: Pipeline) -> DAG:
    """Return a pipeline's DAG, as dags/ wires it."""
    return _module_of(pipeline).build(pipeline)


def _module_of(pipeline: Pipeline) -> Any:
    """Return the DAG file of a pipeline's kind."""
    if isinstance(pipeline, ImagingPipeline):
        return imaging
    return ccda if isinstance(pipeline, CcdaPipeline) else clinical


@dataclass
class Place:
    """The servers and the ledger that chains run against; the emulator answers for HealthLake too."""

    s3_endpoint: str
    imaging_endpoint: str
    ledger_url: str
    put_at: float = 0.0  # when files were delivered last
    was_read: bool = False  # by a task since then
    running: set[tuple[str, str]] = field(default_factory=set)  # DAG runs that go on, each by DAG and run id

    @cached_property
    def _s3(self) -> Any:
        return boto3.client("s3", endpoint_url=self.s3_endpoint, region_name="us-east-1")

    @cached_property
    def _wrapped(self) -> S3:
        return S3(boto3.Session(region_name="us-east-1"), self._s3)

    @cached_property
    def _fhir(self) -> HealthLakeFhirHook:
        return HealthLakeFhirHook(RECORDS, aws_conn_id="aws_default", region_name="us-east-1")

    def s3(self) -> Any:
        """Return a plain boto3 client of the S3 server."""
        return self._s3

    def put(self, files: dict[str, bytes], prefix: str = "in/") -> None:
        """Deliver files in one second, a later one than tasks have read: S3 dates objects to the second."""
        if self.was_read and int(time.time()) == int(self.put_at):
            time.sleep(1 - time.time() % 1)
        client = self.s3()
        for name, body in files.items():
            client.put_object(Bucket="archive", Key=prefix + name, Body=body)
        self.put_at, self.was_read = time.time(), False
        date_objects("archive", (prefix + name for name in files), datetime.fromtimestamp(self.put_at, UTC))

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """List a bucket."""
        return [item.key for item in self._wrapped.list_objects(S3Uri(bucket, prefix))]

    def take(self, bucket: str) -> dict[str, bytes]:
        """Empty a bucket and return what was in it."""
        client = self.s3()
        found = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in self.keys(bucket)}
        for key in found:
            client.delete_object(Bucket=bucket, Key=key)
        return found

    def give(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Put back what was taken."""
        for key, body in objects.items():
            self.s3().put_object(Bucket=bucket, Key=key, Body=body)

    def faults(self, *faults: dict[str, Any]) -> None:
        """Switch the emulator's faults."""
        httpx.put(f"{self.imaging_endpoint}/_localaws/faults", json=list(faults)).raise_for_status()

    def jobs(self) -> list[dict[str, Any]]:
        """Return every import job that the emulator ever started."""
        return httpx.get(f"{self.imaging_endpoint}/_localaws/calls").json()["jobs"]

    def calls(self, operation: str) -> int:
        """Return how often an operation was answered, whatever the answer was."""
        counted = httpx.get(f"{self.imaging_endpoint}/_localaws/calls").json()["operations"]
        return sum(counted.get(operation, {}).values())

    def healthlake(self) -> Any:
        """Return a plain boto3 client of HealthLake's control plane."""
        config = Config(inject_host_prefix=False)
        return boto3.client("healthlake", endpoint_url=self.imaging_endpoint, region_name="us-east-1", config=config)

    def fhir(self) -> HealthLakeFhirHook:
        """Return the FHIR REST API of the HealthLake data store."""
        return self._fhir

    def stored(self, name: str) -> dict[str, Any] | None:
        """Read a resource by its name, ``Patient/p1``; None if it is not there."""
        return self.fhir().read(*name.split("/"))

    def version(self, name: str) -> int:
        """Return how many versions of a resource there are; 0 if it is not there."""
        found = self.stored(name)
        return int(found["meta"]["versionId"]) if found else 0

    def contracts(self) -> list[dict[str, Any]]:
        """Return the contracts that were routed, in the order of their keys."""
        bodies = (self.s3().get_object(Bucket="contracts", Key=key)["Body"].read() for key in self.keys("contracts"))
        return [json.loads(body) for body in bodies]

    def routed(self) -> set[str]:
        """Return the references of the FHIR resources that were routed, ``Patient/p1``."""
        return {resource["reference"] for contract in self.contracts() for resource in contract["resources"]}

    def sign(self, pipeline: CcdaPipeline) -> None:
        """Sign for the version of the profile that a pipeline names."""
        profile = pipeline.transformation
        by = "a clinician", "compared with the documents", datetime.now(UTC)
        given = SignOff(profile.profile_id, profile.profile_version, "ten documents", 1.0, *by)
        with self.ledger() as ledger:
            if ledger.last_sign_off(pipeline.name, profile.profile_id, profile.profile_version) is None:
                sign_off(self._wrapped, pipeline, ledger, given)

    def ledger(self) -> Ledger:
        """Open the ledger."""
        return Ledger.open(self.ledger_url)


def adopt_images(place: Place) -> int:
    """Adopt the image sets that others have stored, as ``airlock ledger adopt`` does; return how many there are."""
    config = Config(inject_host_prefix=False)
    client = boto3.client(
        "medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config
    )
    decision = Adoption("a person", "others have filled it", datetime.now(UTC))
    with place.ledger() as ledger:
        return adopt(ledger, DATASTORE, ImageSets(client, DATASTORE), lambda: decision, lambda _: None)


class StateStore(dict[str, Any]):
    """Airflow's task state store: JSON values, no None."""

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self[key] = json.loads(json.dumps(value))


@dataclass
class Chain:
    """One DAG run of a pipeline."""

    place: Place
    pipeline: Pipeline
    run_id: str = "manual__2026-11-24T00:00:00+00:00"
    params: dict[str, Any] = field(default_factory=dict)
    window: Window | None = None
    tries: int = 4
    answer: dict[str, Any] | None = None  # a person's, to a question
    started: dict[str, DagRunTriggerException] = field(default_factory=dict)  # runs, as they were asked for
    xcom: dict[tuple[str, int], Any] = field(default_factory=dict)
    stores: dict[tuple[str, int], StateStore] = field(default_factory=lambda: defaultdict(StateStore))
    outlets: dict[tuple[str, int], OutletEventAccessors] = field(
        default_factory=lambda: defaultdict(OutletEventAccessors)
    )
    errors: list[BaseException] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)  # tasks that another one has skipped
    built: tuple[Pipeline, DAG] | None = None

    def __post_init__(self) -> None:
        """Have a person sign for the profile that converts documents; a test may name another version later."""
        if isinstance(self.pipeline, CcdaPipeline):
            self.place.sign(self.pipeline)

    @property
    def dag_id(self) -> str:
        """The name of the DAG."""
        return self.pipeline.name

    @property
    def dag(self) -> DAG:
        """The pipeline's DAG; a test may change the pipeline between two stages."""
        if self.built is None or self.built[0] is not self.pipeline:
            with _building:
                self.built = self.pipeline, build(self.pipeline)
        return self.built[1]

    def run(self) -> dict[str, Any]:
        """Run the whole DAG by its trigger rules and return the report; raise what failed last if the run failed."""
        return self.onward()

    def onward(self, first: str | None = None) -> dict[str, Any]:
        """Run a stage and all that follow it, as Airflow does when a task is cleared with its downstream."""
        tasks = self.dag.topological_sort()
        names = [task.task_id for task in tasks]
        for task in tasks[names.index(first) if first else 0 :]:
            if task.task_id in self.left_out:
                self.states[task.task_id] = "skipped"
                continue
            if not self._is_due(task):
                self.states[task.task_id] = "upstream_failed"
                continue
            try:
                self.stage(task.task_id)
            except AirflowSkipException:
                self.states[task.task_id] = "skipped"
            except Exception as error:  # noqa: BLE001  (as Airflow: the audit runs whatever failed before)
                self.errors.append(error)
                self.states[task.task_id] = "failed"
        if any("failed" in self.states.get(leaf.task_id, "") for leaf in self.dag.leaves):
            raise self.errors[-1]
        return self.report

    def _is_due(self, task: Any) -> bool:
        before = {self.states.get(name) for name in task.upstream_task_ids}
        if task.trigger_rule == "all_done":
            return True
        if task.trigger_rule == "none_skipped":
            return "skipped" not in before
        assert task.trigger_rule in {"all_success", "none_failed"}
        return not before & {"failed", "upstream_failed"}

    def until(self, last: str) -> None:
        """Run the stages up to this one."""
        for task in self.dag.topological_sort():
            try:
                self.stage(task.task_id)
            except AirflowSkipException:
                self.states[task.task_id] = "skipped"
            if task.task_id == last:
                return

    def stage(self, name: str) -> None:
        """Run one stage, all its mapped tasks; it is skipped if all of them are."""
        operators, skipped = list(self._operators(name)), 0
        for index, operator in enumerate(operators):
            try:
                self.xcom[name, index] = self.task(operator, index)
            except AirflowSkipException:
                skipped += 1
                if skipped == len(operators):
                    raise
        self.states[name] = "success"

    def _operators(self, name: str) -> Iterable[BaseOperator]:
        task = self.dag.get_task(name)
        group = task.get_closest_mapped_task_group()
        if group is not None:
            ((_, source),) = group._expand_input.value.items()
            return [_resolve(task, value) for value in self.xcom[source.operator.task_id, 0]]
        if not isinstance(task, MappedOperator):
            return [task.prepare_for_execution()]
        ((argument, source),) = task._get_specified_expand_input().value.items()
        return [task.unmap({argument: value}) for value in self.xcom[source.operator.task_id, 0]]

    def task(self, operator: BaseOperator, index: int) -> Any:
        """Run one task with retries and deferrals."""
        self.place.was_read = True
        for left in reversed(range(self.tries)):
            try:
                return self._attempt(operator, index)
            except (AirflowFailException, AirflowSkipException):
                raise
            except Exception as error:
                self.errors.append(error)
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _attempt(self, operator: BaseOperator, index: int) -> Any:
        self.outlets.pop((operator.task_id, index), None)
        context = self.context(operator.task_id, index)
        method, arguments = operator.execute, {}
        answers = [self.answer] if self.answer else []
        while True:
            try:
                return method(context, **arguments)
            except DagRunTriggerException as started:
                self.started[started.dag_run_id] = started
                return None
            except DownstreamTasksSkipped as skipped:
                self.left_out |= set(skipped.tasks)
                return None
            except TaskDeferred as deferred:
                event = asyncio.run(_first_event(deferred.trigger))
                method = getattr(operator, deferred.method_name)
                arguments = {**(deferred.kwargs or {}), "event": event}
            except TaskAwaitingInput as asked:
                if not answers:
                    raise  # the question is open: this try of the task is not over
                method = getattr(operator, asked.method_name)
                arguments = {**(asked.kwargs or {}), "event": answers.pop()}

    def context(self, task_id: str, index: int) -> dict[str, Any]:
        """Return what Airflow would hand to the task."""
        interval = self.window
        instance = _TaskInstance(self, task_id, index)
        return {
            "params": {"prefix": None, "window_start": None, "window_end": None, **self.params},
            "run_id": self.run_id,
            "dag_run": SimpleNamespace(
                run_type="scheduled" if interval else "manual",
                logical_date=interval.start if interval else None,
                data_interval_start=interval.start if interval else None,
                data_interval_end=interval.end if interval else None,
            ),
            "ti": instance,
            "task_instance": instance,
            "task_state_store": self.stores[task_id, index],
            "outlet_events": self.outlets[task_id, index],
        }

    def partitions(self, asset: str) -> set[str]:
        """Return the partitions that the task announce has told an asset of, in its last try."""
        told = [events for (task, _), events in self.outlets.items() if task == "announce"]
        return set().union(*(events[Asset(asset)].partition_keys for events in told))

    @property
    def report(self) -> dict[str, Any]:
        """The run's report.json."""
        return json.loads(self._audited("report_uri"))

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """The rows of the run's dispositions.csv by key below the source."""
        return {row["key"].removeprefix("in/"): row for row in self.lines}

    @property
    def lines(self) -> list[dict[str, str]]:
        """The rows of the run's dispositions.csv."""
        return list(csv.DictReader(io.StringIO(self._audited("dispositions_uri").decode())))

    @property
    def words(self) -> dict[str, tuple[str, str]]:
        """Disposition and reason of what is not simply released, by ``Type/id``, else by file and line."""
        return {_name(row): (row["disposition"], row["reason"]) for row in self.lines}

    def _audited(self, name: str) -> bytes:
        last = next(stage for stage in ("release", "fhir.audit", "audit") if (stage, 0) in self.xcom)
        uri = S3Uri.parse(self.xcom[last, 0][name])
        return self.place.s3().get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read()


@dataclass
class ReviewChain(Chain):
    """One run of the DAG that reminds people and applies their answers."""

    @property
    def dag_id(self) -> str:
        """The name of the DAG."""
        return f"{self.pipeline.name}{REVIEW_SUFFIX}"

    @property
    def dag(self) -> DAG:
        """The DAG of the pipeline's reviews."""
        if self.built is None or self.built[0] is not self.pipeline:
            with _building:
                self.built = self.pipeline, _module_of(self.pipeline).build_review(self.pipeline)
        return self.built[1]

    @property
    def report(self) -> dict[str, Any]:
        """The report of the run that was audited again; empty if there was none."""
        return super().report if ("release", 0) in self.xcom else {}


def answer_reviews(
    place: Place,
    pipeline: Pipeline,
    run_id: str | None = None,
    *,
    approved: bool = True,
    why: str = "seen",
    person: str = "a clinician",
) -> int:
    """Answer the waiting reviews of a pipeline, or of one of its runs, as people do; return their number."""
    key = None if run_id is None else run_key(pipeline.name, run_id)
    with place.ledger() as ledger:
        found = [one for one in ledger.open_reviews({pipeline.name}) if key in {None, one.run_key}]
        given = ReviewAnswer(approved, person, why)
        for one in found:
            open_samples(place, pipeline, ledger, one, person)
            if approved and one.needs_second:
                open_samples(place, pipeline, ledger, one, "a colleague")
                record_answer(place._wrapped, pipeline, ledger, [one], ReviewAnswer(approved, "a colleague", why))
        return sum(record_answer(place._wrapped, pipeline, ledger, [one], given) for one in found)


def open_samples(place: Place, pipeline: Pipeline, ledger: Ledger, review: ReviewRecord, person: str) -> None:
    """Open as many samples of a review as an answer needs; each leads to something."""
    for key, subject in list(review.samples.items())[:LEAST_OPENED]:
        assert ledger.where(subject).known_as

        def record(inner: Ledger, key: str = key) -> None:
            inner.open_sample(review.number, key, person)

        decide(place._wrapped, pipeline, ledger, record, ANSWERS)


def apply_answers(place: Place, pipeline: Pipeline, run_id: str = "scheduled__hour", **params: Any) -> ReviewChain:
    """Run the DAG that applies people's answers."""
    chain = ReviewChain(place, pipeline, run_id=run_id, params=params)
    chain.onward()
    return chain


def release(chain: Chain, why: str, *, approved: bool = True) -> dict[str, Any]:
    """Answer all reviews about a chain's run, apply the answers, and return the report of the run."""
    answer_reviews(chain.place, chain.pipeline, chain.run_id, approved=approved, why=why)
    apply_answers(chain.place, chain.pipeline)
    return chain.report


def _resolve(task: BaseOperator, value: Any) -> BaseOperator:
    """Return a task of a mapped group with the group's argument, as rendering its templates does."""
    resolved = task.prepare_for_execution()
    for name in resolved.template_fields:
        if isinstance(getattr(resolved, name), MappedArgument):
            setattr(resolved, name, value)
    return resolved


def _name(row: dict[str, str]) -> str:
    if row["resource_id"] and row["disposition"] != "duplicate":
        return f"{row['resource_type']}/{row['resource_id']}"
    return f"{row['key'].removeprefix('in/')}:{row['line']}".removesuffix(":")


def answer(choice: str, reason: str | None = None, person: str = "a clinician", **fields: Any) -> dict[str, Any]:
    """Return what Airflow hands to a question that a person has answered; ``fields`` are further ones of the form."""
    return {
        "chosen_options": [choice],
        "params_input": {"reason": reason, **fields},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "1", "name": person},
    }


def questions_to_people(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what Airflow will be told to ask people; its API server, which keeps the questions, is not here."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("airlock_tasks.questions.upsert_hitl_detail", lambda **question: asked.append(question))
    return asked


class _TaskInstance:
    """The part of a task instance that operators use."""

    def __init__(self, chain: Chain, task_id: str, index: int) -> None:
        self.chain = chain
        self.id = f"{task_id}-{index}"
        self.start_date = datetime.now(UTC)
        self.dag_id, self.run_id, self.task_id = chain.dag_id, chain.run_id, task_id
        self.map_index = index if task_id.rpartition(".")[2] in {"parse", "import", "announce"} else -1

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        if key == "return_value":
            self.chain.xcom[self.task_id, max(self.map_index, 0)] = value

    def xcom_pull(self, task_ids: str, **_: Any) -> Any:
        return self.chain.xcom.get((task_ids, 0))

    def get_dr_count(self, **_: Any) -> int:
        return 0  # no other run of the DAG waits

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        return "running" if (dag_id, run_id) in self.chain.place.running else "success"

    def get_task_states(self, task_ids: list[str], run_ids: list[str], **_: Any) -> dict[str, dict[str, str]]:
        done = {f"{task}_{index}": "success" for task, index in self.chain.xcom if task in task_ids}
        return dict.fromkeys(run_ids, done)


async def _first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
