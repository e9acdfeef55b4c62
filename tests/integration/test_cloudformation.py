"""The sample on a stack of deploy/cloudformation: its buckets, key, roles, queue and rule, with the rights they give.

Data stores and ledger are parameters: the emulator and SQLite. S3 judges what Airlock asks by the policies of the
workers' role, what the emulator asks by those of the import roles, and both by those of the buckets and their key.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from airlock.pipelines import Arrivals, ClinicalPipeline, ImagingPipeline
from airlock.storage.s3uri import S3Uri
from airlock_cli.app import app
from airlock_local.sample import pydicom_files, write_sample
from airlock_local.sample.clinical import write_clinical_sample
from airlock_local.settings import ROOT
from airlock_tasks.arrivals import QueueProducer
from tests.chain import DATASTORE, RECORDS, Chain, Place
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
Rows = dict[tuple[str, str], tuple[str, str]]  # by key and line: disposition and reason
# The pipeline file says `dedupe: hash`: equal files have different etags under the archive's key. A hash also proves
# what etags never do: a file of the sample that was sent again has the same pixels under another header.
READ_COPIES: Rows = {
    ("sakuragawa/2026-03-03/SK26000136/1/00000001", ""): ("released", ""),
    ("sakuragawa/resent/2026-03-03/SK26000136/1/00000001", ""): ("duplicate", "header_changed"),
}
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

    def etag(self, below: str) -> str:
        archive = S3Uri.parse(self.uri("ArchiveUri", below))
        return str(client("s3", self.endpoint).head_object(Bucket=archive.bucket, Key=archive.key)["ETag"])

    def queue(self, output: str) -> str:
        """Return the address of a queue on the local server."""
        return f"{self.endpoint}/{ACCOUNT}/{self.outputs[output].rsplit('/', 1)[-1]}"

    def pipeline(self, name: str, kind: str, folder: Path) -> dict[str, Any]:
        """Return the pipeline file that `airlock pipelines new` writes of the stacks, with the waits of a test."""
        asked = ["pipelines", "new", str(folder), "--name", name, "--kind", kind, "--connection", "aws_default"]
        asked += ["--source", self.uri("ArchiveUri", f"{name}/"), "--region", "us-east-1"]
        account = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }
        answer = CliRunner(env=account).invoke(app, [*asked, "--stack", "airlock", "--stack", "arrivals"])
        assert answer.exit_code == 0, answer.output
        made = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        made["healthimaging" if kind == "imaging" else "healthlake"] |= QUICK
        quick = {"receive": made["receive"] | {"quiet_seconds": 0}, "settle_minutes": 0}
        return made | quick | {"audit": {"manifest_wait_seconds": 3, "brake": "off"}}


@pytest.fixture
def stack(s3_endpoint: str, request: pytest.FixtureRequest) -> Deployed:
    """Deploy the stacks; a key that exists has the policy that KMS gives a key by itself."""
    reset_moto(s3_endpoint)
    wanted = PARAMETERS
    if getattr(request, "param", "") == "a key that leaves it to IAM":
        wanted = wanted | {"BucketKeyArn": client("kms", s3_endpoint).create_key()["KeyMetadata"]["Arn"]}
    outputs = deploy(s3_endpoint, TEMPLATES / "airlock.yaml", "airlock", wanted)
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


def agreed(name: str) -> Rows:
    """Return what was agreed on for each row of a sample; what is in no row is simply released."""
    rows = csv.DictReader((ROOT / f"tests/integration/golden/{name}.csv").read_text(encoding="utf-8").splitlines())
    return {
        (row["key"].removeprefix("in/"), row["line"]): (row["disposition"], row["reason"])
        for row in rows
        if not row["key"].startswith("(")
    }


def found(chain: Chain) -> Rows:
    """Return what became of each row, as `agreed` has it."""
    archive = S3Uri.parse(chain.pipeline.source.uri)
    return {
        (row["key"].removeprefix(archive.key), row.get("line", "")): (row["disposition"], row["reason"])
        for row in chain.lines
    }


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_the_images_of_the_sample_end_as_agreed(
    stack: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = written(write_sample, tmp_path / "sample") | {f"pydicom/{name}": path for name, path in pydicom_files()}
    stack.deliver(files, "images/")
    given = stack.pipeline("images", "imaging", tmp_path)
    given["audit"] = given.get("audit", {}) | {"read_back_fraction": 1.0}  # as where the dispositions were agreed
    with place_of(stack, "ImportRoleArn", tmp_path, monkeypatch) as place:
        chain = Chain(place, ImagingPipeline.model_validate(given))
        assert chain.run()["balanced"]
        assert found(chain) == agreed("sample") | READ_COPIES
        equal = [name for (name, _), (_, reason) in found(chain).items() if reason == "duplicate_same_content"]
        assert len(equal) == 2
        for name in equal:
            copies = [other for other, path in files.items() if path.read_bytes() == files[name].read_bytes()]
            assert len({stack.etag(f"images/{copy}") for copy in copies}) == 2


@pytest.mark.parametrize("stack", ["the key of the stack", "a key that leaves it to IAM"], indirect=True)
def test_the_records_of_the_sample_end_as_agreed(
    stack: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.deliver(written(write_clinical_sample, tmp_path / "sample"), "records/")
    given = stack.pipeline("records", "clinical", tmp_path)
    given["healthlake"]["backoff_seconds"] = 0.1
    with place_of(stack, "FhirImportRoleArn", tmp_path, monkeypatch) as place:
        chain = Chain(place, ClinicalPipeline.model_validate(given | {"parse": {"resource_mib": 1}}))
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
