"""Runs the eight stages' own operators and triggers in the test process, against real servers, without a scheduler.

What stands in for Airflow is only the context: retries, deferral and XCom as the scheduler would give them.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import yaml
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airlock.ledger import Ledger
from airlock.pipelines import ImagingPipeline
from airlock.s3 import S3
from airlock.s3uri import S3Uri
from airlock_tasks.audit import AuditOperator
from airlock_tasks.buffer import BufferOperator
from airlock_tasks.import_ import ImportOperator
from airlock_tasks.normalize import NormalizeOperator
from airlock_tasks.parse import ParseOperator
from airlock_tasks.receive import ReceiveSensor
from airlock_tasks.route import RouteOperator
from airlock_tasks.validate import ValidateOperator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import BaseOperator

    from airlock.records import Window

DATASTORE = "d" * 32
ROLE = "arn:aws:iam::123456789012:role/import"
BUCKETS = ("archive", "workspace", "staging", "output", "contracts")
SAMPLE = Path(__file__).parents[1] / "include" / "pipelines" / "sample.yaml"


def pipeline(name: str = "nightly", **changes: Any) -> ImagingPipeline:
    """Return a pipeline over the test buckets; ``changes`` replace whole sections."""
    content: dict[str, Any] = {
        "schema": "airlock.pipeline/1",
        "name": name,
        "kind": "imaging",
        "source": {"uri": "s3://archive/in/"},
        "receive": {"mode": "quiet_period", "quiet_seconds": 0},
        "workspace": "s3://workspace/runs/",
        "staging": {"uri": "s3://staging/batches/"},
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


@dataclass
class Place:
    """The servers and the ledger that chains run against."""

    s3_endpoint: str
    imaging_endpoint: str
    ledger_url: str

    def s3(self) -> Any:
        """Return a plain boto3 client of the S3 server."""
        return boto3.client("s3", endpoint_url=self.s3_endpoint, region_name="us-east-1")

    def put(self, files: dict[str, bytes], prefix: str = "in/") -> None:
        """Deliver files."""
        client = self.s3()
        for name, body in files.items():
            client.put_object(Bucket="archive", Key=prefix + name, Body=body)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """List a bucket."""
        wrapped = S3(boto3.Session(region_name="us-east-1"), self.s3())
        return [item.key for item in wrapped.list_objects(S3Uri(bucket, prefix))]

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

    def ledger(self) -> Ledger:
        """Open the ledger."""
        return Ledger.open(self.ledger_url)


class StateStore(dict[str, Any]):
    """Airflow's task state store: JSON values, no None."""

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self[key] = json.loads(json.dumps(value))


@dataclass
class Chain:
    """One DAG run of a pipeline."""

    place: Place
    pipeline: ImagingPipeline
    run_id: str = "manual__2026-11-24T00:00:00+00:00"
    params: dict[str, Any] = field(default_factory=dict)
    window: Window | None = None
    tries: int = 4
    xcom: dict[tuple[str, int], Any] = field(default_factory=dict)
    stores: dict[tuple[str, int], StateStore] = field(default_factory=lambda: defaultdict(StateStore))
    errors: list[BaseException] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Run all eight stages, stop where a stage fails as Airflow would, audit all the same; return the report."""
        try:
            self.until("import")
        except Exception as error:  # noqa: BLE001  (as Airflow: the audit runs whatever failed before)
            self.errors.append(error)
        self.stage("audit")
        self.stage("route")
        return self.report

    def until(self, last: str) -> None:
        """Run the stages up to this one."""
        for name in ("receive", "buffer", "parse", "validate", "normalize", "import"):
            self.stage(name)
            if name == last:
                return

    def stage(self, name: str) -> None:
        """Run one stage, all its mapped tasks."""
        for index, operator in enumerate(self._operators(name)):
            self.xcom[name, index] = self.task(operator, index)

    def _operators(self, name: str) -> Iterable[BaseOperator]:
        plain = {
            "receive": ReceiveSensor,
            "buffer": BufferOperator,
            "validate": ValidateOperator,
            "normalize": NormalizeOperator,
            "audit": AuditOperator,
        }
        if name in plain:
            return [plain[name](task_id=name, pipeline=self.pipeline)]
        if name == "parse":
            shards = self.xcom["buffer", 0]
            return [ParseOperator(task_id=name, pipeline=self.pipeline, shard=shard) for shard in shards]
        if name == "import":
            return [
                ImportOperator(task_id=name, pipeline=self.pipeline, batch_id=batch)
                for batch in self.xcom["normalize", 0]
            ]
        return [RouteOperator(task_id=name, pipeline=self.pipeline, asset=Asset("contracts"))]

    def task(self, operator: BaseOperator, index: int) -> Any:
        """Run one task with retries and deferrals."""
        for left in reversed(range(self.tries)):
            try:
                return self._attempt(operator, index)
            except AirflowFailException:
                raise
            except Exception as error:
                self.errors.append(error)
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _attempt(self, operator: BaseOperator, index: int) -> Any:
        context = self.context(operator.task_id, index)
        method, arguments = operator.execute, {}
        while True:
            try:
                return method(context, **arguments)
            except TaskDeferred as deferred:
                event = asyncio.run(_first_event(deferred.trigger))
                method = getattr(operator, deferred.method_name)
                arguments = {**(deferred.kwargs or {}), "event": event}

    def context(self, task_id: str, index: int) -> dict[str, Any]:
        """Return what Airflow would hand to the task."""
        interval = self.window
        return {
            "params": {"prefix": None, "window_start": None, "window_end": None, **self.params},
            "run_id": self.run_id,
            "dag_run": SimpleNamespace(
                run_type="scheduled" if interval else "manual",
                data_interval_start=interval.start if interval else None,
                data_interval_end=interval.end if interval else None,
            ),
            "ti": _TaskInstance(self, task_id, index),
            "task_state_store": self.stores[task_id, index],
            "outlet_events": defaultdict(SimpleNamespace),
        }

    @property
    def report(self) -> dict[str, Any]:
        """The run's report.json."""
        return json.loads(self._audited("report_uri"))

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """The rows of the run's dispositions.csv by key below the source."""
        text = self._audited("dispositions_uri").decode()
        return {row["key"].removeprefix("in/"): row for row in csv.DictReader(io.StringIO(text))}

    def _audited(self, name: str) -> bytes:
        uri = S3Uri.parse(self.xcom["audit", 0][name])
        return self.place.s3().get_object(Bucket=uri.bucket, Key=uri.key)["Body"].read()


class _TaskInstance:
    """The part of a task instance that operators use."""

    def __init__(self, chain: Chain, task_id: str, index: int) -> None:
        self.chain = chain
        self.dag_id, self.run_id, self.task_id = chain.pipeline.name, chain.run_id, task_id
        self.map_index = index if task_id in {"parse", "import"} else -1

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        if key == "return_value":
            self.chain.xcom[self.task_id, max(self.map_index, 0)] = value

    def xcom_pull(self, task_ids: str, **_: Any) -> Any:
        return self.chain.xcom[task_ids, 0]


async def _first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
