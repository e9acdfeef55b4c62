"""The sample on a stack of deploy/cloudformation: its buckets, key, roles, queue and rule, with the rights they give.

Data stores and ledger are parameters: the emulator and SQLite. S3 judges what Airlock asks by the policies of the
workers' role, what the emulator asks by those of the import roles, and both by those of the buckets and their key.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from airlock.pipelines import Arrivals, ClinicalPipeline
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.clinical import write_clinical_sample
from airlock_local.settings import ROOT
from airlock_tasks.arrivals import QueueProducer
from tests.chain import CONTRACT, DATASTORE, RECORDS, Chain, Place
from tests.integration.conftest import place_beside
from tests.servers.guarded_s3 import guarded_s3
from tests.servers.moto import reset_moto
from tests.servers.stack import ACCOUNT, client, deploy, guard_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning"),  # what tests.servers.stack makes
]

TEMPLATES = ROOT / "deploy/cloudformation"
PARAMETERS = {
    "BucketPrefix": "st-elsewhere",
    "ArchiveBucket": "st-elsewhere-archive",
    "MakeArchive": "yes",
    "HealthImagingDatastoreId": DATASTORE,
    "HealthLakeDatastoreId": RECORDS,
    "WorkerPrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/airflow",
}
QUICK = {"poll_seconds": 1, "job_timeout_minutes": 5, "region_name": "us-east-1"}
NAMES_THE_REGION = {"s3:HeadBucket"}  # refused to who may list a prefix only, which names the Region all the same


@dataclass
class Deployed:
    """The stacks' outputs."""

    endpoint: str
    outputs: dict[str, str]

    def uri(self, output: str, below: str = "") -> str:
        return self.outputs[output] + below

    def deliver(self, files: dict[str, Path], below: str) -> None:
        """Upload files below a folder of the archive."""
        archive, s3 = S3Uri.parse(self.uri("ArchiveUri", below)), client("s3", self.endpoint)
        for name, path in files.items():
            s3.put_object(Bucket=archive.bucket, Key=archive.key + name, Body=path.read_bytes())

    def queue(self, output: str) -> str:
        """Return the address of a queue on the local server."""
        return f"{self.endpoint}/{ACCOUNT}/{self.outputs[output].rsplit('/', 1)[-1]}"

    def sections(self, name: str) -> dict[str, Any]:
        """Return the sections that all pipelines of the stack share."""
        return {
            "schema": "airlock.pipeline/1",
            "name": name,
            "source": {"uri": self.uri("ArchiveUri", f"{name}/")},
            "receive": {"mode": "quiet_period", "quiet_seconds": 0},
            "workspace": self.uri("WorkspaceUri"),
            "staging": {"uri": self.uri("StagingUri")},
            "settle_minutes": 0,
            "routes": [{"name": "contracts", "uri": self.uri("ContractsUri", f"{name}/")}],
            "audit": {"manifest_wait_seconds": 3, "brake": "off"},
        }


@pytest.fixture
def stack(s3_endpoint: str) -> Deployed:
    reset_moto(s3_endpoint)
    outputs = deploy(s3_endpoint, TEMPLATES / "airlock.yaml", "airlock", PARAMETERS)
    given = {name: outputs[name] for name in ("BucketKeyArn", "WorkerRoleName")}
    given["ArchiveBucket"] = PARAMETERS["ArchiveBucket"]
    return Deployed(s3_endpoint, outputs | deploy(s3_endpoint, TEMPLATES / "arrivals.yaml", "arrivals", given))


@contextmanager
def place_of(stack: Deployed, service_role: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Give an emulator that has the rights of a role of the stack, and tasks that have those of the workers' role.

    At the end, nobody may have been refused anything.
    """
    service, worker = (guard_of(stack.outputs[role], "airlock") for role in (service_role, "WorkerRoleArn"))
    with (
        guarded_s3(service) as for_service,
        guarded_s3(worker) as for_worker,
        place_beside(for_service, folder, monkeypatch) as made,
    ):
        connection = json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])
        connection["extra"]["endpoint_url"] = for_worker
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        yield Place(stack.endpoint, made.imaging_endpoint, made.ledger_url)
    assert service.asked
    assert [one for one in (*service.refused, *worker.refused) if one.operation not in NAMES_THE_REGION] == []


def written(write: Any, folder: Path) -> dict[str, Path]:
    """Return what a sample writes below a folder, by relative path."""
    write(folder)
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def agreed(name: str) -> Counter[tuple[str, str]]:
    """Return how often each disposition and reason was agreed on for a sample, without what is simply released."""
    rows = csv.DictReader((ROOT / f"tests/integration/golden/{name}.csv").read_text(encoding="utf-8").splitlines())
    return Counter((row["disposition"], row["reason"]) for row in rows if not row["key"].startswith("("))


def found(chain: Chain) -> Counter[tuple[str, str]]:
    return Counter((row["disposition"], row["reason"]) for row in chain.lines)


def test_the_records_of_the_sample_end_as_agreed(
    stack: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.deliver(written(write_clinical_sample, tmp_path / "sample"), "records/")
    chain_settings = {
        "datastore_id": stack.outputs["HealthLakeDatastoreId"],
        "data_access_role_arn": stack.outputs["FhirImportRoleArn"],
        "output_uri": stack.uri("OutputUri", "records/"),
        "kms_key_id": stack.outputs["BucketKeyArn"],
        "backoff_seconds": 0.1,
    }
    given = stack.sections("records") | {
        "kind": "clinical",
        "risk": CONTRACT,
        "parse": {"resource_mib": 1},
        "healthlake": chain_settings | QUICK,
    }
    given["source"] |= {"order": {"across_keys": "last_updated"}}
    with place_of(stack, "FhirImportRoleArn", tmp_path, monkeypatch) as place:
        chain = Chain(place, ClinicalPipeline.model_validate(given))
        assert chain.run()["balanced"]
        assert found(chain) == agreed("clinical")


def test_a_new_object_of_the_archive_wakes_a_run(stack: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Arrivals(
        queue_url=stack.queue("ArrivalsQueueUrl"),
        dead_letter_queue_url=stack.queue("ArrivalsDeadLettersUrl"),
        gather_seconds=0.2,
        region_name="us-east-1",
    )
    s3, archive = client("s3", stack.endpoint), S3Uri.parse(stack.uri("ArchiveUri"))
    for key in (f"{archive.key}images/a b+c.dcm", "elsewhere/a.dcm"):
        s3.put_object(Bucket=archive.bucket, Key=key, Body=b"x")

    async def read() -> Any:
        producer = QueueProducer(settings)
        stream = producer.open_stream()
        try:
            return await anext(stream)
        finally:
            await stream.aclose()
            await producer.aclose()

    connection = {"conn_type": "aws", "extra": {"endpoint_url": stack.endpoint, "region_name": "us-east-1"}}
    connection |= {"login": "testing", "password": "testing"}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    burst, _ = asyncio.run(asyncio.wait_for(read(), 60))
    assert burst.poison == 0
    assert [(made.bucket, made.key) for one in burst.notifications for made in one.created] == [
        (archive.bucket, f"{archive.key}images/a b+c.dcm")
    ]
